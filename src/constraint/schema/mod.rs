//! JSON schemas, checked and written anew before the grammar engine sees them.
//!
//! The engine passes over keywords that it does not know, overflows its stack on deep schemas and reads
//! some things otherwise than JSON Schema does. So it only gets what is written here: keywords that it
//! enforces, spelt as 2020-12 spells them, without annotations, every `$ref` led to `#/$defs/N`. All
//! else is refused with a pointer to it. Some rules become tighter than the schema's own (an object's
//! keys come in the schema's order, a `properties` without `type` means an object), none looser.

mod finite;
mod formats;
mod numbers;
mod objects;
pub(super) mod pattern;
mod values;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::ConstraintError;

/// Nesting of JSON values in a schema.
pub(super) const MAX_DEPTH: usize = 64;
/// Bytes of a schema.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Bytes of one string that is listed, and of a property's name: each costs the engine near 1 KiB.
const MAX_LITERAL: usize = 1 << 16;
/// Schemas and listed values in a schema, in all.
const MAX_PARTS: usize = 40_000;
/// Options of one `anyOf`, and properties of one object; the engine's time grows with their square.
const MAX_OPTIONS: usize = 512;
/// Options that may be compared pair by pair.
const MAX_ONE_OF: usize = 64;

/// Says nothing about which values are valid.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "enumDescriptions",
    "enumNames",
    "example",
    "examples",
    "externalDocs",
    "id",
    "markdownDescription",
    "readOnly",
    "title",
    "writeOnly",
    "xml",
];

/// Keywords of JSON Schema that no grammar here enforces.
const UNSUPPORTED: &[&str] = &[
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Which values a schema may describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// Any.
    Value,
    /// An object, whether the schema says so or not: a function's arguments.
    Object,
}

/// Reads a schema's text.
pub(super) fn parse(text: &str) -> Result<Value, ConstraintError> {
    if text.len() > MAX_BYTES {
        let problem = format!("a schema of {} bytes, at most {MAX_BYTES} are taken", text.len());
        return Err(ConstraintError::schema("#", problem));
    }
    serde_json::from_str(text).map_err(|error| {
        let problem = error.to_string();
        // The reader's own limit is twice as high.
        let problem = match problem.contains("recursion limit") {
            true => format!("nested deeper than {MAX_DEPTH}"),
            false => format!("not JSON: {problem}"),
        };
        ConstraintError::schema("#", problem)
    })
}

/// A schema's text, written anew.
pub(super) fn written(text: &str, root: Root) -> Result<Value, ConstraintError> {
    normalise(&parse(text)?, "#", root)
}

/// Writes the part of `document` at `pointer` anew, as a schema of its own.
pub(super) fn normalise(
    document: &Value,
    pointer: &str,
    root: Root,
) -> Result<Value, ConstraintError> {
    let mut walk = Walk {
        document,
        at: String::from("#"),
        n_parts: 0,
        targets: Vec::new(),
        numbers: HashMap::new(),
        steps: 1,
    };
    let mut schema = walk.target(pointer)?;
    if root == Root::Object {
        schema = objects::held_to_object(schema)?;
    }
    let mut defs = Map::new();
    let mut done = 0;
    while let Some(target) = walk.targets.get(done).cloned() {
        let definition = walk.target(&target)?;
        defs.insert(done.to_string(), definition);
        done += 1;
    }
    finite::check(&schema, &defs)?;
    if schema == json!(false) {
        return Err(ConstraintError::schema("#", "false allows no value"));
    }
    if schema == json!(true) {
        schema = json!({});
    }
    if let (Value::Object(schema), false) = (&mut schema, defs.is_empty()) {
        schema.insert("$defs".to_owned(), Value::Object(defs));
    }
    Ok(schema)
}

