//! The narrow waist: everything above talks to a model through this module and nothing below it.
//!
//! An [`Engine`] is one opened model on its devices, shared by all. A [`Session`] is one timeline of
//! tokens with its KV cache. Callers always hand over the *full* prompt: [`Session::sync`] finds what is
//! already computed, drops what no longer fits, and runs the rest in chunks. [`Engine::forward`] is the
//! one primitive beneath: rows of several sessions in one pass.
//!
//! The engine knows tokens, never text roles, JSON or terminals.

mod asked;
mod check;
mod forward;
mod generate;
mod images;
mod inputs;
mod join;
mod machine;
mod measure;
mod needs;
mod open;
mod options;
mod prompt;
mod sampler;
mod session;
mod shapes;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

pub use asked::{Asked, Planned};
pub use forward::{BatchRow, ColumnSums};
pub use generate::{End, Generation};
pub use images::Embedding;
pub use machine::{GPU_MARGIN, MEMORY_MARGIN, Machine, default_n_threads, memory_available};
pub use measure::{Measure, Measured};
pub use needs::needs;
pub use open::DeviceUse;
pub use options::{DeviceOptions, EngineOptions, PassOutputs};
pub use prompt::{ImageMark, ImageRows, ImageSpan, Prompt, Timeline};
pub use sampler::{Sampler, SamplingError, SamplingParams};
pub use session::{Session, SyncStats};

use crate::constraint::ConstraintError;
use crate::ggml::{CancelFlag, DType, GgmlError, NoPart};
use crate::gguf::Gguf;
use crate::model::{CellPool, Hparams, ModelError, Warning, Weights};
use crate::plan::{Fit, Refusal};
use crate::tokenizer::{Tokenizer, TokenizerError};

use forward::Runtime;
use images::Vision;

/// Most tokens in one forward pass, where nothing else is asked for; longer prompts go in chunks.
pub const N_BATCH: usize = 512;

/// Whatever keeps a model from opening or running.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Ggml(#[from] GgmlError),
    /// A head's elements don't fill whole blocks of the cache's type.
    #[error(
        "a KV cache of type {dtype} needs heads of a multiple of {block} elements, this model's have \
         {n_embd_head}; use --cache-type-{half} f16"
    )]
    CacheType { half: char, dtype: &'static str, block: i64, n_embd_head: u32 },
    /// A device that has no kernel for the cache's type.
    #[error(
        "{device} cannot write a KV cache of type {dtype}; use --cache-type-k f16 --cache-type-v f16, or \
         --no-kv-offload"
    )]
    CacheOnDevice { device: &'static str, dtype: &'static str },
    /// A device that has no kernel for rows of the embedding.
    #[error(
        "{device} cannot look up rows of the embedding, which are {dtype}; leave token_embd with the CPU"
    )]
    EmbeddingOnDevice { device: &'static str, dtype: &'static str },
    /// A device that has no kernel for attention without scores.
    #[error("{device} has no flash attention for this model's heads; use --flash-attn off")]
    NoFlashAttn { device: &'static str },
    /// Scores are multiplied with V turned around, which blocks cannot be, and by kernels that few types have.
    #[error(
        "a cache of type {dtype} needs flash attention, which is off or which a device does not have for it; use \
         --cache-type-k f16 --cache-type-v f16"
    )]
    QuantizedScores { dtype: &'static str },
    #[error(transparent)]
    NoPart(#[from] NoPart),
    /// A joined GPU whose memory is the processor's: what it takes would be counted twice.
    #[error("{device} shares the processor's memory and cannot be joined; use --split-mode layer")]
    SharedInJoint { device: String },
    /// K and V that stay with the processor cannot be cut.
    #[error(
        "{device} can hold the KV cache of {most} tokens a layer, not of {n_ctx}; use a smaller --ctx or \
         --split-mode layer"
    )]
    CacheTooLargeToJoin { device: &'static str, n_ctx: u32, most: u32 },
    /// Shares that are not one for each joined GPU.
    #[error(
        "--tensor-split has {n} shares for {n_gpu} GPUs; --split-mode tensor wants one for each"
    )]
    Shares { n: usize, n_gpu: usize },
    /// Joined GPUs know no matrix of scores.
    #[error(
        "--split-mode tensor needs flash attention, which is off or which a GPU does not have for this model's \
         heads; use --split-mode layer"
    )]
    JoinedScores,
    /// A tensor that stays with the processor cannot be cut.
    #[error("{tensor} is too large for {device}; use --split-mode layer")]
    TooLargeToJoin { tensor: String, device: &'static str },
    /// The model does not fit the devices.
    #[error(transparent)]
    DoesNotFit(#[from] Refusal),
    /// A timeline is full.
    #[error(
        "the context is full: {n_tokens} tokens{}, {n_ctx} fit; raise --ctx or shorten the prompt",
        of_pictures(*.n_image_tokens)
    )]
    ContextFull { n_tokens: usize, n_image_tokens: usize, n_ctx: usize },
    /// A token that the model does not have.
    #[error("token id {id} is not below the vocabulary's size {n_vocab}")]
    TokenId { id: u32, n_vocab: usize },
    /// Broken weights, or numbers beyond what their types hold.
    #[error(
        "the model computed no finite number; `gust inspect --check-tensors` looks for broken weights"
    )]
    NotFinite,
    /// A picture for a model that reads text only.
    #[error(
        "this model cannot see pictures: it has no vision tower; pass its projector file with --mmproj"
    )]
    NoVision,
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The caller stopped the work.
    #[error("cancelled")]
    Cancelled,
}

