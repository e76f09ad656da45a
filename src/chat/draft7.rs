//! Whether tools' parameters are JSON schemas, as mistral_common asks before it encodes them.
//!
//! This is draft 7's schema of schemas as a table, without the syntax of patterns. Real tools break it
//! in harmless ways (a draft 4 `"exclusiveMinimum": true`) and the model reads them all the same, so
//! only those who want exactly what mistral_common takes ask for it. What a schema can enforce is the
//! constraint's affair.

use std::collections::HashSet;

use serde_json::Value;

use super::{ChatRequest, EncodeError};

/// What a keyword's value must be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Schema,
    Schemas,
    SchemaOrSchemas,
    SchemaMap,
    Dependencies,
    Count,
    Number,
    Positive,
    Text,
    Flag,
    List,
    Names,
    Type,
}

const KEYWORDS: &[(&str, Kind)] = &[
    ("$id", Kind::Text),
    ("$schema", Kind::Text),
    ("$ref", Kind::Text),
    ("$comment", Kind::Text),
    ("title", Kind::Text),
    ("description", Kind::Text),
    ("readOnly", Kind::Flag),
    ("examples", Kind::List),
    ("multipleOf", Kind::Positive),
    ("maximum", Kind::Number),
    ("exclusiveMaximum", Kind::Number),
    ("minimum", Kind::Number),
    ("exclusiveMinimum", Kind::Number),
    ("maxLength", Kind::Count),
    ("minLength", Kind::Count),
    ("pattern", Kind::Text),
    ("additionalItems", Kind::Schema),
    ("items", Kind::SchemaOrSchemas),
    ("maxItems", Kind::Count),
    ("minItems", Kind::Count),
    ("uniqueItems", Kind::Flag),
    ("contains", Kind::Schema),
    ("maxProperties", Kind::Count),
    ("minProperties", Kind::Count),
    ("required", Kind::Names),
    ("additionalProperties", Kind::Schema),
    ("definitions", Kind::SchemaMap),
    ("properties", Kind::SchemaMap),
    ("patternProperties", Kind::SchemaMap),
    ("dependencies", Kind::Dependencies),
    ("propertyNames", Kind::Schema),
    ("enum", Kind::List),
    ("type", Kind::Type),
    ("format", Kind::Text),
    ("contentMediaType", Kind::Text),
    ("contentEncoding", Kind::Text),
    ("if", Kind::Schema),
    ("then", Kind::Schema),
    ("else", Kind::Schema),
    ("allOf", Kind::Schemas),
    ("anyOf", Kind::Schemas),
    ("oneOf", Kind::Schemas),
    ("not", Kind::Schema),
];

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Refuses tools whose parameters are no JSON schema of draft 7.
pub fn validate_schemas(request: &ChatRequest) -> Result<(), EncodeError> {
    for (index, tool) in request.tools.iter().enumerate() {
        // What is not JSON at all is refused where tools are written.
        let Ok(schema) = serde_json::from_str(&tool.parameters) else { continue };
        let mut pointer = String::new();
        if let Err(expected) = check(&schema, Kind::Schema, &mut pointer) {
            let name = tool.name.clone();
            return Err(EncodeError::BadSchema { index, name, pointer, expected });
        }
    }
    Ok(())
}

