//! Bytes that a model needs: its weights, and its KV cache at a context length.
//!
//! Compute buffers are not here: only the backend knows them, after it has planned a graph.

use super::hparams::Hparams;
use crate::gguf::{Gguf, TensorInfo, TensorType};

/// Bytes of all tensors.
pub fn weight_bytes(gguf: &Gguf) -> u64 {
    gguf.tensors().iter().map(|tensor: &TensorInfo| tensor.n_bytes).sum()
}

/// Bytes of the KV cache per token, keys stored as `k` and values as `v`, over all layers.
///
/// A row that does not fill whole blocks counts as if it did.
pub fn kv_bytes_per_token(hparams: &Hparams, k: TensorType, v: TensorType) -> u64 {
    let row = |ty: TensorType, n: u64| n.div_ceil(ty.block_size()).saturating_mul(ty.type_size());
    let layer = row(k, hparams.n_embd_k()).saturating_add(row(v, hparams.n_embd_v()));
    layer.saturating_mul(hparams.n_layer.into())
}

/// Bytes of the KV cache for `n_ctx` tokens.
pub fn kv_bytes(hparams: &Hparams, n_ctx: u32, k: TensorType, v: TensorType) -> u64 {
    kv_bytes_per_token(hparams, k, v).saturating_mul(n_ctx.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::medium_3_5;

    #[test]
    fn medium_3_5_needs_what_its_model_card_computes() {
        let hparams = medium_3_5();
        let per_token = |ty| kv_bytes_per_token(&hparams, ty, ty);
        assert_eq!(per_token(TensorType::F16), 360_448);
        assert_eq!(per_token(TensorType::BF16), 360_448);
        assert_eq!(per_token(TensorType::F32), 720_896);
        assert_eq!(per_token(TensorType::Q8_0), 191_488);
        assert_eq!(per_token(TensorType::Q4_0), 101_376);
        assert_eq!(kv_bytes(&hparams, 262_144, TensorType::F16, TensorType::F16), 88 << 30);
    }
}
