//! What can be wrong with a GGUF file, and where.
//!
//! A [`GgufError`] is a [`Place`] and a [`Problem`]; it prints as
//! `file (part k/n) @byte N key 'x': problem; expected …, found …`. Names come from the file, so
//! they are escaped and cut before they reach a terminal.

use std::fmt;
use std::sync::Arc;

/// The longest name a message shows, in characters.
const MAX_SHOWN: usize = 80;

/// One file of a model, as messages call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Path or name of the file.
    pub file: Arc<str>,
    /// Number of the part (from 1) and how many there are, in a split model.
    pub part: Option<(u32, u32)>,
}

impl Label {
    /// A file that is a whole model.
    pub fn whole(file: &str) -> Self {
        Self { file: file.into(), part: None }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((k, n)) = self.part {
            write!(f, " (part {k}/{n})")?;
        }
        Ok(())
    }
}

/// What inside a file a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A key whose name is known.
    Key(String),
    /// The n-th key-value pair, where its name could not be read.
    KeyIdx(u64),
    /// A tensor whose name is known.
    Tensor(String),
    /// The n-th tensor, where its name could not be read.
    TensorIdx(u64),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key '{}'", escape(name.as_bytes())),
            Self::KeyIdx(idx) => write!(f, "key #{idx}"),
            Self::Tensor(name) => write!(f, "tensor '{}'", escape(name.as_bytes())),
            Self::TensorIdx(idx) => write!(f, "tensor #{idx}"),
        }
    }
}

/// Where in which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub label: Label,
    /// Offset of the offending field from the start of the file.
    pub byte: Option<u64>,
    /// The key or tensor.
    pub item: Option<Item>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.label)?;
        if let Some(byte) = self.byte {
            write!(f, " @byte {byte}")?;
        }
        if let Some(item) = &self.item {
            write!(f, " {item}")?;
        }
        Ok(())
    }
}

/// A GGUF file that cannot be used, with the place of its first fault.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct GgufError {
    place: Box<Place>,
    problem: Box<Problem>,
}

impl GgufError {
    pub(crate) fn new(label: &Label, problem: Problem) -> Self {
        let place = Place { label: label.clone(), byte: None, item: None };
        Self { place: Box::new(place), problem: Box::new(problem) }
    }

    pub(crate) fn at(mut self, byte: u64) -> Self {
        self.place.byte = Some(byte);
        self
    }

    /// Names the key or tensor, unless an inner function already did.
    pub(crate) fn about(mut self, item: impl FnOnce() -> Item) -> Self {
        self.place.item.get_or_insert_with(item);
        self
    }

