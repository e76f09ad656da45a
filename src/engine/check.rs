//! What devices cannot compute of a plan, whatever memory they have.

use crate::ggml::DType;
use crate::gguf::Gguf;
use crate::model::{Hparams, Placement};

use super::Error;
use super::asked::dtype;

/// Refuses a cache that a device cannot write or read.
pub(super) fn check_attention(
    hparams: &Hparams,
    placement: &Placement,
    types: [DType; 2],
) -> Result<(), Error> {
    if let Some((device, dtype)) = placement.without_kv(types) {
        return Err(Error::CacheOnDevice { device: device.name(), dtype: dtype.name() });
    }
    let unable = placement.without_flash_attn(hparams, types);
    let by_scores =
        placement.flash_attn == Some(false) || (placement.flash_attn.is_none() && unable.is_some());
    // Kernels that multiply with a cache's heads as they lie there: everybody has those of f16 and f32.
    let is_common = |dtype: &DType| [DType::F16, DType::F32].contains(dtype);
    let on_gpu = placement.kv().iter().any(|&index| !placement.devices[index].is_cpu());
    if let Some(dtype) = types.iter().find(|dtype| by_scores && on_gpu && !is_common(dtype)) {
        return Err(Error::QuantizedScores { dtype: dtype.name() });
    }
    match (placement.flash_attn, unable) {
        (Some(true), Some(device)) => Err(Error::NoFlashAttn { device: device.name() }),
        (Some(false), _) | (None, Some(_)) if types[1].is_quantized() => {
            Err(Error::QuantizedScores { dtype: types[1].name() })
        }
        _ => Ok(()),
    }
}

/// Refuses an embedding where its rows cannot be looked up.
pub(super) fn check_embedding(gguf: &Gguf, placement: &Placement) -> Result<(), Error> {
    let name = "token_embd.weight";
    let device = placement.devices[placement.device_of(name, placement.cpu())];
    match gguf.tensor(name).map(|tensor| dtype(tensor.ty)) {
        Some(dtype) if !device.is_cpu() && !device.supports_get_rows(dtype) => {
            Err(Error::EmbeddingOnDevice { device: device.name(), dtype: dtype.name() })
        }
        _ => Ok(()),
    }
}