fn of_pictures(n_tokens: usize) -> String {
    match n_tokens {
        0 => String::new(),
        n => format!(", {n} of them for pictures"),
    }
}

/// An opened model: weights, tokenizer, and the one runtime that runs its passes.
#[derive(Debug)]
pub struct Engine {
    gguf: Arc<Gguf>,
    hparams: Hparams,
    warnings: Vec<Warning>,
    tokenizer: Tokenizer,
    weights: Weights,
    vision: Option<Vision>,
    cache_types: [DType; 2],
    n_threads: u32,
    n_ctx: usize,
    n_batch: usize,
    fit: Fit,
    uses: Vec<DeviceUse>,
    cancel: Vec<CancelFlag>,
    cells: Mutex<CellPool>,
    runtime: Mutex<Runtime>,
}

impl Engine {
    /// The file that the model came from.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The model's shape.
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// What was found odd in the file, for the user to read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The model's own tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Most tokens in one timeline, and in all timelines together.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Cells that no timeline holds, of [`n_ctx`](Self::n_ctx).
    pub fn n_cells_free(&self) -> usize {
        self.cells().n_free()
    }

    /// Element types of K and V in the cache.
    pub fn cache_types(&self) -> [DType; 2] {
        self.cache_types
    }

    /// Most tokens in one pass.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// What was planned before anything was taken: for accelerators, and the processor last.
    pub fn fit(&self) -> &Fit {
        &self.fit
    }

    /// What the model takes of each device: accelerators, and the processor last.
    pub fn uses(&self) -> &[DeviceUse] {
        &self.uses
    }

    /// CPU threads in use.
    pub fn n_threads(&self) -> u32 {
        self.n_threads
    }

    /// Bytes of weights that one decode step reads.
    pub fn n_bytes_per_token(&self) -> u64 {
        self.weights.n_bytes_per_token
    }

    /// Bytes of weights that have a copy rearranged for this CPU.
    pub fn n_bytes_repacked(&self) -> u64 {
        self.weights.n_bytes_repacked
    }

    /// Stops the pass that is running, from any thread; its rows fail with [`Error::Cancelled`].
    pub fn cancel(&self) {
        for flag in &self.cancel {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Takes back a [`cancel`](Self::cancel) that no pass has seen.
    pub fn lower_cancel(&self) {
        for flag in &self.cancel {
            flag.store(false, Ordering::Relaxed);
        }
    }

    fn cells(&self) -> MutexGuard<'_, CellPool> {
        self.cells.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
