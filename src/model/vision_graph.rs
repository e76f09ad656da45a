//! The vision tower, patch by patch: pixels of one picture in, one row a token for the language model out.
//!
//! It runs as a graph for the patches, one for each layer and one for the projector, and the residual
//! stream stays in memory of its own between them. So working memory is that of one layer, progress can
//! be told, and other passes get their turn in between. Inside a layer what needs no neighbours goes by
//! pieces of the picture: a feed-forward network of 8192 would otherwise take 1.2 GB for 12,100 patches.
//!
//! Patches go through the tower in the order of the tokens that they are merged into, so that the patches
//! of one token are neighbours; attention only knows positions, which are inputs. Shapes are in ggml's
//! order; `n` is the number of patches.

use std::ops::Range;
use std::sync::Arc;

use crate::ggml::{
    DType, Device, GgmlError, Graph, GraphBuilder, InputId, OutputId, Rope, StoreBuilder, Tensor,
    TensorId, TensorStore,
};
use crate::vision::{Grid, ImagePatches, MAX_SIDE_PATCHES};

use super::linear::Linear;
use super::projector::{Activation, Projector};
use super::vision_weights::{VisionLayer, VisionWeights};

/// Patches that go through the feed-forward network together, and that look at all others together.
const PIECE: usize = 2048;

/// One picture on its way through the tower.
#[derive(Debug)]
pub struct VisionState {
    store: Arc<TensorStore>,
    /// F32 `[n_embd, n]`, the residual stream.
    x: TensorId,
    n: usize,
    /// Row of each patch in the picture.
    pub rows: Vec<i32>,
    /// Column of each patch in the picture.
    pub cols: Vec<i32>,
}

impl VisionState {
    /// Memory on `device` for a picture of `grid` tokens.
    pub fn new(projector: &Projector, grid: Grid, device: Device) -> Result<Self, GgmlError> {
        let (rows, cols): (Vec<i32>, Vec<i32>) =
            patch_order(projector, grid).map(|(row, col)| (row as i32, col as i32)).unzip();
        let n = rows.len();
        let mut builder = StoreBuilder::new(1);
        let x = builder.declare("residual", DType::F32, &[projector.n_embd.into(), n as i64]);
        builder.allocate(device.buffer_type(), device, "a picture", &[x])?;
        Ok(VisionState { store: builder.finish(), x, n, rows, cols })
    }
}

/// Row and column of each patch, in the order in which the tower takes them.
fn patch_order(projector: &Projector, grid: Grid) -> impl Iterator<Item = (u32, u32)> {
    let merge = projector.merge_size;
    let tokens = (0..grid.rows).flat_map(move |row| (0..grid.cols).map(move |col| (row, col)));
    tokens.flat_map(move |(row, col)| {
        (0..merge * merge).map(move |i| (row * merge + i / merge, col * merge + i % merge))
    })
}

/// The picture's pixels `[width, height, 3]` as one column a patch, `[patch, patch, 3]` each.
pub fn lay_out(projector: &Projector, patches: &ImagePatches) -> Vec<f32> {
    let side = projector.patch_size as usize;
    let token = side * projector.merge_size as usize;
    let (width, height) = (patches.grid.cols as usize * token, patches.grid.rows as usize * token);
    assert_eq!(patches.pixels.len(), 3 * width * height, "pixels of {:?}", patches.grid);
    let mut columns = Vec::with_capacity(patches.pixels.len());
    for (row, col) in patch_order(projector, patches.grid) {
        let (top, left) = (row as usize * side, col as usize * side);
        for y in (0..3).flat_map(|channel| channel * height + top..channel * height + top + side) {
            columns.extend_from_slice(&patches.pixels[y * width + left..][..side]);
        }
    }
    columns
}

/// A part of the way, in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionStage {
    /// From pixels to the residual stream.
    Patches,
    /// A layer of the tower.
    Layer(usize),
    /// From the residual stream to rows for the language model.
    Project,
}

