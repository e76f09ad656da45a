//! The key-value pairs of a model, in file order, with typed access.
//!
//! The getters know types, not meanings: `None` is an absent key, an error is a value of another
//! type, placed where it stands in the file. Ranges and defaults belong to `model::hparams`.

use std::collections::HashMap;

use super::error::{GgufError, Item, Label, Problem};
use super::value::{Array, Strings, Value};

/// A key with its value and where it stands.
#[derive(Debug)]
struct Entry {
    key: String,
    value: Value,
    /// Offset of the value in its file.
    byte: u64,
}

/// The metadata of a model: the first part's in a split model.
#[derive(Debug)]
pub struct Metadata {
    label: Label,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn new(label: Label) -> Self {
        Self { label, entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds an entry; a second entry of the same key is refused with the first one's number.
    pub(super) fn insert(&mut self, key: String, value: Value, byte: u64) -> Result<(), Problem> {
        let second = self.entries.len();
        if let Some(&first) = self.index.get(&key) {
            return Err(Problem::DuplicateKey { first: first as u64, second: second as u64 });
        }
        self.index.insert(key.clone(), second);
        self.entries.push(Entry { key, value, byte });
        Ok(())
    }

    /// The file that the metadata comes from.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), &entry.value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&idx| &self.entries[idx].value)
    }

    /// The value of `key` as `u32`. Like all getters: `None` without the key, an error if the
    /// value has another type.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "u32", |value| match value {
            Value::U32(x) => Some(*x),
            _ => None,
        })
    }

    /// The value of `key` as a count that may be written as u16, u32 or i32.
    pub fn count(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "a non-negative u16, u32 or i32", |value| match value {
            Value::U16(x) => Some((*x).into()),
            Value::U32(x) => Some(*x),
            Value::I32(x) => u32::try_from(*x).ok(),
            _ => None,
        })
    }

    /// The value of `key` as `f32`.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "f32", |value| match value {
            Value::F32(x) => Some(*x),
            _ => None,
        })
    }

    /// The value of `key` as `bool`.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "bool", |value| match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        })
    }

    /// The value of `key` as a string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "string", |value| match value {
            Value::String(x) => Some(x.as_str()),
            _ => None,
        })
    }

    /// The value of `key` as an array of any type.
    pub fn array(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        self.typed(key, "array", |value| match value {
            Value::Array(x) => Some(x),
            _ => None,
        })
    }

    /// The value of `key` as an array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        self.typed(key, "array of string", |value| match value {
            Value::Array(Array::String(x)) => Some(x),
            _ => None,
        })
    }

    /// The value of `key` as an array of `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "array of f32", |value| match value {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// The value of `key` as an array of `i32`.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, GgufError> {
        self.typed(key, "array of i32", |value| match value {
            Value::Array(Array::I32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An error about `key`, placed where its value stands.
    pub(crate) fn error(&self, key: &str, problem: Problem) -> GgufError {
        let error = GgufError::new(&self.label, problem).about(|| Item::Key(key.to_owned()));
        match self.index.get(key) {
            Some(&idx) => error.at(self.entries[idx].byte),
            None => error,
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match get(value) {
            Some(x) => Ok(Some(x)),
            None => {
                let found = value.type_name();
                Err(self.error(key, Problem::WrongType { expected, found }))
            }
        }
    }
}
