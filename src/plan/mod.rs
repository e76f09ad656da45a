//! What goes where: a model's needs against the memory of devices, in bytes.
//!
//! Pure arithmetic: no device is touched, so that a table of devices which nobody has can be planned for as
//! well as this machine. What only a backend knows, the working memory of a graph, is asked from the caller,
//! who measures it on the planned graph (`engine`). The engine opens a model by a [`Layout`], and `gust plan`
//! shows the same one.

mod compute;
mod fit;
mod place;
mod processor;
mod refusal;
#[cfg(test)]
mod tests;
mod uses;

pub use fit::{Fit, RoomUse, Step, fit};
pub use refusal::{Hint, Refusal, RoomShortage, Shortage};

use crate::gguf::TensorType;

/// What a device is to the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomKind {
    /// A graphics card, here or on another machine: memory of its own.
    Gpu,
    /// A graphics processor whose memory is the processor's: what lies there takes from both rooms.
    SharedGpu,
    /// The processor: mapped weights may exceed its memory, at a price.
    Cpu,
}

/// A device and its memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    /// Such as `CUDA0`.
    pub name: String,
    /// What it is.
    pub kind: RoomKind,
    /// Bytes that may be taken, a margin already taken off.
    pub free: u64,
}

/// Bytes that a model needs, whatever the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Needs {
    /// Weights of each layer that go where the layer goes.
    pub layers: Vec<u64>,
    /// The output matrix and its norm; with tied embeddings a copy of the embedding.
    pub output: u64,
    /// Whether the output matrix is the embedding again, which the processor has anyway.
    pub is_tied: bool,
    /// The token embedding, whose rows are looked up by the processor.
    pub embedding: u64,
    /// Tensors with a place of their own (`--override-tensor`): bytes on each room.
    pub pinned: Vec<u64>,
    /// Elements of one layer's K row and V row.
    pub kv_row: [u64; 2],
    /// Elements of one head in them, which fill whole blocks of the cache's type.
    pub kv_head: [u64; 2],
    /// The vision tower.
    pub vision: Option<VisionNeeds>,
    /// The EAGLE head, which shares embedding and output with the model and goes where the output goes.
    pub draft: Option<DraftNeeds>,
}

/// Bytes of a vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionNeeds {
    /// Its weights.
    pub weights: u64,
    /// The largest picture's way through it, given back after each picture.
    pub working: u64,
    /// Both on a GPU; joined ones have a tower each.
    pub on_gpu: u64,
}

impl VisionNeeds {
    /// A tower that takes the same wherever it is.
    pub fn new(weights: u64, working: u64) -> Self {
        VisionNeeds { weights, working, on_gpu: weights.saturating_add(working) }
    }
}

/// Bytes of a draft head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftNeeds {
    /// Its weights.
    pub weights: u64,
    /// Its layers, each with a KV cache row as the model's.
    pub n_layer: u32,
}

/// What the user asked for and what may be changed to make it fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Context length: the wanted one, or the trained one.
    pub n_ctx: u32,
    /// Types of K and V.
    pub cache_types: [TensorType; 2],
    /// Tokens in one pass.
    pub n_batch: u32,
    /// How many of the last layers go to GPUs, the output counting as one more after the last; `None` for
    /// as many as fit.
    pub gpu_layers: Option<u32>,
    /// Proportions of layers by GPU; `None` fills all to the same share of their memory.
    pub tensor_split: Option<Vec<f32>>,
    /// Whether a layer's KV cache lies where its weights lie; else on the processor.
    pub kv_offload: bool,
    /// Whether the vision tower may go to a GPU.
    pub vision_offload: bool,
    /// Whether the processor's weights stay where the file is mapped; else they are copied into its memory.
    pub mmap: bool,
    /// What may be lowered.
    pub step_down: StepDown,
}

/// What may be lowered to make a model fit, in the order in which it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepDown {
    /// The context, to no less than [`N_CTX_FLOOR`].
    pub ctx: bool,
    /// K and V to q8_0.
    pub kv: bool,
    /// Tokens in one pass, halved to no less than [`N_BATCH_FLOOR`].
    pub batch: bool,
    /// The vision tower to the processor, then layers.
    pub layers: bool,
}

/// Least context that stepping down leaves.
pub const N_CTX_FLOOR: u32 = 4096;
/// Least tokens in a pass that stepping down leaves.
pub const N_BATCH_FLOOR: u32 = 64;

/// Which room each thing goes to, by index; the processor is the last room.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Room of each layer.
    pub layers: Vec<usize>,
    /// Room of the output matrix.
    pub output: usize,
    /// Room of the vision tower.
    pub vision: usize,
    /// Whether KV goes with the layers.
    pub kv_offload: bool,
    /// Cells of the KV cache.
    pub n_ctx: u32,
    /// Types of K and V.
    pub cache_types: [TensorType; 2],
    /// Tokens in one pass.
    pub n_batch: u32,
}

/// Gives the working memory of a layout's graph on each room.
pub type MeasureCompute<'a> = &'a mut dyn FnMut(&Layout) -> Vec<u64>;
