//! From tensors of any source to finished GGUF files: planned, streamed, resumable, never half there.
//!
//! `convert`, `quantize`, `split` and `doctor` say what the files shall hold, as [`OutputFile`]s of
//! [`PlannedTensor`]s; a [`Source`] says where the values of each lie. Everything between those and files
//! under their final names stands here, once: workers that take rows, convert and write them where the
//! header says they go, the journal by which an interrupted run continues, and the checks before and after.

mod error;
mod fp8;
mod job;
mod journal;
mod lock;
mod pieces;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;

use crate::gguf::{Gguf, TensorInfo, TensorType, Value};

pub use error::ExportError;
pub use fp8::e4m3_to_f32;
pub use job::{InputFile, Job, Progress, Summary, run};
pub(crate) use lock::{Lock, check_file_or_free, create_new};
pub use source::{Encoding, RowOrder, Scales, Source};
pub(crate) use target::{beside, check_place, sync_folder};

/// One tensor of an output.
#[derive(Debug, Clone)]
pub struct PlannedTensor<'a> {
    /// Name in the output.
    pub name: String,
    /// Type in the output; its blocks divide `dims[0]`.
    pub ty: TensorType,
    /// Dimensions in ggml's order; as many elements in as many rows as `source` has.
    pub dims: Vec<u64>,
    /// Where its values come from.
    pub source: Source<'a>,
    /// Importance of each column: `dims[0]` numbers, or `dims[0] * dims[2]` for stacked matrices.
    pub importance: Option<&'a [f32]>,
}

/// One file to be written.
#[derive(Debug, Clone)]
pub struct OutputFile<'a> {
    /// Its final name.
    pub path: PathBuf,
    /// Keys in the order in which they are written.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in the order in which they lie in the file.
    pub tensors: Vec<PlannedTensor<'a>>,
}

impl OutputFile<'_> {
    /// Bytes of the finished file.
    pub fn n_bytes(&self) -> u64 {
        pieces::layout(self).n_bytes
    }
}

impl<'a> PlannedTensor<'a> {
    /// A tensor as it is.
    pub fn copy_of(gguf: &'a Gguf, tensor: &TensorInfo) -> Self {
        let TensorInfo { name, ty, dims, .. } = tensor.clone();
        Self { name, ty, dims, source: Source::of(gguf, tensor), importance: None }
    }
}

/// The keys of a GGUF that hold for its content, in their order: not how it is split, nor how its bytes are
/// aligned, which every output says for itself.
pub fn content_metadata(gguf: &Gguf) -> Vec<(String, Value)> {
    let is_content = |key: &str, value: &Value| match key {
        "split.no" | "split.count" | "split.tensors.count" => false,
        "general.alignment" => *value == Value::U32(32),
        _ => true,
    };
    let keys = gguf.metadata().iter().filter(|(key, value)| is_content(key, value));
    keys.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}
