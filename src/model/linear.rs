//! A matrix of weights, as graphs multiply with it.

use std::sync::Arc;

use crate::ggml::{GraphBuilder, Tensor, TensorId, TensorStore};

/// A matrix and what goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[n_in, n_out]`
    pub weight: TensorId,
    /// The same in the CPU's own order, for the few rows of a decode step; see `Copied::Beside`.
    pub packed: Option<TensorId>,
    /// F32 `[1]`; NVFP4 files carry one per matrix.
    pub scale: Option<TensorId>,
    /// F32 `[n_out]`; Mistral Medium 3.5 has none.
    pub bias: Option<TensorId>,
}

/// Batches up to this many rows multiply with a weight's packed copy, where there is one.
const PACKED_ROWS: i64 = 16;

impl Linear {
    /// W·x, times the weight's own scale and plus its bias, where the file has them.
    pub(super) fn apply<'g>(
        &self,
        g: &GraphBuilder<'g>,
        store: &Arc<TensorStore>,
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        let packed = self.packed.filter(|_| x.ne()[1] <= PACKED_ROWS);
        let mut y = g.mul_mat(g.stored(store, packed.unwrap_or(self.weight)), x);
        if let Some(scale) = self.scale {
            y = g.mul(y, g.stored(store, scale));
        }
        if let Some(bias) = self.bias {
            y = g.add(y, g.stored(store, bias));
        }
        y
    }
}
