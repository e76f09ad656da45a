//! The header of a safetensors file, checked from first to last byte.
//!
//! [`read_safetensors`] accepts only files that are all header and tensors: no key twice, no tensor outside
//! its file, no byte that belongs to no tensor or to two. What it returns can be read without further checks.
//! A parser of our own, since the usual one keeps the last of two equal keys.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::json::Unique;
use crate::gguf::escape;

/// Most bytes of a header: as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Most tensors in a file: far above every model.
const MAX_TENSORS: usize = 1 << 20;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;
/// The length of the header, in front of it.
const N_LENGTH: usize = 8;

/// Element types; all but the others can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Named as in the file.
pub enum Dtype {
    F32,
    F16,
    BF16,
    F8E4m3,
    /// What only tensors have that are no weights.
    Other(&'static str),
}

impl Dtype {
    const NAMES: [(&'static str, Self); 4] =
        [("F32", Self::F32), ("F16", Self::F16), ("BF16", Self::BF16), ("F8_E4M3", Self::F8E4m3)];
    /// Others, with the bytes of an element.
    const OTHERS: [(&'static str, u64); 8] = [
        ("F64", 8),
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U64", 8),
        ("U8", 1),
        ("BOOL", 1),
    ];

    fn from_name(name: &str) -> Option<Self> {
        let known = Self::NAMES.into_iter().find(|(known, _)| *known == name);
        let other = || Self::OTHERS.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, dtype)| dtype).or_else(|| other().map(|(name, _)| Self::Other(name)))
    }

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other(name) => name,
            _ => Self::NAMES.iter().find(|(_, dtype)| *dtype == self).expect("the table has all").0,
        }
    }

    /// Bytes of one element.
    pub fn n_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4m3 => 1,
            Self::Other(name) => {
                Self::OTHERS.iter().find(|(other, _)| *other == name).expect("made from it").1
            }
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name, as it stands there.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Dimensions in PyTorch's order, rows first.
    pub shape: Vec<u64>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum HeaderError {
    #[error("a Git LFS pointer instead of the weights; run 'git lfs pull'")]
    LfsPointer,
    #[error("@byte 0: header length; expected 2 to {most}, found {found}")]
    Length { most: u64, found: String },
    #[error("@byte {at}: header is not UTF-8")]
    Utf8 { at: usize },
    #[error("@byte 8: header is not as safetensors writes it: {problem}")]
    Json { problem: String },
    #[error("tensor {name} is there twice")]
    Twice { name: String },
    #[error("tensor {name}: dtype {dtype} cannot be converted; expected F32, F16, BF16 or F8_E4M3")]
    Dtype { name: String, dtype: String },
    #[error("tensor {name}: bytes {start}..{end} of the data end before they start")]
    Reversed { name: String, start: u64, end: u64 },
    #[error(
        "tensor {name}: bytes {start}..{end} of the data reach beyond its {n_data} bytes; \
         the file may be truncated: download it again"
    )]
    Beyond { name: String, start: u64, end: u64, n_data: u64 },
    #[error("tensor {name}: {dtype} of shape {shape:?} {expected}, but its range {start}..{end} has {}", .end - .start)]
    Size {
        name: String,
        dtype: &'static str,
        shape: Vec<u64>,
        expected: String,
        start: u64,
        end: u64,
    },
    #[error("tensors {a} and {b} overlap: bytes {} and {} of the data", shown(.range_a), shown(.range_b))]
    Overlap { a: String, b: String, range_a: Range<u64>, range_b: Range<u64> },
    #[error(
        "bytes {start}..{end} of the data belong to no tensor; expected them to belong to {name}"
    )]
    Hole { name: String, start: u64, end: u64 },
    #[error(
        "bytes {start}..{end} of the data belong to no tensor; the file is longer than it says"
    )]
    Rest { start: u64, end: u64 },
}

fn shown(range: &Range<u64>) -> String {
    format!("{}..{}", range.start, range.end)
}

/// A name from a file, quoted for a message.
pub(super) fn quoted(name: &str) -> String {
    format!("'{}'", escape(name.as_bytes()))
}

