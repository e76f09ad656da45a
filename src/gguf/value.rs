//! Metadata values: the thirteen value types of GGUF.
//!
//! Arrays are stored by element type, and arrays of strings as one text with end positions, so that
//! the 131,072 tokens of a vocabulary cost two allocations.

use std::fmt;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The variants are GGUF's value types.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one of the scalar types or of strings; GGUF's nested arrays are refused.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Many strings in one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    /// Room for `n` strings of `n_bytes` together.
    pub(super) fn with_capacity(n: usize, n_bytes: usize) -> Self {
        Self { text: String::with_capacity(n_bytes), ends: Vec::with_capacity(n) }
    }

    /// Appends a string. The caller keeps the total below 4 GiB (the reader's header limit does).
    pub(super) fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(u32::try_from(self.text.len()).expect("headers are limited to 256 MiB"));
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `idx`.
    pub fn get(&self, idx: usize) -> Option<&str> {
        let end = *self.ends.get(idx)? as usize;
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] as usize };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.text[start..end as usize];
            start = end as usize;
            string
        })
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

macro_rules! per_variant {
    ($array:expr, $items:ident => $body:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::F32($items) => $body,
            Array::Bool($items) => $body,
            Array::String($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F64($items) => $body,
        }
    };
}

impl Array {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        per_variant!(self, items => items.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `idx` as a scalar value or string.
    pub fn get(&self, idx: usize) -> Option<Value> {
        Some(match self {
            Self::U8(items) => Value::U8(*items.get(idx)?),
            Self::I8(items) => Value::I8(*items.get(idx)?),
            Self::U16(items) => Value::U16(*items.get(idx)?),
            Self::I16(items) => Value::I16(*items.get(idx)?),
            Self::U32(items) => Value::U32(*items.get(idx)?),
            Self::I32(items) => Value::I32(*items.get(idx)?),
            Self::F32(items) => Value::F32(*items.get(idx)?),
            Self::Bool(items) => Value::Bool(*items.get(idx)?),
            Self::String(items) => Value::String(items.get(idx)?.to_owned()),
            Self::U64(items) => Value::U64(*items.get(idx)?),
            Self::I64(items) => Value::I64(*items.get(idx)?),
            Self::F64(items) => Value::F64(*items.get(idx)?),
        })
    }

    /// Name of the element type.
    pub fn element_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Every element as an integer; `None` unless this is an array of integers.
    pub fn integers(&self) -> Option<Vec<i128>> {
        Some(match self {
            Self::U8(items) => items.iter().map(|&x| x.into()).collect(),
            Self::I8(items) => items.iter().map(|&x| x.into()).collect(),
            Self::U16(items) => items.iter().map(|&x| x.into()).collect(),
            Self::I16(items) => items.iter().map(|&x| x.into()).collect(),
            Self::U32(items) => items.iter().map(|&x| x.into()).collect(),
            Self::I32(items) => items.iter().map(|&x| x.into()).collect(),
            Self::U64(items) => items.iter().map(|&x| x.into()).collect(),
            Self::I64(items) => items.iter().map(|&x| x.into()).collect(),
            _ => return None,
        })
    }
}

impl Value {
    /// Name of the type: `u32`, `string`, `array of f32` …
    pub fn type_name(&self) -> String {
        match self {
            Self::U8(_) => "u8".into(),
            Self::I8(_) => "i8".into(),
            Self::U16(_) => "u16".into(),
            Self::I16(_) => "i16".into(),
            Self::U32(_) => "u32".into(),
            Self::I32(_) => "i32".into(),
            Self::F32(_) => "f32".into(),
            Self::Bool(_) => "bool".into(),
            Self::String(_) => "string".into(),
            Self::Array(array) => format!("array of {}", array.element_type()),
            Self::U64(_) => "u64".into(),
            Self::I64(_) => "i64".into(),
            Self::F64(_) => "f64".into(),
        }
    }
}

/// Scalars and strings as they are, arrays as their size.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(x) => write!(f, "{x}"),
            Self::I8(x) => write!(f, "{x}"),
            Self::U16(x) => write!(f, "{x}"),
            Self::I16(x) => write!(f, "{x}"),
            Self::U32(x) => write!(f, "{x}"),
            Self::I32(x) => write!(f, "{x}"),
            Self::F32(x) => write!(f, "{x}"),
            Self::Bool(x) => write!(f, "{x}"),
            Self::String(x) => f.write_str(x),
            Self::Array(array) => write!(f, "{} × {}", array.len(), array.element_type()),
            Self::U64(x) => write!(f, "{x}"),
            Self::I64(x) => write!(f, "{x}"),
            Self::F64(x) => write!(f, "{x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_in_order() {
        let mut strings = Strings::default();
        for string in ["", "Ġt", "", "é"] {
            strings.push(string);
        }
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "Ġt", "", "é"]);
        assert_eq!((strings.get(1), strings.get(3), strings.get(4)), (Some("Ġt"), Some("é"), None));
    }

    #[test]
    fn types_have_names() {
        assert_eq!(Value::U32(1).type_name(), "u32");
        assert_eq!(Value::Array(Array::F32(vec![])).type_name(), "array of f32");
    }
}