/// Gives what was expected at `pointer`, which then leads to the fault.
fn check(value: &Value, kind: Kind, pointer: &mut String) -> Result<(), &'static str> {
    let is = |good: bool, expected: &'static str| if good { Ok(()) } else { Err(expected) };
    match (kind, value) {
        (Kind::Schema, Value::Object(keywords)) => {
            for (name, kind) in KEYWORDS {
                if let Some(value) = keywords.get(*name) {
                    below(value, *kind, name, pointer)?;
                }
            }
            Ok(())
        }
        (Kind::Schema, value) => is(value.is_boolean(), "a schema"),
        (Kind::SchemaOrSchemas, Value::Array(_)) => check(value, Kind::Schemas, pointer),
        (Kind::SchemaOrSchemas, _) => check(value, Kind::Schema, pointer),
        (Kind::Schemas, Value::Array(schemas)) if !schemas.is_empty() => {
            let mut schemas = schemas.iter().enumerate();
            schemas.try_for_each(|(i, s)| below(s, Kind::Schema, &i.to_string(), pointer))
        }
        (Kind::Schemas, _) => Err("a list of schemas"),
        (Kind::SchemaMap, Value::Object(map)) => {
            map.iter().try_for_each(|(name, s)| below(s, Kind::Schema, name, pointer))
        }
        (Kind::Dependencies, Value::Object(map)) => map.iter().try_for_each(|(name, value)| {
            let kind = if value.is_array() { Kind::Names } else { Kind::Schema };
            below(value, kind, name, pointer)
        }),
        (Kind::SchemaMap | Kind::Dependencies, _) => Err("an object of schemas"),
        (Kind::Count, value) => {
            let count = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
            is(count.is_some(), "a whole number from 0")
        }
        (Kind::Number, value) => is(value.is_number(), "a number"),
        (Kind::Positive, value) => {
            is(value.as_f64().is_some_and(|n| n > 0.0), "a number greater than 0")
        }
        (Kind::Text, value) => is(value.is_string(), "a string"),
        (Kind::Flag, value) => is(value.is_boolean(), "true or false"),
        (Kind::List, value) => is(value.is_array(), "a list"),
        (Kind::Names, value) => is(are_names(value, |_| true), "a list of different strings"),
        (Kind::Type, Value::String(name)) => is(TYPES.contains(&name.as_str()), "a type"),
        (Kind::Type, value) => {
            let is_type = |name: &str| TYPES.contains(&name);
            let is_empty = value.as_array().is_some_and(Vec::is_empty);
            is(!is_empty && are_names(value, is_type), "a list of different types")
        }
    }
}

fn below(value: &Value, kind: Kind, name: &str, pointer: &mut String) -> Result<(), &'static str> {
    let len = pointer.len();
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    check(value, kind, pointer)?;
    pointer.truncate(len);
    Ok(())
}

fn are_names(value: &Value, is_name: impl Fn(&str) -> bool) -> bool {
    let mut seen = HashSet::new();
    value.as_array().is_some_and(|names| {
        names.iter().all(|name| name.as_str().is_some_and(|n| is_name(n) && seen.insert(n)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fault(schema: &str) -> Option<(String, &'static str)> {
        let mut pointer = String::new();
        let error = check(&serde_json::from_str(schema).unwrap(), Kind::Schema, &mut pointer).err();
        error.map(|expected| (pointer, expected))
    }

    #[test]
    fn faults_are_pointed_at() {
        let cases = [
            (r#"{"properties": {"a/b": {"type": "strin"}}}"#, "/properties/a~1b/type"),
            (r#"{"anyOf": [true, {"items": []}]}"#, "/anyOf/1/items"),
            (r#"{"dependencies": {"a": ["b", "b"]}}"#, "/dependencies/a"),
            (r#"{"exclusiveMinimum": true}"#, "/exclusiveMinimum"),
            (r#"{"type": []}"#, "/type"),
            (r#"{"minLength": -1.0}"#, "/minLength"),
            (r#"{"multipleOf": 0}"#, "/multipleOf"),
            ("3", ""),
        ];
        for (schema, pointer) in cases {
            assert_eq!(fault(schema).unwrap().0, pointer, "{schema}");
        }
    }

    #[test]
    fn what_draft_7_lets_through() {
        for schema in [
            "true",
            r#"{"x": 3, "const": 3, "default": 3, "writeOnly": 3, "enum": []}"#,
            r#"{"maxLength": 1.0, "minLength": -0.0, "required": [], "format": "none"}"#,
            r#"{"type": ["null", "string"], "items": [{}], "dependencies": {"a": [], "b": {}}}"#,
        ] {
            assert_eq!(fault(schema), None, "{schema}");
        }
    }
}
