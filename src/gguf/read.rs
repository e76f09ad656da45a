//! Reads and checks the header of one GGUF file: counts, key-value pairs, tensor list.
//!
//! Every number from the file is compared with the bytes that are left before anything is
//! allocated or multiplied by it, so that a hostile header costs no more memory than it has bytes.
//! What the keys mean is not known here (see `model::hparams`), only what types they must have.

use super::error::{GgufError, Item, Label, Problem, escape};
use super::keys;
use super::metadata::Metadata;
use super::value::{Array, Strings, Value};

/// Most key-value pairs in a file.
const MAX_KEYS: u64 = 65_536;
/// Most tensors in a file.
pub(super) const MAX_TENSORS: u64 = 65_536;
/// Longest key, in bytes.
const MAX_KEY_LEN: u64 = 65_535;
/// Longest array.
const MAX_ARRAY_LEN: u64 = 4 << 20;
/// Longest header, in bytes.
const MAX_HEADER: u64 = 256 << 20;
/// Magic, version, number of tensors, number of keys.
const FIXED_HEADER: u64 = 24;
/// Shortest key-value pair: key length, one letter, value type, one byte.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// Shortest tensor entry: name length, one letter, rank, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What stands before the tensor list.
#[derive(Debug)]
pub(super) struct Preamble {
    pub(super) version: u32,
    pub(super) n_tensors: u64,
    pub(super) metadata: Metadata,
}

/// Reads magic, version, counts and metadata; leaves `cursor` at the tensor list.
pub(super) fn preamble(cursor: &mut Cursor<'_>) -> Result<Preamble, GgufError> {
    let version = magic_and_version(cursor)?;
    let n_tensors = cursor.u64("number of tensors")?;
    let n_keys = cursor.u64("number of keys")?;
    cursor.check_count("tensors", n_tensors, MAX_TENSORS, MIN_TENSOR_BYTES, 8)?;
    cursor.check_count("keys", n_keys, MAX_KEYS, MIN_KEY_BYTES, 16)?;

    let mut metadata = Metadata::new(cursor.label.clone());
    for idx in 0..n_keys {
        let key_at = cursor.pos();
        let key = key(cursor).map_err(|error| error.about(|| Item::KeyIdx(idx)))?;
        let named = |error: GgufError| error.about(|| Item::Key(key.clone()));
        let value_at = cursor.pos();
        let value = value(cursor).map_err(named)?;
        keys::check(&key, &value).map_err(|problem| named(cursor.error(problem).at(value_at)))?;
        metadata
            .insert(key.clone(), value, value_at)
            .map_err(|problem| named(cursor.error(problem).at(key_at)))?;
    }
    Ok(Preamble { version, n_tensors, metadata })
}

fn magic_and_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let bytes = cursor.bytes;
    if !bytes.starts_with(b"GGUF") && bytes.len() >= 4 {
        return Err(cursor.error(Problem::Magic { looks_like: looks_like(bytes) }).at(0));
    }
    if (bytes.len() as u64) < FIXED_HEADER {
        return Err(cursor.error(Problem::TooShort { found: bytes.len() as u64 }));
    }
    cursor.take(4, "magic")?;
    match cursor.u32("version")? {
        version @ (2 | 3) => Ok(version),
        found if matches!(found.swap_bytes(), 1..=9) => Err(cursor.error(Problem::BigEndian).at(4)),
        found => Err(cursor.error(Problem::Version { found }).at(4)),
    }
}

/// Guesses what a file that is not GGUF is, so that the message can say what to do.
fn looks_like(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let is_safetensors = head.get(8) == Some(&b'{')
        && head[..8].try_into().is_ok_and(|n| u64::from_le_bytes(n) <= 100 << 20);
    let guess = if text.starts_with("version https://git-lfs") {
        "this is a Git LFS pointer, run git lfs pull"
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "this is a web page, not the file behind it: download the file itself"
    } else if head.starts_with(b"PK\x03\x04") {
        "this is a zip archive or a PyTorch checkpoint: convert it to GGUF first"
    } else if head.starts_with(b"\x1f\x8b") || head.starts_with(b"\x28\xb5\x2f\xfd") {
        "this is a compressed file: unpack it first"
    } else if is_safetensors {
        "this is a safetensors file: convert it to GGUF first"
    } else if head.starts_with(b"tjgg") || head.starts_with(b"fmgg") || head.starts_with(b"lmgg") {
        "this is a ggml file from before GGUF: download or convert the model again"
    } else if head.starts_with(b"FUGG") {
        "this is a byte-swapped GGUF file: convert the model again"
    } else {
        let magic = escape(&head[..head.len().min(4)]);
        return format!("expected it to start with \"GGUF\", found \"{magic}\"");
    };
    guess.to_owned()
}