/// One recorded part of the tower and its inputs.
#[derive(Debug)]
pub struct VisionGraph {
    /// The computation.
    pub graph: Graph,
    /// F32 `[3 · patch², n]` as [`lay_out`] gives it; the first part's.
    pub patches: Option<InputId>,
    /// I32 `[n]` each: row and column of each patch; a layer's.
    pub positions: Option<[InputId; 2]>,
    /// F32 `[n_embd_text, n_tokens]`; the last part's.
    pub rows: Option<OutputId>,
}

impl VisionGraph {
    /// Operations that the scheduler must have room for: 64 and less for each piece of the largest picture.
    pub const N_NODES_MAX: usize = 256 + 64 * (MAX_SIDE_PATCHES as usize).pow(2).div_ceil(PIECE);

    /// The parts of a tower, in order.
    pub fn stages(projector: &Projector) -> Vec<VisionStage> {
        let layers = (0..projector.n_layer as usize).map(VisionStage::Layer);
        std::iter::once(VisionStage::Patches).chain(layers).chain([VisionStage::Project]).collect()
    }

    /// Records one part of the tower for the picture in `state`.
    pub fn build(
        projector: &Projector,
        weights: &VisionWeights,
        state: &VisionState,
        stage: VisionStage,
    ) -> Self {
        let (graph, (patches, positions, rows)) = Graph::build(Self::N_NODES_MAX, |g| {
            let recorder = Recorder { g, projector, weights, state };
            match stage {
                VisionStage::Patches => (Some(recorder.patches()), None, None),
                VisionStage::Layer(il) => (None, Some(recorder.layer(&weights.layers[il])), None),
                VisionStage::Project => (None, None, Some(recorder.project())),
            }
        });
        VisionGraph { graph, patches, positions, rows }
    }
}

struct Recorder<'a, 'g> {
    g: &'a GraphBuilder<'g>,
    projector: &'a Projector,
    weights: &'a VisionWeights,
    state: &'a VisionState,
}