    /// Where the fault is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the fault is.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum Problem {
    #[error("cannot read the file: {error}")]
    Io { error: std::io::Error },
    #[error("not a regular file; expected a GGUF file, found {found}")]
    NotRegular { found: &'static str },
    #[error("file too short for a GGUF header ({found} of 24 bytes)")]
    TooShort { found: u64 },
    #[error("not a GGUF file; {looks_like}")]
    Magic { looks_like: String },
    #[error("big-endian file; expected little-endian: convert the model again on a usual machine")]
    BigEndian,
    #[error("GGUF version {found} unsupported; expected 2 or 3")]
    Version { found: u32 },
    #[error("{found} {what}; expected at most {most}, {why}")]
    Count { what: &'static str, found: u64, most: u64, why: &'static str },
    #[error(
        "header ends too early: {what} needs {needs} bytes, found {left} before the file's end"
    )]
    PastEnd { what: &'static str, needs: u64, left: u64 },
    #[error("{what} name {fault}: \"{shown}\"")]
    Name { what: &'static str, fault: String, shown: String },
    #[error("duplicate key; expected each key once, found it as #{first} and #{second}")]
    DuplicateKey { first: u64, second: u64 },
    #[error("unknown value type; expected 0 to 12, found {found}")]
    ValueType { found: u32 },
    #[error("nested arrays not supported; expected an array of scalars or strings")]
    NestedArray,
    #[error("bad bool; expected 0 or 1, found {found}")]
    Bool { found: u8 },
    #[error("{what} is not UTF-8 from byte {at} on: \"{shown}\"")]
    Utf8 { what: String, at: usize, shown: String },
    #[error("wrong type; must be {expected}, found {found}")]
    WrongType { expected: &'static str, found: String },
    #[error("bad alignment; expected a power of two from 8 to 65536, found {found}")]
    Alignment { found: u32 },
    #[error("duplicate tensor; expected each name once, found it as #{first} and #{second}")]
    DuplicateTensor { first: u64, second: u64 },
    #[error("{found} dimensions; expected 1 to 4")]
    NDims { found: u32 },
    #[error("impossible dimensions [{dims}]: {fault}")]
    Dims { dims: String, fault: String },
    #[error("unknown tensor type; expected a type of ggml 0.28, found {found}")]
    TensorType { found: String },
    #[error("rows of {row} elements do not fill blocks of {ty}; expected a multiple of {block}")]
    RowBlock { ty: &'static str, row: u64, block: u64 },
    #[error("unaligned data offset; expected a multiple of {alignment}, found {found}")]
    Unaligned { found: u64, alignment: u64 },
    #[error("impossible data offset {found}; expected one inside the file of {file_len} bytes")]
    Offset { found: u64, file_len: u64 },
    #[error(
        "needs bytes {start}..{end}, file ends at {file_len} (missing {missing} bytes): \
         download incomplete?"
    )]
    Truncated { start: u64, end: u64, file_len: u64, missing: u64 },
    #[error("bytes {a_start}..{a_end} overlap tensor '{b}' at bytes {b_start}..{b_end}")]
    Overlap { a_start: u64, a_end: u64, b: String, b_start: u64, b_end: u64 },
    #[error("part of a split model, but its name does not end in {expected}; rename the parts")]
    SplitName { expected: String },
    #[error("missing parts of the split model: {names}; expected them in the same folder")]
    SplitMissing { names: String },
    #[error("parts do not belong together; expected {expected}, found {found}")]
    SplitMismatch { expected: String, found: String },
    #[error("in two parts of the split model, {first} and {second}")]
    SplitTensorTwice { first: String, second: String },
    #[error("{n_bad} bad values, first in row {row}; expected finite numbers, found {found}")]
    Payload { n_bad: u64, row: u64, found: String },
}

/// `bytes` for a message: control characters and invalid bytes escaped, at most 80 characters.
pub fn escape(bytes: &[u8]) -> String {
    let mut shown = String::new();
    let mut n_shown = 0;
    for chunk in bytes.utf8_chunks() {
        let escaped = chunk.valid().chars().map(escape_char);
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in escaped.chain(invalid) {
            let n = piece.chars().count();
            if n_shown + n > MAX_SHOWN - 1 {
                shown.push('…');
                return shown;
            }
            n_shown += n;
            shown.push_str(&piece);
        }
    }
    shown
}

/// Escapes what could move a cursor or reverse a line; leaves quotes and letters alone.
fn escape_char(c: char) -> String {
    let reorders = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}');
    match c {
        '\\' => "\\\\".into(),
        c if c.is_control() || reorders => c.escape_default().to_string(),
        c => c.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        let cases: &[(&[u8], &str)] = &[
            (b"blk.0.attn_q.weight", "blk.0.attn_q.weight"),
            (b"a\0b\x1b[31m\n", "a\\u{0}b\\u{1b}[31m\\n"),
            (b"\xff\xc3ok", "\\xff\\xc3ok"),
            ("Größe \u{202e}".as_bytes(), "Größe \\u{202e}"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(escape(bytes), *shown);
        }
        let long = escape(&[b'x'; 1000]);
        assert_eq!(long.chars().count(), MAX_SHOWN);
        assert!(escape(&[7; 1000]).chars().count() <= MAX_SHOWN);
    }

    #[test]
    fn places_print_in_order() {
        let label = Label { file: "m.gguf".into(), part: Some((2, 3)) };
        let error = GgufError::new(&label, Problem::NestedArray)
            .at(77)
            .about(|| Item::Key("x".into()))
            .about(|| Item::KeyIdx(3));
        let text = error.to_string();
        assert!(text.starts_with("m.gguf (part 2/3) @byte 77 key 'x': nested arrays"), "{text}");
    }
}
