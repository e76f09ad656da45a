//! Keywords about types, listed values, strings and references.

use serde_json::{Map, Value, json};

use super::formats::{self, Format};
use super::pattern::{Scope, translate};
use super::{Fault, MAX_LITERAL, Walk, lookup};

const TYPES: &[&str] = &["array", "boolean", "integer", "null", "number", "object", "string"];
/// Keywords that only speak of one type.
const FAMILIES: &[(&str, &[&str])] = &[
    ("object", &["properties", "patternProperties", "additionalProperties", "required"]),
    ("object", &["minProperties", "maxProperties"]),
    ("array", &["items", "prefixItems", "minItems", "maxItems"]),
    ("string", &["pattern", "format", "minLength", "maxLength"]),
    ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
];
/// How often a `$ref` may lead to a `$ref`.
const MAX_HOPS: usize = 8;

impl<'a> Walk<'a> {
    pub(super) fn types(&mut self, value: &Value) -> Result<Value, Fault> {
        let names = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(names) if !names.is_empty() => names,
            _ => return self.fault("expected a type's name or an array of them"),
        };
        for name in names {
            if !name.as_str().is_some_and(|name| TYPES.contains(&name)) {
                return self.fault(format!("{name} is no type, expected one of {TYPES:?}"));
            }
        }
        Ok(value.clone())
    }

    pub(super) fn list_of_values(&mut self, value: &'a Value) -> Result<Value, Fault> {
        let Value::Array(values) = value else { return self.fault("expected an array") };
        if values.is_empty() {
            return self.fault("an empty array allows no value");
        }
        for (i, value) in values.iter().enumerate() {
            self.within(&i.to_string(), |walk| walk.literal(value))?;
        }
        Ok(value.clone())
    }

    /// A value that is to be written as it stands.
    pub(super) fn literal(&mut self, value: &'a Value) -> Result<Value, Fault> {
        self.count_part()?;
        match value {
            Value::Number(_) => {
                self.number(value)?;
            }
            Value::Array(values) => {
                for (i, value) in values.iter().enumerate() {
                    self.within(&i.to_string(), |walk| walk.literal(value))?;
                }
            }
            Value::Object(map) => {
                for (key, value) in map {
                    self.check_length(key)?;
                    self.within(key, |walk| walk.literal(value))?;
                }
            }
            Value::String(text) => self.check_length(text)?,
            Value::Null | Value::Bool(_) => {}
        }
        Ok(value.clone())
    }

    pub(super) fn check_length(&self, text: &str) -> Result<(), Fault> {
        match text.len() > MAX_LITERAL {
            true => self.fault(format!(
                "a string of {} bytes, at most {MAX_LITERAL} are taken",
                text.len()
            )),
            false => Ok(()),
        }
    }

    pub(super) fn pattern(&mut self, value: &Value) -> Result<Value, Fault> {
        let Some(pattern) = value.as_str() else { return self.fault("expected a string") };
        match translate(pattern, Scope::Anywhere) {
            Ok(pattern) => Ok(json!(pattern)),
            Err(problem) => self.fault(problem),
        }
    }

    pub(super) fn format(
        &mut self,
        value: &Value,
        schema: &Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let Some(name) = value.as_str() else { return self.fault("expected a string") };
        let is_of_strings = match schema.get("type") {
            None => true,
            Some(Value::Array(names)) => names.contains(&json!("string")),
            Some(name) => name == "string",
        };
        match formats::format(name) {
            _ if !is_of_strings => {}
            Some(Format::Known) => drop(out.insert("format".to_owned(), value.clone())),
            Some(Format::Pattern(pattern)) if schema.contains_key("pattern") => {
                insert_all_of(out, json!([{ "pattern": pattern }]));
            }
            Some(Format::Pattern(pattern)) => {
                out.insert("pattern".to_owned(), json!(pattern));
            }
            None => {
                return self.fault(format!(
                    "the format {name:?} cannot be enforced, expected one of {}",
                    formats::names()
                ));
            }
        }
        Ok(())
    }

    pub(super) fn only_false(&mut self, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Bool(false) => Ok(()),
            _ => self.fault("only false can be enforced; leave it out"),
        }
    }
}

/// Adds to `allOf`, which may be there already.
pub(super) fn insert_all_of(out: &mut Map<String, Value>, more: Value) {
    match (out.get_mut("allOf"), more) {
        (Some(Value::Array(parts)), Value::Array(more)) => parts.extend(more),
        (_, more) => drop(out.insert("allOf".to_owned(), more)),
    }
}

/// A schema that only speaks of one type means that type: `{"properties": …}` is meant as an object,
/// though every number obeys it too.
pub(super) fn infer_type(out: &mut Map<String, Value>) {
    let says_otherwise = ["type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"];
    if says_otherwise.iter().any(|key| out.contains_key(*key)) {
        return;
    }
    let spoken_of = |keys: &[&str]| keys.iter().any(|key| out.contains_key(*key));
    let mut types: Vec<&str> =
        FAMILIES.iter().filter(|(_, keys)| spoken_of(keys)).map(|(name, _)| *name).collect();
    types.dedup();
    if let [name] = types[..] {
        out.insert("type".to_owned(), json!(name));
    }
}

/// The JSON pointer of a reference into the same document.
pub(super) fn local_pointer(reference: &str) -> Option<String> {
    let fragment = reference.strip_prefix('#')?;
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    let path = String::from_utf8(bytes).ok()?;
    // `#/` is what some write for the whole document.
    let path = if path == "/" { "" } else { &path };
    (path.is_empty() || path.starts_with('/')).then(|| format!("#{path}"))
}

/// Whether no value obeys both schemas, as far as their types and required constants tell.
pub(super) fn are_disjoint(document: &Value, a: &Value, b: &Value) -> bool {
    let (a, b) = (followed(document, a), followed(document, b));
    if let (Some(a), Some(b)) = (constants(a), constants(b)) {
        return !a.iter().any(|a| b.iter().any(|b| could_be_equal(a, b)));
    }
    if let (Some(a), Some(b)) = (types_of(a), types_of(b))
        && !a.iter().any(|a| b.iter().any(|b| a == b || is_number(a) && is_number(b)))
    {
        return true;
    }
    let (Some(in_a), Some(in_b)) = (properties(a), properties(b)) else { return false };
    let is_object = |schema: &Value| schema.get("type").is_some_and(|name| name == "object");
    is_object(a)
        && is_object(b)
        && in_a.iter().any(|(name, a_property)| {
            let (Some(b_property), true) = (in_b.get(name), requires(a, name) && requires(b, name))
            else {
                return false;
            };
            let constants_of = |schema| constants(followed(document, schema));
            match (constants_of(a_property), constants_of(b_property)) {
                (Some(a), Some(b)) => !a.iter().any(|a| b.iter().any(|b| could_be_equal(a, b))),
                _ => false,
            }
        })
}

fn followed<'a>(document: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..MAX_HOPS {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(local_pointer);
        match target.and_then(|pointer| lookup(document, &pointer)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

fn constants(schema: &Value) -> Option<&[Value]> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(std::slice::from_ref(value)),
        (None, Some(Value::Array(values))) => Some(values),
        _ => None,
    }
}

/// 1 and 1.0 are one number in JSON Schema, wherever they stand.
fn could_be_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn types_of(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn is_number(name: &str) -> bool {
    name == "integer" || name == "number"
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn requires(schema: &Value, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|n| n == name))
}