/// Pointers to the schemas directly within the one at `pointer`, and the one it refers to.
pub(super) fn children(document: &Value, pointer: &str) -> Vec<String> {
    let Some(Value::Object(schema)) = lookup(document, pointer) else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in schema {
        let here = format!("{pointer}/{}", escaped(key));
        match (key.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(map)) => {
                found.extend(map.keys().map(|name| format!("{here}/{}", escaped(name))));
            }
            ("prefixItems" | "items" | "anyOf" | "oneOf" | "allOf", Value::Array(list)) => {
                found.extend((0..list.len()).map(|i| format!("{here}/{i}")));
            }
            ("items" | "additionalItems" | "additionalProperties", Value::Object(_)) => {
                found.push(here);
            }
            ("$ref", Value::String(target)) => found.extend(values::local_pointer(target)),
            _ => {}
        }
    }
    found
}

fn lookup<'a>(document: &'a Value, pointer: &str) -> Option<&'a Value> {
    document.pointer(pointer.strip_prefix('#')?)
}

fn escaped(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

type Fault = ConstraintError;

struct Walk<'a> {
    document: &'a Value,
    /// Where the walk is.
    at: String,
    n_parts: usize,
    /// Pointers that `$ref`s lead to; the place in this list is the number in `$defs`.
    targets: Vec<String>,
    numbers: HashMap<String, usize>,
    /// Least common multiple of all `multipleOf`, their decimal points left out.
    steps: u64,
}

impl<'a> Walk<'a> {
    fn fault<T>(&self, problem: impl Into<String>) -> Result<T, Fault> {
        Err(ConstraintError::schema(self.at.clone(), problem))
    }

    /// Does something one step further down.
    fn within<T>(
        &mut self,
        segment: &str,
        work: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let n_bytes = self.at.len();
        self.at.push('/');
        self.at.push_str(&escaped(segment));
        if self.at.bytes().filter(|b| *b == b'/').count() > MAX_DEPTH {
            return self.fault(format!("nested deeper than {MAX_DEPTH}"));
        }
        let result = work(self);
        self.at.truncate(n_bytes);
        result
    }

    fn count_part(&mut self) -> Result<(), Fault> {
        self.n_parts += 1;
        match self.n_parts > MAX_PARTS {
            true => self.fault(format!("a schema of more than {MAX_PARTS} parts")),
            false => Ok(()),
        }
    }

    fn target(&mut self, pointer: &str) -> Result<Value, Fault> {
        self.at = pointer.to_owned();
        match lookup(self.document, pointer) {
            Some(schema) => self.schema(schema),
            None => self.fault("there is nothing here"),
        }
    }

    fn schema(&mut self, schema: &'a Value) -> Result<Value, Fault> {
        self.count_part()?;
        match schema {
            Value::Bool(_) => Ok(schema.clone()),
            Value::Object(schema) => self.keywords(schema),
            _ => self.fault("a schema is an object or a boolean"),
        }
    }

    fn keywords(&mut self, schema: &'a Map<String, Value>) -> Result<Value, Fault> {
        let mut out = Map::new();
        for (key, value) in schema {
            let key = key.as_str();
            if !ANNOTATIONS.contains(&key) {
                self.within(key, |walk| walk.keyword(key, value, schema, &mut out))?;
            }
        }
        self.check_min_properties(&out)?;
        numbers::close_bounds(&mut out);
        numbers::bound_steps(&mut out);
        values::infer_type(&mut out);
        numbers::bound_digits(&mut out);
        Ok(Value::Object(out))
    }

