//! The narrow waist: everything above talks to a model through this module and nothing below it.
//!
//! An [`Engine`] is one opened model on its devices, shared by all. A [`Session`] is one timeline of
//! tokens with its KV cache. Callers always hand over the *full* prompt: [`Session::sync`] finds what is
//! already computed, drops what no longer fits, and runs the rest in chunks. [`Engine::forward`] is the
//! one primitive beneath: rows of several sessions in one pass.
//!
//! The engine knows tokens, never text roles, JSON or terminals.

mod forward;
mod generate;
mod images;
mod inputs;
mod machine;
mod prompt;
mod reserve;
mod sampler;
mod session;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

pub use forward::{BatchRow, ColumnSums};
pub use generate::{End, Generation};
pub use images::Embedding;
pub use machine::{default_n_threads, memory_available};
pub use prompt::{ImageMark, ImageRows, ImageSpan, Prompt, Timeline};
pub use sampler::{Sampler, SamplingError, SamplingParams};
pub use session::{Session, SyncStats};

use crate::constraint::ConstraintError;
use crate::ggml::{Backend, CancelFlag, DType, Device, GgmlError, Scheduler};
use crate::gguf::{Gguf, TensorType};
use crate::model::{
    CellPool, Hparams, InputSums, KvCache, ListShape, ModelError, Placement, TextGraph, TextShape,
    Warning, Weights, YarnPolicy, kv_bytes_per_token, validate,
};
use crate::tokenizer::{Tokenizer, TokenizerError};

use forward::Runtime;
use images::{Tower, Vision};

/// Most tokens in one forward pass; longer prompts go in chunks.
pub const N_BATCH: usize = 512;

/// Memory left to the rest of the machine when sizes are chosen for the user.
const MEMORY_MARGIN: u64 = 1 << 30;

/// Smallest context that is chosen for the user, however little memory there is.
const N_CTX_MIN: u64 = 2048;

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
    /// The asked-for context does not fit.
    #[error(
        "a context of {n_ctx} tokens needs {needed_gib:.1} GiB of KV cache, {free_gib:.1} GiB of memory \
         are free; use a smaller --ctx or --cache-type-k q8_0 --cache-type-v q8_0"
    )]
    ContextMemory { n_ctx: u64, needed_gib: f64, free_gib: f64 },
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

/// How to open a model. Every field is the caller's choice; there are no hidden defaults.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Context length; `None` for the trained one or the largest that fits memory.
    pub n_ctx: Option<u32>,
    /// CPU threads; `None` for [`default_n_threads`].
    pub n_threads: Option<u32>,
    /// Element types of K and V in the cache; `None` for f16, or f32 where the file's own weights are
    /// F32: who runs such a file wants its exact numbers.
    pub cache_types: [Option<DType>; 2],
    /// Whether tensors may be rearranged for speed where the copy fits.
    pub repack: bool,
    /// What to do about a file's wrong YaRN magnitude.
    pub yarn: YarnPolicy,
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
    cancel: Vec<CancelFlag>,
    cells: Mutex<CellPool>,
    runtime: Mutex<Runtime>,
}