/// The tensors of the file whose bytes are `bytes`, sorted by name.
pub fn read_safetensors(bytes: &[u8]) -> Result<Vec<StoredTensor>, HeaderError> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(HeaderError::LfsPointer);
    }
    let (header, data) = split(bytes)?;
    let header = std::str::from_utf8(header)
        .map_err(|error| HeaderError::Utf8 { at: N_LENGTH + error.valid_up_to() })?;
    if !header.starts_with('{') {
        let problem = "expected '{' as its first character".to_owned();
        return Err(HeaderError::Json { problem });
    }
    let Header(mut entries) = serde_json::from_str(header).map_err(|error| {
        let problem = escape(error.to_string().as_bytes());
        HeaderError::Json { problem }
    })?;
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(HeaderError::Twice { name: quoted(&pair[0].0) });
    }
    check_tiling(&entries, data.len() as u64)?;
    let start = bytes.len() - data.len();
    entries.into_iter().map(|(name, entry)| stored(name, entry, start)).collect()
}

/// The header's text, and the data behind it.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), HeaderError> {
    let n_rest = bytes.len().saturating_sub(N_LENGTH) as u64;
    let most = n_rest.min(MAX_HEADER);
    let Some((length, rest)) = bytes.split_first_chunk::<N_LENGTH>() else {
        let found = format!("a file of {} bytes", bytes.len());
        return Err(HeaderError::Length { most: MAX_HEADER, found });
    };
    let length = u64::from_le_bytes(*length);
    if length < 2 || length > most {
        let found = match length > n_rest && length <= MAX_HEADER {
            true => format!("{length} in a file of {} bytes: it may be truncated", bytes.len()),
            false => length.to_string(),
        };
        return Err(HeaderError::Length { most, found });
    }
    Ok(rest.split_at(length as usize))
}

/// Tensors must follow each other without a gap from the first byte of the data to the last.
fn check_tiling(entries: &[(String, Entry)], n_data: u64) -> Result<(), HeaderError> {
    for (name, entry) in entries {
        let (start, end) = entry.data_offsets;
        let name = || quoted(name);
        if start > end {
            return Err(HeaderError::Reversed { name: name(), start, end });
        }
        if end > n_data {
            return Err(HeaderError::Beyond { name: name(), start, end, n_data });
        }
    }
    let mut in_order: Vec<&(String, Entry)> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut last: Option<&(String, Entry)> = None;
    for tensor in in_order {
        let (start, end) = tensor.1.data_offsets;
        let reached = last.map_or(0, |(_, entry)| entry.data_offsets.1);
        if start > reached {
            return Err(HeaderError::Hole { name: quoted(&tensor.0), start: reached, end: start });
        }
        if let Some((name, entry)) = last.filter(|_| start < reached) {
            let (a, b) = (quoted(name), quoted(&tensor.0));
            let range_a = entry.data_offsets.0..reached;
            return Err(HeaderError::Overlap { a, b, range_a, range_b: start..end });
        }
        last = Some(tensor);
    }
    let reached = last.map_or(0, |(_, entry)| entry.data_offsets.1);
    match reached == n_data {
        true => Ok(()),
        false => Err(HeaderError::Rest { start: reached, end: n_data }),
    }
}

fn stored(name: String, entry: Entry, data: usize) -> Result<StoredTensor, HeaderError> {
    let Entry { dtype, shape: Shape(shape), data_offsets: (start, end) } = entry;
    let Some(known) = Dtype::from_name(&dtype) else {
        return Err(HeaderError::Dtype { name: quoted(&name), dtype: quoted(&dtype) });
    };
    let n_bytes = shape.iter().try_fold(known.n_bytes(), |n, &dim| n.checked_mul(dim));
    if n_bytes != Some(end - start) {
        let expected = match n_bytes {
            Some(n) => format!("takes {n} bytes"),
            None => "takes more than 2^64 bytes".to_owned(),
        };
        let (name, dtype) = (quoted(&name), known.name());
        return Err(HeaderError::Size { name, dtype, shape, expected, start, end });
    }
    // Both offsets lie inside the mapped file, whose length is a usize.
    let range = data + start as usize..data + end as usize;
    Ok(StoredTensor { name, dtype: known, shape, range })
}

/// Name and description of every tensor, in the order in which they stand there.
struct Header(Vec<(String, Entry)>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut n_metadata = 0;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        n_metadata += 1;
                        map.next_value::<Unique<String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                    if n_metadata > 1 || entries.len() > MAX_TENSORS {
                        let problem = match n_metadata {
                            2 => "'__metadata__' twice".to_owned(),
                            _ => format!("more than {MAX_TENSORS} tensors"),
                        };
                        return Err(A::Error::custom(problem));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_DIMS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(A::Error::invalid_length(dims.len() + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}
