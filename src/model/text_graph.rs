//! The transformer, top to bottom: a batch of tokens in, logits out.
//!
//! It branches on hyper-parameters and on which tensors exist, never on a model's name. Node names are
//! llama.cpp's, so that traces can be laid side by side. Shapes are in ggml's order; `n` is the number
//! of tokens in the batch.

mod attention;

use std::cell::RefCell;

use crate::ggml::{CellLists, Graph, GraphBuilder, InputId, OutputId, Rope, Tensor};

use super::linear::Linear;
use super::weights::Layer;
use super::{Hparams, KvCache, RopeScaling, Weights};

/// What one graph is made for; a batch of the same shape runs on the same graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextShape {
    /// Tokens in the batch.
    pub n_tokens: usize,
    /// Cells of the KV cache that attention looks at under a mask.
    pub n_kv: usize,
    /// Whether these are chosen cells, which are copied together, and not the first of the cache.
    pub is_gathered: bool,
    /// The first tokens, whose cells are listed.
    pub lists: ListShape,
    /// Tokens whose logits are wanted; 0 only fills the cache.
    pub n_outputs: usize,
    /// Tokens that stand for a piece of a picture.
    pub n_image_rows: usize,
    /// Which matrices' inputs are summed up; without logits only.
    pub sums: InputSums,
}

/// Tokens that look at the cells of a list each, instead of all cells under a mask: those that come alone in
/// their timelines, which is what most batches of many sessions consist of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListShape {
    /// How many of the batch's tokens, from its beginning.
    pub n_tokens: usize,
    /// Room for their cells.
    pub n_cells: usize,
    /// Room for the pieces that the lists are cut into.
    pub n_pieces: usize,
}

/// Which matrices' inputs a graph sums up, besides what else it computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InputSums {
    /// None: the graph has no operation for it.
    #[default]
    Nothing,
    /// Those of every layer.
    Layers,
    /// Those of every layer and of the output matrix.
    LayersAndOutput,
}

/// An input that one or more matrices multiply with.
#[derive(Debug)]
pub struct SummedInput {
    /// The matrices, by their names in the file.
    pub matrices: Vec<String>,
    /// F32 `[1, 1, n_in]`, Σ x² over the batch's tokens for each column.
    pub squares: OutputId,
}

/// The recorded transformer and its inputs.
#[derive(Debug)]
pub struct TextGraph {
    /// What it was built for.
    pub shape: TextShape,
    /// The computation.
    pub graph: Graph,
    /// Where values go in.
    pub inputs: TextInputs,
    /// F32 `[n_vocab, n_outputs]`; `None` when no logits are wanted.
    pub logits: Option<OutputId>,
    /// What was asked for with [`TextShape::sums`], from the first layer to the output.
    pub sums: Vec<SummedInput>,
}

/// Inputs of a [`TextGraph`].
#[derive(Debug, Clone, Copy)]
pub struct TextInputs {
    /// I32 `[n]`, token ids.
    pub tokens: InputId,
    /// I32 `[n]`, positions in each token's own timeline.
    pub positions: InputId,
    /// I64 `[n]`, the cell that each token's K and V go to.
    pub cells: InputId,
    /// F16 `[n_kv, n_masked]`, 0 where a token may look, −∞ elsewhere; for tokens without a list, if any.
    pub mask: Option<InputId>,
    /// I32 `[n_kv]`, the cells that the mask is about, if they are chosen.
    pub gathered: Option<InputId>,
    /// I32 `[lists.n_tokens + 1]` and I32 `[lists.n_cells]`: where each list begins, and the lists, if any.
    pub lists: Option<[InputId; 2]>,
    /// I32 `[n_outputs]`, which tokens' logits are wanted, if any.
    pub outputs: Option<InputId>,
    /// F32 `[1, 1, n]`, factor on q by position; models with attention temperature only.
    pub attn_scale: Option<InputId>,
    /// Pieces of pictures, if any.
    pub image: Option<ImageInputs>,
}

/// What takes the place of token embeddings where a batch has pictures.
#[derive(Debug, Clone, Copy)]
pub struct ImageInputs {
    /// F32 `[n_embd, n_image_rows]`, as the vision tower projects them.
    pub rows: InputId,
    /// I64 `[n_image_rows]`, the token whose embedding each row replaces.
    pub places: InputId,
}

