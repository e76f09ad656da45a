//! The weights of the language model: which tensor is what.
//!
//! `loader.rs` places them in memory. Names, shapes and types were checked against the spec before
//! (`spec.rs`), so nothing here can fail but memory.

use std::sync::Arc;

use crate::ggml::{DType, Device, GgmlError, TensorId, TensorStore};
use crate::gguf::Gguf;

use super::Hparams;
use super::linear::Linear;
use super::loader::{Fill, Loader, Placed};
use super::placement::Placement;

/// One transformer layer.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Layer {
    pub attn_norm: TensorId, // [n_embd]
    pub attn_q: Linear,      // [n_embd, n_embd_head_k · n_head]
    pub attn_k: Linear,      // [n_embd, n_embd_head_k · n_head_kv]
    pub attn_v: Linear,      // [n_embd, n_embd_head_v · n_head_kv]
    pub attn_output: Linear, // [n_embd_head_v · n_head, n_embd]
    pub ffn_norm: TensorId,  // [n_embd]
    pub ffn_gate: Linear,    // [n_embd, n_ff]
    pub ffn_up: Linear,      // [n_embd, n_ff]
    pub ffn_down: Linear,    // [n_ff, n_embd]
}

/// All weights of a model, in memory.
#[derive(Debug)]
pub struct Weights {
    /// Holds every tensor below.
    pub store: Arc<TensorStore>,
    /// `[n_embd, n_vocab]`
    pub token_embd: TensorId,
    /// Where rows of it are looked up.
    pub embedding_device: Device,
    /// `[n_embd]`
    pub output_norm: TensorId,
    /// `[n_embd, n_vocab]`; the token embedding again when the file ties them.
    pub output: Linear,
    /// F32 `[n_rot / 2]`, divisors of the RoPE frequencies; a few files of arch `llama` have them.
    pub rope_freqs: Option<TensorId>,
    /// From the input to the output.
    pub layers: Vec<Layer>,
    /// Bytes on each device of the placement, mapped ones counted.
    pub n_bytes: Vec<u64>,
    /// Devices and types of their weights that they have no kernel for: the processor multiplies instead.
    pub without_kernel: Vec<(Device, DType)>,
    /// Devices and tensors that they cannot hold, which stay with the processor.
    pub too_large: Vec<(Device, String)>,
    /// Bytes of tensors that have a rearranged copy.
    pub n_bytes_repacked: u64,
    /// Bytes that one decode step reads: all matrices, and one row of the embedding.
    pub n_bytes_per_token: u64,
}

impl Weights {
    /// Places all tensors of `gguf`, which has been checked against the spec. `progress` is told how many of
    /// how many bytes are in place.
    pub fn load(
        gguf: &Arc<Gguf>,
        hparams: &Hparams,
        placement: &Placement,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, GgmlError> {
        Self::place(gguf, hparams, placement, Fill::Load(progress))
    }

    /// The same without memory and without a look at the data: graphs of it can be planned, not run.
    pub fn pretend(gguf: &Arc<Gguf>, hparams: &Hparams, placement: &Placement) -> Self {
        let placed = Self::place(gguf, hparams, placement, Fill::Pretend);
        placed.expect("nothing is allocated that could be refused")
    }

    fn place(
        gguf: &Arc<Gguf>,
        hparams: &Hparams,
        placement: &Placement,
        fill: Fill<'_>,
    ) -> Result<Self, GgmlError> {
        let mut loader = Loader::new(gguf, placement);
        let output_is_own = gguf.tensor("output.weight").is_some();
        let token_embd = loader.table("token_embd.weight", !output_is_own);
        let output = match output_is_own {
            true => loader.at(placement.output).linear("output"),
            false => loader.at(placement.output).tied_output(token_embd),
        };
        let output_norm = loader.vector("output_norm.weight");
        let rope_freqs = loader.optional("rope_freqs.weight");
        let homes = placement.layers.iter();
        let layers = (0..hparams.n_layer).zip(homes).map(|(il, &home)| loader.at(home).layer(il));
        let layers = layers.collect();
        let embedding = placement.device_of("token_embd.weight", placement.cpu());
        let embedding_device = placement.devices[embedding];
        let Placed { store, n_bytes, without_kernel, too_large, n_bytes_repacked, n_bytes_read } =
            loader.place(fill)?;
        Ok(Weights {
            store,
            token_embd,
            embedding_device,
            output_norm,
            output,
            rope_freqs,
            layers,
            n_bytes,
            without_kernel,
            too_large,
            n_bytes_repacked,
            n_bytes_per_token: n_bytes_read,
        })
    }
}

impl Loader<'_> {
    fn layer(&mut self, il: u32) -> Layer {
        let name = |what: &str| format!("blk.{il}.{what}");
        Layer {
            attn_norm: self.vector(&name("attn_norm.weight")),
            attn_q: self.linear(&name("attn_q")),
            attn_k: self.linear(&name("attn_k")),
            attn_v: self.linear(&name("attn_v")),
            attn_output: self.linear(&name("attn_output")),
            ffn_norm: self.vector(&name("ffn_norm.weight")),
            ffn_gate: self.linear(&name("ffn_gate")),
            ffn_up: self.linear(&name("ffn_up")),
            ffn_down: self.linear(&name("ffn_down")),
        }
    }
}
