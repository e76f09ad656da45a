//! Cuts a GGUF into parts and puts parts together.
//!
//! Parts are llama.cpp's: their names, their keys and which tensors go into which, so that its tools and
//! ours read each other's; [`crate::gguf`] finds the siblings when it opens one. All metadata stands in the
//! first part. Tensor data is copied, never changed: merging what was split gives the file it was split
//! from, bit for bit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::export::{OutputFile, PlannedTensor, content_metadata};
use crate::gguf::{Gguf, TensorInfo, Value};

/// Where tensors are padded to in a file.
const ALIGNMENT: u64 = 32;
/// `split.count` is a u16.
const MAX_PARTS: usize = u16::MAX as usize;

/// How much goes into one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of tensors with their padding; the header comes on top.
    Bytes(u64),
    /// Number of tensors.
    Tensors(u64),
}

/// A size such as `500M` or `2G`, in powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// Why a file cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// More parts than the format counts.
    #[error("{0} parts; at most {MAX_PARTS} can be counted: choose a larger limit")]
    TooManyParts(usize),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a number with M or G, such as 500M or 2G".to_owned();
        let unit = match text.chars().last() {
            Some('M') => 1_000_000,
            Some('G') => 1_000_000_000,
            _ => return Err(expected()),
        };
        let digits = &text[..text.len() - 1];
        let n = digits.parse::<u64>().ok().filter(|&n| n > 0 && !digits.starts_with('+'));
        n.and_then(|n| n.checked_mul(unit)).map(Size).ok_or_else(expected)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(n) => write!(f, "{n} bytes"),
            Self::Tensors(n) => write!(f, "{n} tensors"),
        }
    }
}

/// Plans the parts `PREFIX-00001-of-0000N.gguf`.
///
/// A tensor that is larger than the limit gets a part of its own. With `no_tensor_first` the first part has
/// metadata only.
pub fn split<'a>(
    gguf: &'a Gguf,
    prefix: &Path,
    limit: Limit,
    no_tensor_first: bool,
) -> Result<Vec<OutputFile<'a>>, SplitError> {
    let mut parts = parts(gguf.tensors(), limit);
    if no_tensor_first {
        parts.insert(0, &[]);
    }
    let count = parts.len();
    if count > MAX_PARTS {
        return Err(SplitError::TooManyParts(count));
    }
    let n_tensors = i32::try_from(gguf.tensors().len()).expect("headers are limited to 256 MiB");
    let output = |(no, tensors): (usize, &&[TensorInfo])| {
        let mut metadata = if no == 0 { content_metadata(gguf) } else { Vec::new() };
        // In the order in which llama.cpp's tool comes to write them.
        for (key, value) in [
            ("split.no", Value::U16(no as u16)),
            ("split.tensors.count", Value::I32(n_tensors)),
            ("split.count", Value::U16(count as u16)),
        ] {
            metadata.push((key.to_owned(), value));
        }
        let tensors = tensors.iter().map(|tensor| PlannedTensor::copy_of(gguf, tensor)).collect();
        OutputFile { path: part_path(prefix, no, count), metadata, tensors }
    };
    Ok(parts.iter().enumerate().map(output).collect())
}

/// Plans the one file that the parts of `gguf` are.
pub fn merge(gguf: &Gguf, path: PathBuf) -> OutputFile<'_> {
    let tensors = gguf.tensors().iter().map(|tensor| PlannedTensor::copy_of(gguf, tensor));
    OutputFile { path, metadata: content_metadata(gguf), tensors: tensors.collect() }
}

/// The name of part `no`, counted from 0.
fn part_path(prefix: &Path, no: usize, count: usize) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!("-{:05}-of-{count:05}.gguf", no + 1));
    path.into()
}

/// Cuts the list; there is always a first part.
fn parts(tensors: &[TensorInfo], limit: Limit) -> Vec<&[TensorInfo]> {
    let mut parts = Vec::new();
    let (mut start, mut n_bytes) = (0, 0u64);
    for (idx, tensor) in tensors.iter().enumerate() {
        let size = tensor.n_bytes.next_multiple_of(ALIGNMENT);
        let is_full = match limit {
            Limit::Bytes(most) => n_bytes + size > most,
            Limit::Tensors(most) => (idx - start) as u64 >= most,
        };
        if is_full && idx > start {
            parts.push(&tensors[start..idx]);
            (start, n_bytes) = (idx, 0);
        }
        n_bytes += size;
    }
    parts.push(&tensors[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;

    fn tensors(sizes: &[u64]) -> Vec<TensorInfo> {
        let tensor = |(i, &n_bytes): (usize, &u64)| TensorInfo {
            name: format!("t{i}"),
            ty: TensorType::I8,
            dims: vec![n_bytes],
            part: 0,
            offset: 0,
            n_bytes,
        };
        sizes.iter().enumerate().map(tensor).collect()
    }

    #[test]
    fn sizes_are_read_as_llama_cpp_reads_them() {
        assert_eq!("500M".parse(), Ok(Size(500_000_000)));
        assert_eq!("2G".parse(), Ok(Size(2_000_000_000)));
        for text in ["", "M", "0G", "-1G", "+1G", "2", "2K", "1.5G", "2GB", "99999999999999G", "é"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_are_filled_up_to_the_limit() {
        let tensors = tensors(&[10, 32, 33, 200, 1, 1, 1]);
        let lengths = |limit| {
            let parts = parts(&tensors, limit);
            parts.iter().map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(Limit::Bytes(64)), [2, 1, 1, 2, 1]);
        assert_eq!(lengths(Limit::Bytes(1)), [1; 7]);
        assert_eq!(lengths(Limit::Bytes(u64::MAX)), [7]);
        assert_eq!(lengths(Limit::Tensors(3)), [3, 3, 1]);
        assert_eq!(lengths(Limit::Tensors(7)), [7]);
        assert_eq!(parts(&[], Limit::Tensors(1)), [&[]]);
        let part = part_path(Path::new("/m/x.y"), 1, 12);
        assert_eq!(part, Path::new("/m/x.y-00002-of-00012.gguf"));
    }
}