impl Engine {
    /// Opens a model on the CPU; `progress` is told the bytes in place and the bytes in all.
    ///
    /// The vision tower is that of `mmproj`, or else the one in `gguf` itself, if it has one.
    pub fn open(
        gguf: impl Into<Arc<Gguf>>,
        mmproj: Option<Gguf>,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<Self>, Error> {
        let gguf = gguf.into();
        let (hparams, mut warnings) = validate(&gguf, options.yarn)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let tower = Tower::of(&gguf, mmproj, &hparams, &mut warnings)?;
        let cache_types = cache_types(&gguf, &hparams, options)?;
        let n_threads = options.n_threads.unwrap_or_else(default_n_threads);
        let device = Device::cpu()?;

        let free = memory_available();
        let [type_k, type_v] = cache_types.map(tensor_type);
        let per_token = kv_bytes_per_token(&hparams, type_k, type_v);
        let vision_bytes = tower.as_ref().map_or(0, Tower::n_bytes);
        let file_bytes = gguf.n_bytes() + vision_bytes; // in one file the tower counts twice, which is safe
        let n_ctx = match options.n_ctx {
            Some(n_ctx) => check_n_ctx(n_ctx.into(), per_token, free)?,
            None => largest_n_ctx(&hparams, per_token, free.saturating_sub(file_bytes)),
        };
        let kv_bytes = per_token * n_ctx;
        let placement = Placement {
            device,
            repack_budget: match options.repack {
                true => free.saturating_sub(kv_bytes + vision_bytes + MEMORY_MARGIN),
                false => 0,
            },
            touch: file_bytes < free,
            n_threads: n_threads as usize,
        };
        let (weights, vision) = load(&gguf, &hparams, tower, placement, progress)?;
        let kv = KvCache::new(&hparams, n_ctx as usize, cache_types, device)?;
        let worst = TextShape {
            n_tokens: N_BATCH,
            n_kv: n_ctx as usize,
            is_gathered: false,
            lists: ListShape::default(),
            n_outputs: 1,
            n_image_rows: if vision.is_some() { N_BATCH } else { 0 },
            sums: InputSums::Nothing,
        };
        let graph = TextGraph::build(&hparams, &weights, &kv, worst).graph;
        let n_nodes_max = TextGraph::n_nodes_max(&hparams);
        let mut sched = Scheduler::new(vec![Backend::new(device, n_threads)?], n_nodes_max);
        sched.reserve(graph)?;
        let mut cancel = sched.cancel_flags();
        cancel.extend(vision.iter().flat_map(Vision::cancel_flags));
        Ok(Arc::new(Engine {
            cancel,
            cells: Mutex::new(CellPool::new(kv.n_cells())),
            runtime: Mutex::new(Runtime::new(sched, kv)),
            gguf,
            hparams,
            warnings,
            tokenizer,
            weights,
            vision,
            cache_types,
            n_threads,
            n_ctx: n_ctx as usize,
        }))
    }

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

/// The weights of the language model, and after them those of the tower.
fn load(
    gguf: &Arc<Gguf>,
    hparams: &Hparams,
    tower: Option<Tower>,
    placement: Placement,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Weights, Option<Vision>), GgmlError> {
    let mut n_text = 0;
    let weights = Weights::load(gguf, hparams, placement, &mut |done, total| {
        n_text = total;
        progress(done, total);
    })?;
    let load = |tower| {
        Vision::load(tower, placement, &mut |done, total| {
            progress(n_text + done, n_text + total);
        })
    };
    Ok((weights, tower.map(load).transpose()?))
}

/// The types that the user wants, or those that suit the file.
fn cache_types(
    gguf: &Gguf,
    hparams: &Hparams,
    options: &EngineOptions,
) -> Result<[DType; 2], Error> {
    let exact = gguf.tensor("blk.0.attn_q.weight").is_some_and(|t| t.ty == TensorType::F32);
    let default = if exact { DType::F32 } else { DType::F16 };
    let [k, v] = options.cache_types.map(|dtype| dtype.unwrap_or(default));
    for (half, dtype, n_embd_head) in
        [('k', k, hparams.n_embd_head_k), ('v', v, hparams.n_embd_head_v)]
    {
        let block = dtype.block_size();
        if i64::from(n_embd_head) % block != 0 {
            return Err(Error::CacheType { half, dtype: dtype.name(), block, n_embd_head });
        }
    }
    Ok([k, v])
}

fn tensor_type(dtype: DType) -> TensorType {
    TensorType::from_ggml_id(dtype.id()).expect("both number types as ggml does")
}

/// The context that the user wants, if its cache fits the free memory.
fn check_n_ctx(n_ctx: u64, per_token: u64, free: u64) -> Result<u64, Error> {
    let needed = per_token.saturating_mul(n_ctx);
    if needed <= free {
        return Ok(n_ctx);
    }
    let gib = |n: u64| n as f64 / f64::from(1 << 30);
    Err(Error::ContextMemory { n_ctx, needed_gib: gib(needed), free_gib: gib(free) })
}

/// The trained context, or the largest whose cache fits beside the weights.
fn largest_n_ctx(hparams: &Hparams, per_token: u64, free: u64) -> u64 {
    let trained = u64::from(hparams.n_ctx_train);
    let room = free.saturating_sub(MEMORY_MARGIN) / per_token;
    trained.min(room / 256 * 256).max(N_CTX_MIN.min(trained))
}