    fn keyword(
        &mut self,
        key: &str,
        value: &'a Value,
        schema: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let written = match key {
            "$id" => return self.id(),
            "$ref" => self.reference(value)?,
            "type" => self.types(value)?,
            "enum" => self.list_of_values(value)?,
            "const" => self.literal(value)?,
            "anyOf" => self.options(value)?,
            "allOf" => {
                values::insert_all_of(out, self.options(value)?);
                return Ok(());
            }
            "oneOf" => {
                let options = self.one_of(value)?;
                // A second `anyOf` would push the first one out.
                values::insert_all_of(out, json!([{ "anyOf": options }]));
                return Ok(());
            }
            "properties" => self.properties(value)?,
            "patternProperties" => self.pattern_properties(value)?,
            "additionalProperties" => self.schema(value)?,
            "propertyNames" => return self.property_names(value),
            "required" => self.required(value)?,
            "minProperties" | "maxProperties" => json!(self.size(value, u64::MAX)?.0),
            "items" | "prefixItems" | "additionalItems" => {
                return self.items(key, value, schema, out);
            }
            "minItems" => self.at_least(value, 100_000)?,
            "minLength" => self.at_least(value, 1_000_000)?,
            "maxItems" | "maxLength" => json!(self.size(value, 1_000_000)?.0.min(1_000_000)),
            "uniqueItems" => return self.only_false(value),
            "nullable" => {
                return match value {
                    Value::Bool(false) => Ok(()),
                    _ => {
                        self.fault("not a keyword of JSON Schema; add \"null\" to \"type\" instead")
                    }
                };
            }
            "pattern" => self.pattern(value)?,
            "format" => return self.format(value, schema, out),
            "minimum" | "maximum" => self.number(value)?,
            "exclusiveMinimum" | "exclusiveMaximum" => {
                return self.exclusive(key, value, schema, out);
            }
            "multipleOf" => self.multiple_of(value)?,
            _ if UNSUPPORTED.contains(&key) => {
                return self.fault("this keyword cannot be enforced; leave it out");
            }
            "x-guidance" => return self.fault("options of the grammar engine are not taken"),
            _ if key.starts_with("x-") => return Ok(()),
            _ => return self.fault("not a keyword of JSON Schema"),
        };
        out.insert(key.to_owned(), written);
        Ok(())
    }

    /// The document may have a name; parts with names of their own would change what `#` means.
    fn id(&self) -> Result<(), Fault> {
        match self.at == "#/$id" {
            true => Ok(()),
            false => self.fault("a schema within the schema cannot have a name of its own"),
        }
    }

    fn reference(&mut self, value: &Value) -> Result<Value, Fault> {
        let Some(target) = value.as_str() else { return self.fault("expected a string") };
        let Some(pointer) = values::local_pointer(target) else {
            return self.fault(format!(
                "{target:?} is not within this schema; only references such as \"#/$defs/name\" are \
                 followed"
            ));
        };
        if lookup(self.document, &pointer).is_none() {
            return self.fault(format!("{target:?} leads nowhere"));
        }
        let number = match self.numbers.get(&pointer) {
            Some(&number) => number,
            None => {
                self.targets.push(pointer.clone());
                self.numbers.insert(pointer, self.targets.len() - 1);
                self.targets.len() - 1
            }
        };
        Ok(json!(format!("#/$defs/{number}")))
    }

    fn options(&mut self, value: &'a Value) -> Result<Value, Fault> {
        let Value::Array(options) = value else { return self.fault("expected an array") };
        if options.is_empty() {
            return self.fault("an empty array allows no value");
        }
        if options.len() > MAX_OPTIONS {
            return self
                .fault(format!("{} options, at most {MAX_OPTIONS} are taken", options.len()));
        }
        let options = options.iter().enumerate();
        let written: Result<Vec<Value>, Fault> = options
            .map(|(i, option)| self.within(&i.to_string(), |walk| walk.schema(option)))
            .collect();
        written.map(Value::Array)
    }

    /// Options of which exactly one may hold are like `anyOf` where no two can hold together.
    fn one_of(&mut self, value: &'a Value) -> Result<Value, Fault> {
        let written = self.options(value)?;
        let options = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if options.len() > MAX_ONE_OF {
            return self
                .fault(format!("{} options, at most {MAX_ONE_OF} are taken", options.len()));
        }
        for (i, a) in options.iter().enumerate() {
            for (j, b) in options.iter().enumerate().skip(i + 1) {
                if !values::are_disjoint(self.document, a, b) {
                    return self.fault(format!(
                        "options {i} and {j} might hold together, which cannot be ruled out while the \
                         text is written; use anyOf, or give each option a \"type\" of its own or a \
                         required property with a \"const\" of its own"
                    ));
                }
            }
        }
        Ok(written)
    }
}