fn key(cursor: &mut Cursor<'_>) -> Result<String, GgufError> {
    let at = cursor.pos();
    let n = cursor.u64("key length")?;
    if n > MAX_KEY_LEN {
        let (most, why) = (MAX_KEY_LEN, "the limit for keys");
        let problem = Problem::Count { what: "bytes of key", found: n, most, why };
        return Err(cursor.error(problem).at(at));
    }
    let bytes = cursor.take(n, "key")?;
    name("key", bytes).map_err(|problem| cursor.error(problem).at(at))
}

/// Checks a key or tensor name: not empty, UTF-8, no NUL.
pub(super) fn name(what: &'static str, bytes: &[u8]) -> Result<String, Problem> {
    let fault = match std::str::from_utf8(bytes) {
        Ok("") => "is empty".to_owned(),
        Ok(name) if name.contains('\0') => "contains a NUL byte".to_owned(),
        Ok(name) => return Ok(name.to_owned()),
        Err(error) => format!("is not UTF-8 from byte {} on", error.valid_up_to()),
    };
    Err(Problem::Name { what, fault, shown: escape(bytes) })
}

/// A scalar as the file stores it: fixed size, little-endian.
trait Scalar: Sized {
    const SIZE: u64;
    fn from_le(bytes: &[u8]) -> Option<Self>;
}