/// Tensors per layer, generously: at most 33 operations, and for each of 7 matrices a scale and a bias
/// with an operation each, the 25 stored tensors that these read, and 4 operations to sum up each of 4
/// inputs, all of which ggml counts.
const NODES_PER_LAYER: usize = 128;

impl TextGraph {
    /// Operations that the scheduler must have room for.
    pub fn n_nodes_max(hparams: &Hparams) -> usize {
        64 + NODES_PER_LAYER * hparams.n_layer as usize
    }

    /// Records the transformer for batches of `shape`.
    pub fn build(hparams: &Hparams, weights: &Weights, kv: &KvCache, shape: TextShape) -> Self {
        assert!(shape.n_outputs == 0 || shape.sums == InputSums::Nothing, "{shape:?}");
        let (graph, (inputs, logits, sums)) = Graph::build(Self::n_nodes_max(hparams), |g| {
            let recorder = Recorder::new(g, hparams, weights, kv, shape);
            let logits = recorder.record();
            (recorder.inputs, logits, recorder.sums.into_inner())
        });
        TextGraph { shape, graph, inputs, logits, sums }
    }
}

struct Recorder<'a, 'g> {
    g: &'a GraphBuilder<'g>,
    hparams: &'a Hparams,
    weights: &'a Weights,
    kv: &'a KvCache,
    shape: TextShape,
    rope: Rope,
    inputs: TextInputs,
    tokens: Tensor<'g>,
    positions: Tensor<'g>,
    cells: Tensor<'g>,
    mask: Option<Tensor<'g>>,
    gathered: Option<Tensor<'g>>,
    lists: Option<CellLists<'g>>,
    outputs: Option<Tensor<'g>>,
    attn_scale: Option<Tensor<'g>>,
    rope_freqs: Option<Tensor<'g>>,
    image: Option<[Tensor<'g>; 2]>,
    sums: RefCell<Vec<SummedInput>>,
}

impl<'a, 'g> Recorder<'a, 'g> {
    fn new(
        g: &'a GraphBuilder<'g>,
        hparams: &'a Hparams,
        weights: &'a Weights,
        kv: &'a KvCache,
        shape: TextShape,
    ) -> Self {
        let n = shape.n_tokens as i64;
        let (tokens_id, tokens) = g.input::<i32>("inp_tokens", &[n]);
        let (positions_id, positions) = g.input::<i32>("inp_pos", &[n]);
        let (cells_id, cells) = g.input::<i64>("inp_cells", &[n]);
        let ListShape { n_tokens: n_listed, n_cells, n_pieces } = shape.lists;
        let n_masked = n - n_listed as i64;
        let mask =
            (n_masked > 0).then(|| g.input::<u16>("inp_mask", &[shape.n_kv as i64, n_masked]));
        let gathered = (shape.is_gathered && n_masked > 0)
            .then(|| g.input::<i32>("inp_kv_cells", &[shape.n_kv as i64]));
        let lists = (n_listed > 0).then(|| {
            let (starts_id, starts) = g.input::<i32>("inp_list_starts", &[n_listed as i64 + 1]);
            let (cells_id, cells) = g.input::<i32>("inp_list_cells", &[n_cells as i64]);
            ([starts_id, cells_id], CellLists { starts, cells, n_pieces })
        });
        let outputs =
            (shape.n_outputs > 0).then(|| g.input::<i32>("inp_out_ids", &[shape.n_outputs as i64]));
        let attn_scale =
            hparams.attn_temperature.map(|_| g.input::<f32>("inp_attn_scale", &[1, 1, n]));
        let image = (shape.n_image_rows > 0).then(|| {
            let n = shape.n_image_rows as i64;
            let (rows, rows_tensor) = g.input::<f32>("inp_image", &[hparams.n_embd.into(), n]);
            let (places, places_tensor) = g.input::<i64>("inp_image_places", &[n]);
            (ImageInputs { rows, places }, [rows_tensor, places_tensor])
        });
        let inputs = TextInputs {
            tokens: tokens_id,
            positions: positions_id,
            cells: cells_id,
            mask: mask.map(|(id, _)| id),
            gathered: gathered.map(|(id, _)| id),
            lists: lists.map(|(ids, _)| ids),
            outputs: outputs.map(|(id, _)| id),
            attn_scale: attn_scale.map(|(id, _)| id),
            image: image.map(|(ids, _)| ids),
        };
        Recorder {
            g,
            hparams,
            weights,
            kv,
            shape,
            rope: ggml_rope(hparams),
            inputs,
            tokens,
            positions,
            cells,
            mask: mask.map(|(_, tensor)| tensor),
            gathered: gathered.map(|(_, tensor)| tensor),
            lists: lists.map(|(_, lists)| lists),
            outputs: outputs.map(|(_, tensor)| tensor),
            attn_scale: attn_scale.map(|(_, tensor)| tensor),
            rope_freqs: weights.rope_freqs.map(|id| g.stored(&weights.store, id)),
            image: image.map(|(_, tensors)| tensors),
            sums: RefCell::default(),
        }
    }

