//! [`Gguf`]: the parts of a model with their checked headers.
//!
//! A file is opened once and mapped through that descriptor, so that what was checked is what is
//! computed with, whatever happens to the path meanwhile. Which files form one model, and whether
//! they belong together, is decided in `split.rs`.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use super::error::{GgufError, Label, Problem};
use super::metadata::Metadata;
use super::read::{self, Cursor};
use super::split;
use super::tensors::{self, TensorInfo};
use crate::mapped::Bytes;

/// More bytes than this after the last tensor are worth a warning.
const MAX_TRAILING: u64 = 1 << 20;

/// Something odd that does not keep a file from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of a model.
#[derive(Debug)]
pub struct Part {
    label: Label,
    path: Option<PathBuf>,
    bytes: Bytes,
    data_start: u64,
    alignment: u64,
}

impl Part {
    /// A file whose header is still to be read.
    fn new(label: Label, path: Option<PathBuf>, bytes: Bytes) -> Self {
        Self { label, path, bytes, data_start: 0, alignment: 1 }
    }

    /// The file and its place among the parts, as messages call it.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Path as the user gave it, or the name of a model without a file.
    pub fn name(&self) -> &str {
        &self.label.file
    }

    /// Where the file lies; `None` for a model without a file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The file itself, for who hands out pieces of it.
    pub fn file(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole file. Page-aligned if it is mapped or in anonymous memory; not aligned at all otherwise.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Size of the file in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Where the data of its tensors starts, in bytes from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// What the offsets of its tensors are multiples of, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Tells the kernel that these bytes of the file will not be read soon.
    pub fn release(&self, range: &Range<usize>) {
        self.bytes.release(range);
    }
}

/// How much of a file has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Every tensor.
    All,
    /// The header; tensors may lie beyond the file's end.
    Header,
}

/// A part with what its own header says.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) part: Part,
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) warnings: Vec<Warning>,
}

impl Loaded {
    /// Maps and checks one file; `idx` is its index among the parts.
    pub(super) fn open(
        path: &Path,
        label: Label,
        idx: usize,
        wanted: Wanted,
    ) -> Result<Self, GgufError> {
        let io = |error| GgufError::new(&label, Problem::Io { error });
        // Asked before opening: opening a FIFO would wait for a writer.
        let found = match fs::metadata(path).map_err(io)?.file_type() {
            kind if kind.is_file() => None,
            kind if kind.is_dir() => Some("a directory"),
            _ => Some("a device, pipe or socket"),
        };
        if let Some(found) = found {
            return Err(GgufError::new(&label, Problem::NotRegular { found }));
        }
        let file = File::open(path).map_err(io)?;
        let bytes = match file.metadata().map_err(io)?.len() {
            0 => Bytes::Owned(Vec::new()),
            _ => Bytes::map(&file).map_err(io)?,
        };
        Self::parse(Part::new(label, Some(path.to_owned()), bytes), idx, wanted)
    }

    fn parse(mut part: Part, idx: usize, wanted: Wanted) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(part.bytes(), &part.label);
        let preamble = read::preamble(&mut cursor)?;
        let file_len = part.n_bytes();
        let tensors::List { tensors, alignment, data_start, data_end } =
            tensors::list(&mut cursor, &preamble, idx, (file_len, wanted))?;
        let mut warnings = Vec::new();
        let trailing = file_len.saturating_sub(data_end);
        if trailing > MAX_TRAILING {
            let label = &part.label;
            warnings.push(Warning(format!("{label}: {trailing} unused bytes after the tensors")));
        }
        let read::Preamble { version, metadata, .. } = preamble;
        (part.data_start, part.alignment) = (data_start, alignment);
        Ok(Self { part, version, metadata, tensors, warnings })
    }
}

/// All parts of one model, with checked headers.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    parts: Vec<Part>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    warnings: Vec<Warning>,
}

impl Gguf {
    /// Opens the model that `path` belongs to: any part of a split model opens all of it.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        split::open(path, Wanted::All)
    }

    /// The same for who reads headers only: parts may end anywhere after their list of tensors, as a download
    /// does that is under way. [`data`](Self::data) panics on a tensor that is not there.
    pub fn open_header(path: &Path) -> Result<Self, GgufError> {
        split::open(path, Wanted::Header)
    }

    /// A header without a file, for who reads no weights.
    pub fn from_header(name: &str, header: Vec<u8>) -> Result<Self, GgufError> {
        let part = Part::new(Label::whole(name), None, Bytes::Owned(header));
        split::join(vec![Loaded::parse(part, 0, Wanted::Header)?])
    }

    /// A model that is compiled into the program.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, GgufError> {
        Self::whole(name, Bytes::Static(bytes))
    }

    /// A model in memory.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::whole(name, Bytes::Owned(bytes))
    }

    /// A model in anonymous memory, page-aligned like a mapped file.
    pub fn from_memory(name: &str, memory: MmapMut) -> Result<Self, GgufError> {
        Self::whole(name, Bytes::Anonymous(memory))
    }

    fn whole(name: &str, bytes: Bytes) -> Result<Self, GgufError> {
        let part = Part::new(Label::whole(name), None, bytes);
        split::join(vec![Loaded::parse(part, 0, Wanted::All)?])
    }

    /// Puts checked parts together; `index` names every tensor once.
    pub(super) fn assemble(loaded: Vec<Loaded>, index: HashMap<String, usize>) -> Self {
        let mut loaded = loaded.into_iter();
        let first = loaded.next().expect("a model has a first part");
        let mut gguf = Self {
            version: first.version,
            parts: vec![first.part],
            metadata: first.metadata,
            tensors: first.tensors,
            index,
            warnings: first.warnings,
        };
        for part in loaded {
            gguf.parts.push(part.part);
            gguf.tensors.extend(part.tensors);
            gguf.warnings.extend(part.warnings);
        }
        gguf
    }

    /// Version of the GGUF format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The first part's file, as messages call it.
    pub fn label(&self) -> &Label {
        &self.parts[0].label
    }

    /// The files, first part first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The model's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&idx| &self.tensors[idx])
    }

    /// The bytes of a tensor of this model.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = || {
            let start = usize::try_from(tensor.offset).ok()?;
            Some(start..start.checked_add(usize::try_from(tensor.n_bytes).ok()?)?)
        };
        self.parts
            .get(tensor.part)
            .and_then(|part| part.bytes().get(range()?))
            .expect("a tensor of this model lies inside its file: checked when it was opened")
    }

    /// What is odd about the files.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Size of all files together.
    pub fn n_bytes(&self) -> u64 {
        self.parts.iter().map(Part::n_bytes).sum()
    }
}
