//! Keywords about objects and arrays.

use serde_json::{Map, Value, json};

use super::pattern::{Scope, translate};
use super::{ConstraintError, Fault, MAX_OPTIONS, Walk};

/// Drafts whose `prefixItems` is not a keyword yet.
const OLD_DRAFTS: &[&str] = &["draft-03", "draft-04", "draft-06", "draft-07", "2019-09"];

impl<'a> Walk<'a> {
    fn map(&mut self, value: &'a Value) -> Result<&'a Map<String, Value>, Fault> {
        let Value::Object(map) = value else { return self.fault("expected an object") };
        map.keys().try_for_each(|name| self.check_length(name))?;
        match map.len() > MAX_OPTIONS {
            true => self.fault(format!("{} entries, at most {MAX_OPTIONS} are taken", map.len())),
            false => Ok(map),
        }
    }

    pub(super) fn properties(&mut self, value: &'a Value) -> Result<Value, Fault> {
        let mut out = Map::new();
        for (name, schema) in self.map(value)? {
            let schema = self.within(name, |walk| walk.schema(schema))?;
            out.insert(name.clone(), schema);
        }
        Ok(Value::Object(out))
    }

    pub(super) fn pattern_properties(&mut self, value: &'a Value) -> Result<Value, Fault> {
        let mut out = Map::new();
        for (pattern, schema) in self.map(value)? {
            let (pattern, schema) =
                self.within(pattern, |walk| match translate(pattern, Scope::Anywhere) {
                    Ok(pattern) => Ok((pattern, walk.schema(schema)?)),
                    Err(problem) => walk.fault(problem),
                })?;
            out.insert(pattern, schema);
        }
        Ok(Value::Object(out))
    }

    /// Names are strings anyway; more cannot be asked of them.
    pub(super) fn property_names(&mut self, value: &Value) -> Result<(), Fault> {
        match *value == json!(true) || *value == json!({}) || *value == json!({ "type": "string" })
        {
            true => Ok(()),
            false => self.fault("this keyword cannot be enforced; use patternProperties"),
        }
    }

    pub(super) fn required(&mut self, value: &Value) -> Result<Value, Fault> {
        let Value::Array(names) = value else { return self.fault("expected an array") };
        if names.len() > MAX_OPTIONS {
            return self.fault(format!("{} names, at most {MAX_OPTIONS} are taken", names.len()));
        }
        match names.iter().all(Value::is_string) {
            true => Ok(value.clone()),
            false => self.fault("expected an array of strings"),
        }
    }

    /// Names that a schema does not list may be written twice and then count once, so no more than one
    /// of them can be asked for.
    pub(super) fn check_min_properties(&mut self, out: &Map<String, Value>) -> Result<(), Fault> {
        let Some(min) = out.get("minProperties").and_then(Value::as_u64) else { return Ok(()) };
        let required = out.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        match min > required as u64 + 1 {
            true => self.within("minProperties", |walk| {
                walk.fault(format!(
                    "{min} is more than one beyond the {required} required properties, which cannot \
                     be enforced"
                ))
            }),
            false => Ok(()),
        }
    }

    /// Items by place and the others, in whichever of the two spellings.
    pub(super) fn items(
        &mut self,
        key: &str,
        value: &'a Value,
        schema: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let is_old = matches!(schema.get("items"), Some(Value::Array(_)));
        match key {
            "items" if is_old => {
                if schema.contains_key("prefixItems") {
                    return self.fault("an array of items beside prefixItems");
                }
                let written = self.options(value)?;
                out.insert("prefixItems".to_owned(), written);
            }
            "prefixItems" => {
                let draft =
                    self.document.get("$schema").and_then(Value::as_str).unwrap_or_default();
                if let Some(draft) = OLD_DRAFTS.iter().find(|old| draft.contains(**old)) {
                    return self.fault(format!("not a keyword of {draft}, which $schema names"));
                }
                let written = self.options(value)?;
                out.insert(key.to_owned(), written);
            }
            // It says nothing without items by place.
            "additionalItems" if !is_old => {}
            _ => {
                let written = self.schema(value)?;
                out.insert("items".to_owned(), written);
            }
        }
        Ok(())
    }
}

/// The schema, held to objects.
pub(super) fn held_to_object(mut schema: Value) -> Result<Value, ConstraintError> {
    if schema == json!(true) {
        schema = json!({});
    }
    let Value::Object(map) = &mut schema else {
        return Err(ConstraintError::schema("#", "false allows no arguments"));
    };
    let allows_objects = match map.get("type") {
        None => true,
        Some(Value::Array(names)) => names.contains(&json!("object")),
        Some(name) => name == "object",
    };
    if !allows_objects {
        let problem = format!("arguments are an object, found {}", map["type"]);
        return Err(ConstraintError::schema("#/type", problem));
    }
    map.insert("type".to_owned(), json!("object"));
    Ok(schema)
}
