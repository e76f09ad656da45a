//! Texts held to schemas and grammars, with the toy's vocabulary.

use std::sync::OnceLock;

mod numbers;
mod sizes;

use super::*;
use crate::tokenizer::Tokenizer;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_gguf(&crate::model::builtin()).unwrap())
}

fn grammars() -> Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(tokenizer())).clone()
}

fn accepts(language: &Language, text: &str) -> bool {
    let grammar =
        grammars().compile(language).unwrap_or_else(|error| panic!("{language:?}: {error}"));
    let mut matcher = grammar.start();
    let ids = tokenizer().encode(text);
    matcher.take(&ids).unwrap() == ids.len() && matcher.can_end().unwrap()
}

fn schema_accepts(schema: &str, text: &str) -> bool {
    accepts(&Language::JsonSchema(schema.to_owned()), text)
}

/// A schema, values that obey it, and values that don't.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    (r#"{}"#, &["1", "null", r#"{"a": [1, "x"]}"#], &["", "01", "{]"]),
    ("true", &["1", "[]"], &["x"]),
    (
        r#"{"type": "integer"}"#,
        &["0", "-17", "1300000000000000001", "-9000000000000000000"],
        &["1.5", "\"1\"", "1e3", "9000000000000000001", "12345678901234567890"],
    ),
    (r#"{"type": ["string", "null"]}"#, &["\"\"", "null"], &["1", "true"]),
    (r#"{"minimum": 3, "maximum": 12.5}"#, &["3", "12.5", "4.25"], &["2", "13", "12.51", "\"a\""]),
    (
        r#"{"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 2}"#,
        &["-1", "1"],
        &["-2", "2"],
    ),
    (r#"{"type": "integer", "minimum": 1, "exclusiveMinimum": true}"#, &["2"], &["1"]),
    (r#"{"type": "number", "multipleOf": 0.25}"#, &["0.75", "3", "1.25"], &["0.3"]),
    (r#"{"type": "integer", "multipleOf": 7}"#, &["0", "49", "-7"], &["8"]),
    (
        r#"{"enum": ["a", 1, null, {"b": [true]}]}"#,
        &["\"a\"", "1", "null", r#"{"b": [true]}"#],
        &["2", "\"b\""],
    ),
    (r#"{"const": "say \"\"\" and \n\\ é"}"#, &[r#""say \"\"\" and \n\\ é""#], &["\"say\""]),
    (
        r#"{"type": "string", "minLength": 2, "maxLength": 3}"#,
        &["\"ab\"", "\"éé😀\""],
        &["\"a\"", "\"abcd\""],
    ),
    (r#"{"pattern": "^a\\d+$"}"#, &["\"a12\""], &["\"a\"", "\"ba1\"", "\"a١\""]),
    (r#"{"pattern": "b"}"#, &["\"b\"", "\"abc\""], &["\"a\""]),
    (r#"{"pattern": "^(a|b)/[^/\\s]{2}$"}"#, &["\"a/xy\""], &["\"a/x\"", "\"a/x \""]),
    (
        r#"{"format": "date"}"#,
        &["\"2024-02-29\"", "\"2023-12-31\""],
        &["\"2023-02-29\"", "\"2023-13-01\"", "1"],
    ),
    (
        r#"{"type": "string", "format": "date-time"}"#,
        &["\"2024-02-29T23:59:59Z\"", "\"1999-01-01T00:00:00.5+01:00\""],
        &["\"2024-02-29\"", "\"2024-02-29T24:00:00Z\""],
    ),
    (
        r#"{"type": "string", "format": "uuid"}"#,
        &["\"123e4567-e89b-12d3-a456-426614174000\""],
        &["\"123\""],
    ),
    (r#"{"type": "string", "format": "ipv4"}"#, &["\"127.0.0.1\""], &["\"256.0.0.1\""]),
    (
        r#"{"type": ["string", "integer"], "format": "time", "pattern": "^1"}"#,
        &["\"12:00:00Z\"", "5"],
        &["\"02:00:00Z\"", "\"1\""],
    ),
    (
        r#"{"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}"#,
        &["[1]", "[1, 2]"],
        &["[]", "[1, 2, 3]", "[1,2]", "[ 1]"],
    ),
    (
        r#"{"prefixItems": [{"const": 1}, {"type": "string"}], "items": false, "minItems": 2}"#,
        &["[1, \"a\"]"],
        &["[1]", "[1, \"a\", 2]"],
    ),
    (
        r#"{"items": [{"const": 1}], "additionalItems": {"type": "null"}}"#,
        &["[1, null]", "[]"],
        &["[1, 2]", "[2]"],
    ),
    (
        r#"{"properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": false}"#,
        &[r#"{"a": 1, "b": true}"#, r#"{"b": false}"#],
        &["{}", r#"{"a": 1}"#, r#"{"b": true, "c": 1}"#, r#"{"b":true}"#, "5"],
    ),
    (
        r#"{"type": "object", "properties": {"a": {"type": "integer"}}}"#,
        &[r#"{"a": 1, "z": null}"#, "{}"],
        &[r#"{"a": "x"}"#, r#"{"\u0061": "x"}"#],
    ),
    (
        r#"{"additionalProperties": {"type": "integer"}}"#,
        &[r#"{"x": 1, "y": 2}"#],
        &[r#"{"x": "1"}"#],
    ),
    (
        r#"{"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": false}"#,
        &[r#"{"n_a": 1}"#, "{}"],
        &[r#"{"n_a": "b"}"#, r#"{"a": 1}"#],
    ),
    (
        r#"{"type": "object", "minProperties": 1, "propertyNames": {"type": "string"}}"#,
        &[r#"{"a": 1}"#],
        &["{}"],
    ),
    (r#"{"type": "object", "maxProperties": 1}"#, &["{}", r#"{"a": 1}"#], &[r#"{"a": 1, "b": 1}"#]),
    (r#"{"anyOf": [{"type": "integer"}, {"const": "none"}]}"#, &["3", "\"none\""], &["\"some\""]),
    (r#"{"allOf": [{"type": "integer"}, {"minimum": 3}], "maximum": 4}"#, &["3", "4"], &["2", "5"]),
    (
        r#"{"oneOf": [{"type": "string"}, {"type": "integer"}], "anyOf": [{"const": "a"}, {"const": 2}, {"const": true}]}"#,
        &["\"a\"", "2"],
        &["true", "\"b\""],
    ),
    (
        r##"{"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"},
        "$defs": {"cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"], "additionalProperties": false},
                  "dog": {"type": "object", "properties": {"kind": {"const": "dog"}, "age": {"type": "integer"}}, "required": ["kind", "age"]}}}"##,
        &[r#"{"kind": "cat"}"#, r#"{"kind": "dog", "age": 3}"#],
        &[r#"{"kind": "dog"}"#, r#"{"kind": "cow"}"#],
    ),
    (
        r##"{"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"type": "null", "title": "x"}}}"##,
        &["null"],
        &["1"],
    ),
    (
        r##"{"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}}, "required": ["name"], "additionalProperties": false}"##,
        &[r#"{"name": "a", "next": {"name": "b"}}"#],
        &[r#"{"next": {"name": "b"}}"#, r#"{"name": "a", "next": {}}"#],
    ),
    (
        r##"{"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://x/y", "title": "T", "description": "D", "default": {"not": 1},
        "examples": [1], "deprecated": true, "readOnly": true, "$comment": "c", "x-order": 1, "uniqueItems": false, "nullable": false, "type": "boolean"}"##,
        &["true"],
        &["1"],
    ),
    (
        r#"{"type": "object", "properties": {"a": false, "not": {"type": "null"}}}"#,
        &[r#"{"not": null}"#, "{}"],
        &[r#"{"a": 1}"#, r#"{"not": 1}"#],
    ),
];

#[test]
fn schemas_accept_what_obeys_them() {
    for (schema, good, bad) in CASES {
        for text in *good {
            assert!(schema_accepts(schema, text), "{schema} should accept {text}");
        }
        for text in *bad {
            assert!(!schema_accepts(schema, text), "{schema} should not accept {text}");
        }
    }
}

fn refusal(schema: &str) -> String {
    match grammars().compile(&Language::JsonSchema(schema.to_owned())) {
        Ok(_) => panic!("{schema} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_with_a_pointer() {
    let cases = [
        (r#"{"properties": {"a": {"not": {}}}}"#, "#/properties/a/not: "),
        (r#"{"items": {"if": {}, "then": {}}}"#, "#/items/if: "),
        (r#"{"items": {"unknown": 1}}"#, "#/items/unknown: not a keyword"),
        (r#"{"x-guidance": {"lenient": true}}"#, "#/x-guidance: "),
        (r#"{"type": "array", "uniqueItems": true}"#, "#/uniqueItems: only false"),
        (r#"{"contains": {}}"#, "#/contains: "),
        (r#"{"dependentRequired": {}}"#, "#/dependentRequired: "),
        (r#"{"unevaluatedProperties": false}"#, "#/unevaluatedProperties: "),
        (r#"{"propertyNames": {"maxLength": 3}}"#, "#/propertyNames: "),
        (r#"{"type": "string", "nullable": true}"#, "#/nullable: "),
        (r#"{"format": "idn-email"}"#, "#/format: the format \"idn-email\" cannot"),
        (r#"{"format": "unknown"}"#, "#/format: "),
        (r#"{"pattern": "(?=a)b"}"#, "#/pattern: looking around"),
        (r#"{"pattern": "(a)\\1"}"#, "#/pattern: the back-reference"),
        (r#"{"pattern": "^+"}"#, "#/pattern: there is nothing"),
        (r#"{"pattern": "a\\bb"}"#, "#/pattern: the word boundary"),
        (r#"{"properties": {"x/y": {"pattern": "a^b"}}}"#, "#/properties/x~1y: "),
        (r#"{"minItems": 1e9}"#, "#/minItems: 1000000000 is more"),
        (r#"{"minItems": -1}"#, "#/minItems: expected a whole number"),
        (r#"{"multipleOf": 1e-300}"#, "#/multipleOf: "),
        (r#"{"multipleOf": 0}"#, "#/multipleOf: expected a number above 0"),
        (r#"{"multipleOf": 1000003}"#, "#/multipleOf: steps"),
        (r#"{"minimum": -1e300}"#, "#/minimum: "),
        (r#"{"const": 1e300}"#, "#/const: "),
        (r#"{"type": "strin"}"#, "#/type: "),
        (r#"{"type": []}"#, "#/type: "),
        (r#"{"enum": []}"#, "#/enum: "),
        (r#"{"anyOf": []}"#, "#/anyOf: "),
        (r#"{"anyOf": [{"type": "integer"}, {"anyOf": [7]}]}"#, "#/anyOf/1/anyOf/0: a schema is"),
        (r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#, "#/oneOf: options 0 and 1"),
        (r#"{"minProperties": 3, "required": ["a"]}"#, "#/minProperties: 3 is more"),
        (r#"{"properties": {"a": 1}}"#, "#/properties/a: a schema is"),
        (r#"{"$ref": "https://example.com/x"}"#, "#/$ref: \"https://example.com/x\" is not"),
        (r##"{"$ref": "#anchor"}"##, "#/$ref: "),
        (r##"{"items": {"$ref": "#/$defs/no"}}"##, "#/items/$ref: \"#/$defs/no\" leads nowhere"),
        (r#"{"items": {"$id": "x"}}"#, "#/items/$id: "),
        (r##"{"$ref": "#"}"##, "#: no value that ends"),
        (
            r##"{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}"##,
            "#: no value that ends",
        ),
        (
            r##"{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}"##,
            "#: no value that ends",
        ),
        (r##"{"type": "array", "items": {"$ref": "#"}, "minItems": 1}"##, "#: no value that ends"),
        ("false", "#: false allows no value"),
        ("7", "#: a schema is"),
        ("{", "#: not JSON"),
        (
            r#"{"properties": {"b": {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 2}, "minItems": 1}}, "required": ["b"]}"#,
            "#/properties/b",
        ),
        (r#"{"type": "integer", "minimum": 3, "maximum": 2}"#, "#: "),
        (r#"{"required": ["a"], "additionalProperties": false}"#, "#: "),
        (
            r#"{"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}"#,
            "#/prefixItems: not a keyword of draft-07",
        ),
    ];
    for (schema, expected) in cases {
        let found = refusal(schema);
        assert!(found.starts_with(expected), "{schema}: {found}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn hostile_sizes_are_refused_or_work() {
    let nested = |n: usize| "{\"items\": ".repeat(n) + "{}" + &"}".repeat(n);
    assert!(schema_accepts(&nested(63), "[]"));
    assert!(refusal(&nested(65)).contains("nested deeper than 64"));
    assert_eq!(refusal(&nested(3000)), "#: nested deeper than 64");
    let list = |n: usize| (0..n).map(|i| format!("\"value {i}\"")).collect::<Vec<_>>().join(", ");
    assert!(schema_accepts(&format!("{{\"enum\": [{}]}}", list(2000)), "\"value 1999\""));
    assert!(refusal(&format!("{{\"enum\": [{}]}}", list(100_000))).contains("a schema of"));
    let properties = |n: usize| {
        let list: Vec<_> = (0..n).map(|i| format!("\"p{i}\": {{}}")).collect();
        format!("{{\"properties\": {{{}}}}}", list.join(", "))
    };
    assert!(schema_accepts(&properties(100), "{\"p99\": 1}"));
    assert!(refusal(&properties(2500)).starts_with("#/properties: 2500 entries"));
    let chain = |n: usize| {
        let defs =
            (0..n).map(|i| format!("\"{i}\": {{\"items\": {{\"$ref\": \"#/$defs/{}\"}}}}", i + 1));
        let defs: Vec<_> = defs.collect();
        format!("{{\"$ref\": \"#/$defs/0\", \"$defs\": {{{}, \"{n}\": {{}}}}}}", defs.join(", "))
    };
    assert!(schema_accepts(&chain(1000), "[[[]]]"));
    assert!(refusal(&chain(3000)).contains("levels"));
    assert!(schema_accepts(r#"{"type": "string", "maxLength": 1e12}"#, "\"a\""));
    assert!(schema_accepts(r#"{"type": "array", "maxItems": 18446744073709551615}"#, "[]"));
}

#[test]
fn expressions_and_grammars_hold_whole_texts() {
    let regex = |pattern: &str| Language::Regex(pattern.to_owned());
    assert!(accepts(&regex("^(yes|no) ?[0-9]{2}$"), "yes 42"));
    assert!(!accepts(&regex("(yes|no)"), "yes!"));
    assert!(accepts(&regex("a/b\\n.é?"), "a/b\nx"));
    assert!(accepts(&regex(""), ""));
    for bad in ["a(", "(?=x)", "[", "x{1,200000}"] {
        assert!(grammars().compile(&regex(bad)).is_err(), "{bad}");
    }
    let lark = |grammar: &str| Language::Lark(grammar.to_owned());
    let sum = "start: number (\"+\" number)*\nnumber: /[0-9]+/";
    assert!(accepts(&lark(sum), "1+22"));
    assert!(!accepts(&lark(sum), "1+"));
    let object = r#"start: "x" %json {"properties": {"a": {"type": "integer"}}, "additionalProperties": false}"#;
    assert!(accepts(&lark(object), r#"x{"a": 1}"#));
    let parens = format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000));
    for bad in [
        "",
        "start: nothing",
        "start: start",
        "start: %json {\"not\": {}}",
        "start: <[1]>",
        &parens,
        "start: %json {\"x-guidance\": {\"lenient\": true}, \"not\": {}}",
        "start: %json",
    ] {
        let Err(error) = grammars().compile(&lark(bad)) else {
            panic!("{}", &bad[..bad.len().min(60)])
        };
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_check_needs_no_vocabulary() {
    let text = str::to_owned;
    for good in [
        Language::JsonObject,
        Language::JsonSchema(text("{\"type\": \"string\"}")),
        Language::Regex(text("^a+$")),
        Language::Lark(text("start: %json {\"type\": \"string\"}")),
    ] {
        check(&good).unwrap();
    }
    for (bad, expected) in [
        (Language::JsonSchema(text("{\"not\": {}}")), "#/not: "),
        (Language::Arguments(text("{\"type\": \"string\"}")), "#/type: "),
        (Language::Regex(text("(?=a)")), "looking around"),
        (Language::Lark(text("start: %json {\"not\": {}}")), "#/not: "),
    ] {
        let error = check(&bad).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn arguments_are_objects() {
    let arguments = |schema: &str| Language::Arguments(schema.to_owned());
    assert!(accepts(&arguments("{}"), "{\"a\": 1}"));
    assert!(!accepts(&arguments("{}"), "1"));
    let reference =
        r##"{"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {"type": "null"}}}}}"##;
    assert!(accepts(&arguments(reference), "{\"a\": null}"));
    assert!(!accepts(&arguments(reference), "{\"a\": 1}"));
    assert!(grammars().compile(&arguments("{\"type\": \"string\"}")).is_err());
    assert!(check(&arguments("{\"type\": [\"object\", \"null\"]}")).is_ok());
    assert!(accepts(&Language::JsonObject, "{\"a\": [{}]}"));
}

#[test]
fn grammars_are_kept_and_forgotten() {
    let grammars = Grammars::new(tokenizer());
    let language = |i: usize| Language::JsonSchema(format!("{{\"const\": {i}}}"));
    let first = grammars.compile(&language(0)).unwrap();
    let again = grammars.compile(&language(0)).unwrap();
    assert!(first.is(&again));
    for i in 0..=MAX_KEPT {
        grammars.compile(&language(i)).unwrap();
    }
    assert_eq!(grammars.0.kept.lock().unwrap().grammars.len(), MAX_KEPT);
    assert!(!grammars.compile(&language(0)).unwrap().is(&first));
}