    /// Only what an output or a cache needs is computed: without logits, not the last layer's end.
    fn record(&self) -> Option<OutputId> {
        let g = self.g;
        let n_layer = self.weights.layers.len();
        let embd = g.stored(&self.weights.store, self.weights.token_embd);
        let mut x = g.get_rows(embd, self.tokens).named("inp_embd"); // [n_embd, n]
        g.pin(x, self.weights.embedding_device);
        if let Some([rows, places]) = self.image {
            x = g.set_rows(x, rows, places);
            // It writes where x lies; the scheduler only looks at where operands lie.
            g.pin(x, self.weights.embedding_device);
        }
        for (il, layer) in self.weights.layers.iter().enumerate() {
            let normed = self.norm(x, layer.attn_norm).named(format!("attn_norm-{il}"));
            let is_last = il + 1 == n_layer;
            if is_last && self.outputs.is_none() && self.shape.sums == InputSums::Nothing {
                self.store_kv(normed, layer, il);
                return None;
            }
            self.sum_up(normed, il, &["attn_q", "attn_k", "attn_v"]);
            let mut attn = self.attention(normed, layer, il).named(format!("attn_out-{il}"));
            let some_unread = self.shape.n_outputs < self.shape.n_tokens;
            if let (true, Some(outputs)) = (is_last && some_unread, self.outputs) {
                // What no one reads need not be computed.
                attn = g.get_rows(attn, outputs); // [n_embd, n_outputs]
                x = g.get_rows(x, outputs);
            }
            let ffn_inp = g.add(attn, x).named(format!("ffn_inp-{il}"));
            let normed = self.norm(ffn_inp, layer.ffn_norm).named(format!("ffn_norm-{il}"));
            self.sum_up(normed, il, &["ffn_gate", "ffn_up"]);
            let ffn = self.feed_forward(normed, layer, il).named(format!("ffn_out-{il}"));
            x = g.add(ffn, ffn_inp).named(format!("l_out-{il}"));
        }
        let normed = self.norm(x, self.weights.output_norm).named("result_norm");
        if self.shape.sums == InputSums::LayersAndOutput {
            self.push_sum(normed, vec!["output.weight".to_owned()]);
        }
        self.outputs?;
        let logits = self.linear(&self.weights.output, normed).named("result_output"); // [n_vocab, n_outputs]
        Some(g.output(logits))
    }

    /// Sums up `x` `[n_in, n]`, the input of a layer's `matrices`, if that is wanted.
    fn sum_up(&self, x: Tensor<'g>, il: usize, matrices: &[&str]) {
        if self.shape.sums != InputSums::Nothing {
            let name = |matrix| format!("blk.{il}.{matrix}.weight");
            self.push_sum(x, matrices.iter().map(name).collect());
        }
    }

    /// Σ x² of a column is its product with itself, which multiplication does on every backend with
    /// all threads; a sum over rows takes one.
    fn push_sum(&self, x: Tensor<'g>, matrices: Vec<String>) {
        let (g, [n_in, n, ..]) = (self.g, x.ne());
        let columns = g.reshape(g.cont(g.swap_01(x)), &[n, 1, n_in]);
        let squares = g.output(g.mul_mat(columns, columns));
        self.sums.borrow_mut().push(SummedInput { matrices, squares });
    }

