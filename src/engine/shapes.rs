//! The largest graphs that passes can come to: working memory is measured and taken by them.

use crate::ggml::PIECE;
use crate::model::{Hparams, InputSums, KvCache, ListShape, TextShape};

use super::PassOutputs;
use super::forward::{MAX_PIECES, lists, max_gathered};

/// What bounds the passes of an engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most tokens in a pass.
    pub(super) n_batch: usize,
    /// Most sessions in a pass.
    pub(super) n_slots: usize,
    /// Whether there are pictures.
    pub(super) has_vision: bool,
    /// What is asked for of a pass.
    pub(super) outputs: PassOutputs,
}

/// Shapes of which one or another needs the most memory on each device.
pub(super) fn worst(hparams: &Hparams, kv: &KvCache, bounds: Bounds) -> Vec<TextShape> {
    let Bounds { n_batch, n_slots, has_vision, outputs } = bounds;
    let n_rows = n_slots.clamp(1, n_batch);
    let (n_outputs, sums) = match outputs {
        PassOutputs::Replies => (n_rows, InputSums::Nothing),
        PassOutputs::Logits(n) => ((n as usize).clamp(n_rows, n_batch), InputSums::Nothing),
        PassOutputs::ColumnSums { with_output: false } => (0, InputSums::Layers),
        PassOutputs::ColumnSums { with_output: true } => (0, InputSums::LayersAndOutput),
    };
    let mut listed = vec![ListShape::default()];
    if n_rows > 1 && sums == InputSums::Nothing && kv.can_list(hparams) {
        // Timelines may share cells, which are listed for each.
        let n_pieces = (n_rows * kv.n_cells().div_ceil(PIECE)).min(MAX_PIECES);
        let n_cells = n_pieces * PIECE;
        // All sessions write, or all but one that reads its prompt meanwhile.
        listed.push(lists(n_rows, n_cells, n_pieces));
        listed.push(lists(n_rows - 1, n_cells, n_pieces));
    }
    let masked = [(kv.n_cells(), false), (max_gathered(kv), true)];
    let masked = masked.into_iter().filter(|(n_kv, _)| *n_kv > 0);
    let shape = |(n_kv, is_gathered), lists: ListShape| {
        let n_tokens = if lists.n_tokens == n_rows { n_rows } else { n_batch };
        TextShape {
            n_tokens,
            n_kv,
            is_gathered,
            lists,
            n_outputs: n_outputs.min(n_tokens),
            n_image_rows: if has_vision { n_tokens - lists.n_tokens } else { 0 },
            sums,
        }
    };
    masked.flat_map(|masked| listed.iter().map(move |&lists| shape(masked, lists))).collect()
}