macro_rules! scalars {
    ($($ty:ident)*) => {$(
        impl Scalar for $ty {
            const SIZE: u64 = size_of::<$ty>() as u64;
            fn from_le(bytes: &[u8]) -> Option<Self> {
                Some($ty::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}
scalars!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

fn value(cursor: &mut Cursor<'_>) -> Result<Value, GgufError> {
    let at = cursor.pos();
    Ok(match cursor.u32("value type")? {
        0 => Value::U8(cursor.scalar("value")?),
        1 => Value::I8(cursor.scalar("value")?),
        2 => Value::U16(cursor.scalar("value")?),
        3 => Value::I16(cursor.scalar("value")?),
        4 => Value::U32(cursor.scalar("value")?),
        5 => Value::I32(cursor.scalar("value")?),
        6 => Value::F32(cursor.scalar("value")?),
        7 => Value::Bool(cursor.bool()?),
        8 => Value::String(cursor.string("string value")?.to_owned()),
        9 => Value::Array(array(cursor)?),
        10 => Value::U64(cursor.scalar("value")?),
        11 => Value::I64(cursor.scalar("value")?),
        12 => Value::F64(cursor.scalar("value")?),
        found => return Err(cursor.error(Problem::ValueType { found }).at(at)),
    })
}

fn array(cursor: &mut Cursor<'_>) -> Result<Array, GgufError> {
    let at = cursor.pos();
    let element_type = cursor.u32("array element type")?;
    let n_at = cursor.pos();
    let n = cursor.u64("array length")?;
    if element_type == 9 {
        return Err(cursor.error(Problem::NestedArray).at(at));
    }
    if n > MAX_ARRAY_LEN {
        let why = "the limit for arrays";
        let problem = Problem::Count { what: "array elements", found: n, most: MAX_ARRAY_LEN, why };
        return Err(cursor.error(problem).at(n_at));
    }
    Ok(match element_type {
        0 => Array::U8(cursor.scalars(n)?),
        1 => Array::I8(cursor.scalars(n)?),
        2 => Array::U16(cursor.scalars(n)?),
        3 => Array::I16(cursor.scalars(n)?),
        4 => Array::U32(cursor.scalars(n)?),
        5 => Array::I32(cursor.scalars(n)?),
        6 => Array::F32(cursor.scalars(n)?),
        7 => Array::Bool(cursor.bools(n)?),
        8 => Array::String(cursor.strings(n)?),
        10 => Array::U64(cursor.scalars(n)?),
        11 => Array::I64(cursor.scalars(n)?),
        12 => Array::F64(cursor.scalars(n)?),
        found => return Err(cursor.error(Problem::ValueType { found }).at(at)),
    })
}

/// A position in a file's bytes that cannot leave them.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    pub(super) label: &'a Label,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], label: &'a Label) -> Self {
        Self { bytes, pos: 0, label }
    }

    /// Offset from the start of the file.
    pub(super) fn pos(&self) -> u64 {
        self.pos as u64
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// An error of this file, not yet placed.
    pub(super) fn error(&self, problem: Problem) -> GgufError {
        GgufError::new(self.label, problem)
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(n).ok().and_then(|n| self.pos.checked_add(n));
        let Some(bytes) = end.and_then(|end| self.bytes.get(self.pos..end)) else {
            let problem = Problem::PastEnd { what, needs: n, left: self.left() };
            return Err(self.error(problem).at(self.pos()));
        };
        self.pos += bytes.len();
        if self.pos() > MAX_HEADER {
            let (most, why) = (MAX_HEADER, "the limit for headers");
            let problem = Problem::Count { what: "bytes of header", found: self.pos(), most, why };
            return Err(self.error(problem).at(self.pos()));
        }
        Ok(bytes)
    }

    fn scalar<T: Scalar>(&mut self, what: &'static str) -> Result<T, GgufError> {
        let bytes = self.take(T::SIZE, what)?;
        Ok(T::from_le(bytes).expect("take returns as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.scalar(what)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.scalar(what)
    }

    fn bool(&mut self) -> Result<bool, GgufError> {
        let at = self.pos();
        match self.scalar::<u8>("bool")? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(self.error(Problem::Bool { found }).at(at)),
        }
    }

    fn string(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let n = self.u64("string length")?;
        let at = self.pos();
        let bytes = self.take(n, what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let (what, shown) = (what.to_owned(), escape(bytes));
            self.error(Problem::Utf8 { what, at: error.valid_up_to(), shown }).at(at)
        })
    }

    /// `n` scalars; their bytes are taken before memory for them is.
    fn scalars<T: Scalar>(&mut self, n: u64) -> Result<Vec<T>, GgufError> {
        let n_bytes = n.saturating_mul(T::SIZE);
        let size = usize::try_from(T::SIZE).expect("scalars have at most 8 bytes");
        let bytes = self.take(n_bytes, "array")?;
        let item = |bytes| T::from_le(bytes).expect("chunks have the scalar's size");
        Ok(bytes.chunks_exact(size).map(item).collect())
    }

    fn bools(&mut self, n: u64) -> Result<Vec<bool>, GgufError> {
        let at = self.pos();
        let bytes = self.take(n, "array")?;
        if let Some(idx) = bytes.iter().position(|&byte| byte > 1) {
            let problem = Problem::Bool { found: bytes[idx] };
            return Err(self.error(problem).at(at + idx as u64));
        }
        Ok(bytes.iter().map(|&byte| byte == 1).collect())
    }

    /// `n` strings, in two passes: the first finds how many bytes they have together.
    fn strings(&mut self, n: u64) -> Result<Strings, GgufError> {
        self.check_count("strings", n, MAX_ARRAY_LEN, 8, self.pos())?;
        let start = self.pos;
        let mut n_bytes = 0;
        for _ in 0..n {
            let len = self.u64("string length")?;
            n_bytes += self.take(len, "string of an array")?.len();
        }
        self.pos = start;
        let n = usize::try_from(n).expect("checked against the bytes that are left");
        let mut strings = Strings::with_capacity(n, n_bytes);
        for _ in 0..n {
            strings.push(self.string("string of an array")?);
        }
        Ok(strings)
    }

    /// Refuses a count that exceeds its limit or that the rest of the file cannot hold.
    fn check_count(
        &self,
        what: &'static str,
        found: u64,
        limit: u64,
        min_bytes: u64,
        at: u64,
    ) -> Result<(), GgufError> {
        let fit = self.left() / min_bytes;
        let (most, why) = if limit <= fit {
            (limit, "the limit of this program")
        } else {
            (fit, "which is what the bytes left in the file can hold")
        };
        if found > most {
            return Err(self.error(Problem::Count { what, found, most, why }).at(at));
        }
        Ok(())
    }
}
