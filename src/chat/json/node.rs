//! JSON values that know where they stand.
//!
//! A request is walked level by level, and what is not needed is never taken apart: schemas and
//! arguments stay text, because their spelling reaches the model. Every error names its place, as
//! `messages[2].content[0].type`. Depth and lengths are bounded before anything is built.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::RequestError;
use crate::chat::python_json;

/// Nesting of a request, schemas included.
const MAX_DEPTH: usize = 128;
/// Elements of one list.
const MAX_ITEMS: usize = 1 << 14;

/// A value and its place.
#[derive(Clone)]
pub struct Node<'a> {
    pub(super) place: String,
    json: &'a str,
}

/// An object's members. `null` counts as absent, as in all the protocols.
pub struct Fields<'a> {
    pub(super) place: String,
    members: HashMap<String, &'a RawValue>,
}

impl<'a> Node<'a> {
    /// The whole text, checked to be JSON of bounded depth.
    pub fn root(json: &'a str) -> Result<Self, RequestError> {
        check_depth(json)?;
        let raw: &RawValue = serde_json::from_str(json)?;
        Ok(Node { place: String::new(), json: raw.get() })
    }

    /// Where it stands, as `messages[2].content`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The value's own text.
    pub fn raw(&self) -> &'a str {
        self.json
    }

    /// Whether it is a string.
    pub fn is_string(&self) -> bool {
        self.json.starts_with('"')
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.json.starts_with('{')
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        self.json.starts_with('[')
    }

    /// An error about this value.
    pub fn error(&self, problem: impl Into<String>) -> RequestError {
        RequestError::field(self.place.clone(), problem)
    }

    fn expected(&self, expected: &str) -> RequestError {
        self.error(format!("expected {expected}, found {}", kind(self.json)))
    }

    /// Its members, if it is an object.
    pub fn fields(&self) -> Result<Fields<'a>, RequestError> {
        if !self.is_object() {
            return Err(self.expected("an object"));
        }
        Ok(Fields { place: self.place.clone(), members: serde_json::from_str(self.json)? })
    }

    /// Its elements, if it is a list of bounded length.
    pub fn items(&self) -> Result<Vec<Node<'a>>, RequestError> {
        if !self.is_list() {
            return Err(self.expected("a list"));
        }
        let items: Vec<&RawValue> = serde_json::from_str(self.json)?;
        if items.len() > MAX_ITEMS {
            return Err(self.error(format!("{} elements; at most {MAX_ITEMS}", items.len())));
        }
        let node = |(i, item): (usize, &'a RawValue)| Node {
            place: format!("{}[{i}]", self.place),
            json: item.get(),
        };
        Ok(items.into_iter().enumerate().map(node).collect())
    }

    /// A string; half of a surrogate pair becomes U+FFFD, as the tokenizer would make it.
    pub fn text(&self) -> Result<String, RequestError> {
        if !self.is_string() {
            return Err(self.expected("a string"));
        }
        python_json::read_string(self.json).ok_or_else(|| self.expected("a string"))
    }

    /// A truth value.
    pub fn flag(&self) -> Result<bool, RequestError> {
        match self.json {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A count; a whole number may be spelt as a float.
    pub fn count(&self) -> Result<u32, RequestError> {
        match self.json.parse::<f64>() {
            Ok(x) if x >= 0.0 && x <= f64::from(u32::MAX) && x.fract() == 0.0 => Ok(x as u32),
            _ => Err(self.error(format!("expected a count, found {}", shown(self.json)))),
        }
    }
}

impl<'a> Fields<'a> {
    /// The member of this name; `null` is none.
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        let json = self.members.get(name)?.get();
        (json != "null").then(|| Node { place: self.place_of(name), json })
    }

    /// The first of several names for the same thing.
    pub fn any(&self, names: &[&str]) -> Option<Node<'a>> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A member that has to be there.
    pub fn need(&self, name: &str) -> Result<Node<'a>, RequestError> {
        self.get(name).ok_or_else(|| RequestError::field(self.place_of(name), "is missing"))
    }

    /// The members' names, those that are `null` too, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// A member that is a string.
    pub fn text(&self, name: &str) -> Result<Option<String>, RequestError> {
        self.get(name).map(|node| node.text()).transpose()
    }

    /// A member that is a truth value.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, RequestError> {
        self.get(name).map(|node| node.flag()).transpose()
    }

    /// Where the member of this name stands, or would.
    pub fn place_of(&self, name: &str) -> String {
        match self.place.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.place),
        }
    }

    /// The text of the field `type`, empty without one.
    pub fn kind(&self) -> Result<String, RequestError> {
        Ok(self.text("type")?.unwrap_or_default())
    }
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a truth value",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The beginning of a value, for a message.
pub(super) fn shown(json: &str) -> String {
    match json.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json.to_owned(),
    }
}

/// Counts brackets outside of strings; whether they pair up is the parser's to say.
fn check_depth(json: &str) -> Result<(), RequestError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(RequestError::TooDeep { max: MAX_DEPTH });
        }
    }
    Ok(())
}