impl<'g> Recorder<'_, 'g> {
    fn patches(&self) -> InputId {
        let g = self.g;
        let ne = [self.projector.n_patch().into(), self.state.n as i64];
        let (input, patches) = g.input::<f32>("inp_patches", &ne);
        let x = self.norm(self.linear(&self.weights.patch_embd, patches), self.weights.pre_ln);
        g.compute(g.copy_into(x, self.x()));
        input
    }

    fn layer(&self, layer: &VisionLayer) -> [InputId; 2] {
        let (g, n) = (self.g, self.state.n as i64);
        let (rows_id, rows) = g.input::<i32>("inp_pos_rows", &[n]);
        let (cols_id, cols) = g.input::<i32>("inp_pos_cols", &[n]);
        self.attention(layer, rows, cols);
        for piece in self.pieces() {
            let x = g.view_rows(self.x(), piece.clone());
            self.add_to(piece, self.feed_forward(layer, self.norm(x, layer.ln2)));
        }
        [rows_id, cols_id]
    }

    /// Every patch looks at every other.
    fn attention(&self, layer: &VisionLayer, rows: Tensor<'g>, cols: Tensor<'g>) {
        let g = self.g;
        let normed = self.norm(self.x(), layer.ln1);
        let by_head = |linear: &Linear| {
            let x = self.linear(linear, normed);
            let d = i64::from(self.projector.n_embd_head());
            g.reshape(x, &[d, self.projector.n_head.into(), self.state.n as i64])
        };
        let q = self.padded(self.rotate(by_head(&layer.attn_q), rows, cols));
        let k = self.padded(self.rotate(by_head(&layer.attn_k), rows, cols));
        let v = self.padded(by_head(&layer.attn_v));
        let kv = |x| match self.weights.kv {
            DType::F32 => x,
            dtype => g.cast(x, dtype),
        };
        let [k, v] = [k, v].map(|x| g.swap_12(kv(x))); // [d, n, n_head]
        let [d, n_head, n, _] = q.ne();
        let q = g.reshape(q, &[d * n_head, n]);
        let d_head = i64::from(self.projector.n_embd_head());
        let scale = 1.0 / (d_head as f32).sqrt();
        for piece in self.pieces() {
            let n = piece.len() as i64;
            let q = g.reshape(g.view_rows(q, piece.clone()), &[d, n_head, n]);
            let mut mixed = g.flash_attn(g.swap_12(q), k, v, None, scale); // [d, n_head, n]
            if d != d_head {
                mixed = g.cont(g.view_part(mixed, 0..d_head));
            }
            let mixed = g.reshape(mixed, &[d_head * n_head, n]);
            self.add_to(piece, self.linear(&layer.attn_out, mixed));
        }
    }

    /// The first half of each head turns with the patch's row, the second with its column; of the pairs'
    /// frequencies the rows have the even ones, the columns the odd ones.
    fn rotate(&self, x: Tensor<'g>, rows: Tensor<'g>, cols: Tensor<'g>) -> Tensor<'g> {
        let [d, ..] = x.ne();
        let base = self.projector.freq_base;
        let rope = Rope {
            n_dims: (d / 2) as i32,
            n_ctx_orig: 0, // unused without YaRN's ramp, as are the betas
            freq_base: base,
            freq_scale: 1.0,
            ext_factor: 0.0,
            attn_factor: 1.0,
            beta_fast: 0.0,
            beta_slow: 0.0,
        };
        let odd = Rope { freq_scale: base.powf(-2.0 / d as f32), ..rope };
        let by_row = self.g.rope(self.g.view_part(x, 0..d / 2), rows, None, &rope);
        let by_col = self.g.rope(self.g.view_part(x, d / 2..d), cols, None, &odd);
        self.g.concat(by_row, by_col)
    }

    /// Heads as long as the device's attention wants them: zeros add nothing to a product.
    fn padded(&self, x: Tensor<'g>) -> Tensor<'g> {
        match self.weights.n_embd_head_padded {
            n if n == x.ne()[0] => x,
            n => self.g.pad(x, n),
        }
    }

    /// W_down(act(W_gate·x) ⊙ W_up·x).
    fn feed_forward(&self, layer: &VisionLayer, x: Tensor<'g>) -> Tensor<'g> {
        let up = self.linear(&layer.ffn_up, x); // [n_ff, n]
        let gate = self.linear(&layer.ffn_gate, x);
        let gated = match self.projector.activation {
            Activation::Silu => self.g.swiglu(gate, up),
            Activation::Gelu => self.g.mul(self.g.gelu_erf(gate), up),
        };
        self.linear(&layer.ffn_down, gated)
    }

    fn project(&self) -> OutputId {
        let (g, n) = (self.g, self.state.n as i64);
        let mut x = self.x();
        if let Some(weight) = self.weights.input_norm {
            x = self.norm(x, weight);
        }
        if let Some(merger) = &self.weights.patch_merger {
            let n_embd = i64::from(self.projector.n_embd);
            let n_merge = i64::from(self.projector.merge_size).pow(2);
            // The merger's weights want the place in the group to vary faster than the feature.
            let groups = g.reshape(x, &[n_embd, n_merge, n / n_merge]);
            let groups = g.cont(g.swap_01(groups));
            x = self.linear(merger, g.reshape(groups, &[n_embd * n_merge, n / n_merge]));
        }
        let x = g.gelu_erf(self.linear(&self.weights.mm_1, x));
        g.output(self.linear(&self.weights.mm_2, x))
    }

    fn x(&self) -> Tensor<'g> {
        self.g.stored(&self.state.store, self.state.x)
    }

    /// Adds `y` to a piece of the residual stream.
    fn add_to(&self, piece: Range<usize>, y: Tensor<'g>) {
        let g = self.g;
        let x = g.view_rows(self.x(), piece);
        // The write comes before whatever is recorded later and reads the stream.
        g.compute(g.copy_into(g.add(y, x), x));
    }

    fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.state.n;
        (0..n).step_by(PIECE).map(move |start| start..n.min(start + PIECE))
    }

    /// RMSNorm(x) ⊙ weight.
    fn norm(&self, x: Tensor<'g>, weight: TensorId) -> Tensor<'g> {
        let normed = self.g.rms_norm(x, self.projector.norm_eps);
        self.g.mul(normed, self.g.stored(&self.weights.store, weight))
    }

    fn linear(&self, linear: &Linear, x: Tensor<'g>) -> Tensor<'g> {
        linear.apply(self.g, &self.weights.store, x)
    }
}