    /// RMSNorm(x) ⊙ weight.
    fn norm(&self, x: Tensor<'g>, weight: crate::ggml::TensorId) -> Tensor<'g> {
        let normed = self.g.rms_norm(x, self.hparams.norm_eps);
        self.g.mul(normed, self.g.stored(&self.weights.store, weight))
    }

    fn linear(&self, linear: &Linear, x: Tensor<'g>) -> Tensor<'g> {
        linear.apply(self.g, &self.weights.store, x)
    }

    fn rotate(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.g.rope(x, self.positions, self.rope_freqs, &self.rope)
    }

    /// Writes this batch's K and V into the cache and returns the layer's whole cache.
    fn store_kv(&self, x: Tensor<'g>, layer: &Layer, il: usize) -> [Tensor<'g>; 2] {
        let (g, hparams) = (self.g, self.hparams);
        let n = self.shape.n_tokens as i64;
        let (d_k, n_head_kv) = (i64::from(hparams.n_embd_head_k), i64::from(hparams.n_head_kv));
        let k = g.reshape(self.linear(&layer.attn_k, x), &[d_k, n_head_kv, n]);
        let k = self.rotate(k).named(format!("Kcur-{il}"));
        let v = self.linear(&layer.attn_v, x).named(format!("Vcur-{il}")); // [d_v · n_head_kv, n]
        let (store, k_id, v_id) = self.kv.layer(il);
        let (k_cache, v_cache) = (g.stored(store, k_id), g.stored(store, v_id));
        // The writes come first in the graph: attention reads the cache, not their results.
        g.compute(g.set_rows(k_cache, g.reshape(k, &[d_k * n_head_kv, n]), self.cells));
        g.compute(g.set_rows(v_cache, v, self.cells));
        [k_cache, v_cache]
    }

    fn attention(&self, x: Tensor<'g>, layer: &Layer, il: usize) -> Tensor<'g> {
        let (g, hparams) = (self.g, self.hparams);
        let n = self.shape.n_tokens as i64;
        let (d_k, n_head) = (i64::from(hparams.n_embd_head_k), i64::from(hparams.n_head));
        let q = g.reshape(self.linear(&layer.attn_q, x), &[d_k, n_head, n]);
        let mut q = self.rotate(q).named(format!("Qcur-{il}"));
        if let Some(scale) = self.attn_scale {
            q = g.mul(q, scale);
        }
        g.compute(q);
        let cache = self.store_kv(x, layer, il);
        let mixed = self.mix(q, cache, il).named(format!("kqv_out-{il}"));
        self.sum_up(mixed, il, &["attn_output"]);
        self.linear(&layer.attn_output, mixed)
    }

    /// W_down(silu(W_gate·x) ⊙ W_up·x).
    fn feed_forward(&self, x: Tensor<'g>, layer: &Layer, il: usize) -> Tensor<'g> {
        let up = self.linear(&layer.ffn_up, x); // [n_ff, n]
        let gate = self.linear(&layer.ffn_gate, x);
        let activated = self.g.swiglu(gate, up);
        self.sum_up(activated, il, &["ffn_down"]);
        self.linear(&layer.ffn_down, activated)
    }
}

/// The model's position encoding as ggml's rope takes it.
fn ggml_rope(hparams: &Hparams) -> Rope {
    let rope = &hparams.rope;
    let (n_ctx_orig, beta_fast, beta_slow) = match rope.scaling {
        RopeScaling::Yarn { n_ctx_orig, beta_fast, beta_slow, .. } => {
            (n_ctx_orig, beta_fast, beta_slow)
        }
        // Unused without YaRN's ramp.
        RopeScaling::None | RopeScaling::Linear { .. } => (hparams.n_ctx_train, 32.0, 1.0),
    };
    Rope {
        n_dims: rope.n_rot as i32,
        n_ctx_orig: n_ctx_orig as i32,
        freq_base: rope.freq_base,
        freq_scale: rope.freq_scale(),
        ext_factor: rope.ext_factor(),
        attn_factor: rope.attn_factor(),
        beta_fast,
        beta_slow,
    }
}
