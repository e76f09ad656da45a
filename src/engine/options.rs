//! How an engine is opened: what its caller chooses.

use regex::Regex;

use crate::ggml::{DType, Device};
use crate::model::YarnPolicy;
use crate::plan::StepDown;

/// How to open a model. Every field is the caller's choice; there are no hidden defaults.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Context length; `None` for the trained one or the largest that fits memory.
    pub n_ctx: Option<u32>,
    /// Most tokens in one forward pass; `None` for [`N_BATCH`](super::N_BATCH).
    pub n_batch: Option<u32>,
    /// Sessions that run side by side, for whose passes working memory is taken.
    pub n_slots: u32,
    /// What passes are asked for, for which working memory is taken.
    pub outputs: PassOutputs,
    /// CPU threads; `None` for [`default_n_threads`](super::default_n_threads).
    pub n_threads: Option<u32>,
    /// Element types of K and V in the cache; `None` for f16, or f32 where the file's own weights are
    /// F32: who runs such a file wants its exact numbers.
    pub cache_types: [Option<DType>; 2],
    /// Whether tensors may be rearranged for speed where the copy fits.
    pub repack: bool,
    /// What to do about a file's wrong YaRN magnitude.
    pub yarn: YarnPolicy,
    /// Where things go.
    pub devices: DeviceOptions,
}

/// What a pass is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassOutputs {
    /// Logits of one token of each session.
    Replies,
    /// Logits of so many tokens at most.
    Logits(u32),
    /// Sums over the inputs of the layers' matrices.
    ColumnSums {
        /// Whether over that of the output matrix as well.
        with_output: bool,
    },
}

/// Where a model's weights, KV cache and computation go.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// The accelerators that may be used, in this order; none to stay on the processor. Those that share the
    /// processor's memory come first where it is to be spared.
    pub gpus: Vec<Device>,
    /// How many of the last layers they get, the output counting as one more; `None` for as many as fit.
    pub gpu_layers: Option<u32>,
    /// Whether they all work on every layer, each on its part of the matrices; else each has layers of its own.
    pub join: bool,
    /// Proportions of layers, or of each layer, by accelerator; `None` fills all to the same share of their memory.
    pub tensor_split: Option<Vec<f32>>,
    /// Tensors that go to a device of their own, by a pattern that matches anywhere in the name.
    pub overrides: Vec<(Regex, Device)>,
    /// Whether the KV cache lies with the layers; else with the processor.
    pub kv_offload: bool,
    /// Whether the vision tower may lie on an accelerator.
    pub vision_offload: bool,
    /// Whether attention goes without a matrix of scores; `None` where the devices can.
    pub flash_attn: Option<bool>,
    /// Whether the processor's weights are used where the file is mapped.
    pub mmap: bool,
    /// Whether they are kept from being paged out.
    pub mlock: bool,
    /// What may be lowered to make the model fit; `None` for what is not asked for: the context without
    /// `n_ctx`, layers without `gpu_layers`.
    pub step_down: Option<StepDown>,
}

impl DeviceOptions {
    /// Everything on the processor.
    pub fn on_cpu() -> Self {
        DeviceOptions {
            gpus: Vec::new(),
            gpu_layers: None,
            join: false,
            tensor_split: None,
            overrides: Vec::new(),
            kv_offload: true,
            vision_offload: true,
            flash_attn: None,
            mmap: true,
            mlock: false,
            step_down: None,
        }
    }
}

impl EngineOptions {
    /// Everything on the processor with so many threads, one session at a time, in the file's own order.
    pub fn on_cpu(n_threads: u32) -> Self {
        EngineOptions {
            n_ctx: None,
            n_batch: None,
            n_slots: 1,
            outputs: PassOutputs::Replies,
            n_threads: Some(n_threads),
            cache_types: [None; 2],
            repack: false,
            yarn: YarnPolicy::Correct,
            devices: DeviceOptions::on_cpu(),
        }
    }
}
