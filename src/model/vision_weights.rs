//! The weights of the vision tower and its projector: which tensor is what.
//!
//! The counterpart of `weights.rs`; `loader.rs` places them in memory, and `vision_spec.rs` checked names,
//! shapes and types before.

use std::sync::Arc;

use crate::ggml::{DType, FlashAttn, GgmlError, TensorId, TensorStore};
use crate::gguf::{Gguf, TensorType};

use super::linear::Linear;
use super::loader::{Fill, Loader, Placed};
use super::placement::Placement;
use super::projector::Projector;

/// One layer of the tower.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct VisionLayer {
    pub ln1: TensorId, // [n_embd]
    pub attn_q: Linear,
    pub attn_k: Linear,
    pub attn_v: Linear,
    pub attn_out: Linear,
    pub ln2: TensorId,    // [n_embd]
    pub ffn_gate: Linear, // [n_embd, n_ff]
    pub ffn_up: Linear,   // [n_embd, n_ff]
    pub ffn_down: Linear, // [n_ff, n_embd]
}

/// All weights of a vision tower, in memory.
#[derive(Debug)]
pub struct VisionWeights {
    /// Holds every tensor below.
    pub store: Arc<TensorStore>,
    /// Bytes on each device of the placement, mapped ones counted.
    pub n_bytes: Vec<u64>,
    /// `[3 · patch², n_embd]`
    pub patch_embd: Linear,
    /// `[n_embd]`
    pub pre_ln: TensorId,
    /// From the input to the output.
    pub layers: Vec<VisionLayer>,
    /// `[n_embd]`; none where patches are not merged.
    pub input_norm: Option<TensorId>,
    /// `[n_embd · merge², n_embd]`, the feature that varies fastest being the place in the group.
    pub patch_merger: Option<Linear>,
    /// `[n_embd, n_embd_text]`
    pub mm_1: Linear,
    /// `[n_embd_text, n_embd_text]`
    pub mm_2: Linear,
    /// Type of the keys and values that attention reads.
    pub kv: DType,
    /// Elements of a head with the zeros that the device's attention wants after it.
    pub n_embd_head_padded: i64,
}

impl VisionWeights {
    /// Places the tower's tensors of `gguf`, which have been checked against the spec.
    pub fn load(
        gguf: &Arc<Gguf>,
        projector: &Projector,
        placement: &Placement,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, GgmlError> {
        Self::place(gguf, projector, placement, Fill::Load(progress))
    }

    /// The same without memory and without a look at the data: graphs of it can be planned, not run.
    pub fn pretend(gguf: &Arc<Gguf>, projector: &Projector, placement: &Placement) -> Self {
        let placed = Self::place(gguf, projector, placement, Fill::Pretend);
        placed.expect("nothing is allocated that could be refused")
    }

    fn place(
        gguf: &Arc<Gguf>,
        projector: &Projector,
        placement: &Placement,
        fill: Fill<'_>,
    ) -> Result<Self, GgmlError> {
        let kv = kv_type(gguf);
        let n_embd_head_padded = padded_head(projector, placement, kv);
        // Pictures come in batches of hundreds of patches, which gain nothing from copies.
        let placement = &Placement { repack_budget: 0, overrides: Vec::new(), ..placement.clone() };
        let mut loader = Loader::new(gguf, placement);
        loader.at(placement.vision);
        let patch = [projector.n_patch().into(), projector.n_embd.into()];
        let patch_embd = Linear {
            weight: loader.matrix("v.patch_embd.weight", patch),
            packed: None,
            scale: None,
            bias: loader.optional("v.patch_embd.bias"),
        };
        let pre_ln = loader.vector("v.pre_ln.weight");
        let layers = (0..projector.n_layer).map(|il| loader.vision_layer(il)).collect();
        let merges = gguf.tensor("mm.patch_merger.weight").is_some();
        let input_norm = loader.optional("mm.input_norm.weight");
        let patch_merger = merges.then(|| loader.linear("mm.patch_merger"));
        let (mm_1, mm_2) = (loader.linear("mm.1"), loader.linear("mm.2"));
        let Placed { store, n_bytes, .. } = loader.place(fill)?;
        Ok(VisionWeights {
            store,
            n_bytes,
            patch_embd,
            pre_ln,
            layers,
            input_norm,
            patch_merger,
            mm_1,
            mm_2,
            kv,
            n_embd_head_padded,
        })
    }
}

impl Loader<'_> {
    fn vision_layer(&mut self, il: u32) -> VisionLayer {
        let name = |what: &str| format!("v.blk.{il}.{what}");
        VisionLayer {
            ln1: self.vector(&name("ln1.weight")),
            attn_q: self.linear(&name("attn_q")),
            attn_k: self.linear(&name("attn_k")),
            attn_v: self.linear(&name("attn_v")),
            attn_out: self.linear(&name("attn_out")),
            ln2: self.vector(&name("ln2.weight")),
            ffn_gate: self.linear(&name("ffn_gate")),
            ffn_up: self.linear(&name("ffn_up")),
            ffn_down: self.linear(&name("ffn_down")),
        }
    }
}

/// Who runs an F32 file wants its exact numbers.
fn kv_type(gguf: &Gguf) -> DType {
    let exact = gguf.tensor("v.blk.0.attn_q.weight").is_some_and(|t| t.ty == TensorType::F32);
    if exact { DType::F32 } else { DType::F16 }
}

/// The smallest head that the device's attention takes and this tower's heads fit into; the head itself
/// where there is none, and the scheduler finds another device.
fn padded_head(projector: &Projector, placement: &Placement, kv: DType) -> i64 {
    const SIZES: [i64; 9] = [64, 72, 80, 96, 112, 128, 192, 256, 512];
    let n = i64::from(projector.n_embd_head());
    let larger = SIZES.into_iter().filter(|&size| size > n);
    let mut sizes = std::iter::once(n).chain(larger);
    let device = placement.devices[placement.vision];
    // What is on the other side of a network does not say; these are everybody's.
    let is_common = |size| [64, 80, 96, 112, 128, 256].contains(&size);
    let is_remote = device.is_remote();
    let attention = |size| FlashAttn {
        head: [size; 2],
        n_head: [i64::from(projector.n_head); 2],
        types: [kv; 2],
        is_masked: false,
    };
    let fits =
        |size| device.supports_flash_attn(attention(size)) && (!is_remote || is_common(size));
    sizes.find(|&size| fits(size)).unwrap_or(n)
}
