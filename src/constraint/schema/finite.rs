//! Whether a schema can be obeyed by any value that ends, and read without end of the stack.
//!
//! `{"$ref": "#"}` allows everything or nothing and says neither; an object that requires itself as a
//! property goes on for ever, and a grammar would follow it there.

use serde_json::{Map, Value};

use super::ConstraintError;

/// Levels of all definitions together: the grammar engine may go down one into the other.
const MAX_LEVELS: usize = 4096;

/// Refuses a schema, as it is written for the grammar engine, that no finite value obeys.
pub(super) fn check(schema: &Value, defs: &Map<String, Value>) -> Result<(), ConstraintError> {
    let n_levels: usize = defs.values().chain([schema]).map(n_levels).sum();
    if n_levels > MAX_LEVELS {
        let problem = format!("definitions of {n_levels} levels, at most {MAX_LEVELS} are taken");
        return Err(ConstraintError::schema("#", problem));
    }
    let mut ends = vec![false; defs.len()];
    // Each round finds a definition that ends, or there are none left to find.
    for _ in 0..=defs.len() {
        let before = ends.clone();
        for (number, definition) in defs.values().enumerate() {
            ends[number] = ends[number] || can_end(definition, &before);
        }
        if ends == before {
            break;
        }
    }
    match can_end(schema, &ends) {
        true => Ok(()),
        false => Err(ConstraintError::schema(
            "#",
            "no value that ends obeys this: a $ref leads back to itself",
        )),
    }
}

fn can_end(schema: &Value, ends: &[bool]) -> bool {
    let Value::Object(schema) = schema else { return true };
    let part = |part: &Value| can_end(part, ends);
    let list = |key: &str| schema.get(key).and_then(Value::as_array).map(Vec::as_slice);
    let reference = schema.get("$ref").and_then(Value::as_str).is_none_or(|target| {
        let number = target.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
        number.and_then(|number| ends.get(number)).copied().unwrap_or(false)
    });
    let one_of = list("anyOf").is_none_or(|options| options.iter().any(part));
    let all_of = list("allOf").is_none_or(|parts| parts.iter().all(part));
    let is_scalar = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(|name| name != "object" && name != "array"),
        Some(name) => name != "object" && name != "array",
        None => true,
    };
    reference
        && one_of
        && all_of
        && (is_scalar || object_ends(schema, ends) && array_ends(schema, ends))
}

fn object_ends(schema: &Map<String, Value>, ends: &[bool]) -> bool {
    let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let properties = schema.get("properties").and_then(Value::as_object);
    required.iter().filter_map(Value::as_str).all(|name| {
        let property = properties.and_then(|properties| properties.get(name));
        let property = property.or_else(|| schema.get("additionalProperties"));
        property.is_none_or(|property| can_end(property, ends))
    })
}

fn array_ends(schema: &Map<String, Value>, ends: &[bool]) -> bool {
    let min = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let prefix = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let n_prefix = usize::try_from(min).unwrap_or(usize::MAX).min(prefix.len());
    let needs_more = min > prefix.len() as u64;
    prefix[..n_prefix].iter().all(|item| can_end(item, ends))
        && (!needs_more || schema.get("items").is_none_or(|items| can_end(items, ends)))
}

/// Levels of JSON values, one in the other.
fn n_levels(value: &Value) -> usize {
    let inner = match value {
        Value::Array(values) => values.iter().map(n_levels).max(),
        Value::Object(map) => map.values().map(n_levels).max(),
        _ => None,
    };
    inner.unwrap_or(0) + 1
}
