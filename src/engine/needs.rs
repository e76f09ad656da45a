//! What a model needs, as the planner takes it.

use regex::Regex;

use crate::ggml::Device;
use crate::gguf::{Gguf, TensorType};
use crate::model::{Hparams, KvCache, Override};
use crate::plan::Needs;

use super::asked::dtype;

/// The context that is wished for where the user wants none: as trained, or what a layer's cache may have on every
/// device that it may lie on.
pub(super) fn widest_ctx(
    hparams: &Hparams,
    cache_types: [TensorType; 2],
    devices: &[Device],
    kv_offload: bool,
) -> u32 {
    let n = hparams.n_ctx_train;
    let types = cache_types.map(dtype);
    let most = |device: &Device| KvCache::most_cells(hparams, types, *device, n);
    match kv_offload {
        true => devices.iter().map(most).filter(|&n| n > 0).min().unwrap_or(n),
        false => n,
    }
}

/// Overrides with devices by their index; those of devices that are not in use go to the processor.
pub(super) fn by_index(overrides: &[(Regex, Device)], devices: &[Device]) -> Vec<Override> {
    let index = |device: &Device| devices.iter().position(|other| other == device);
    let over = |(pattern, device): &(Regex, Device)| Override {
        pattern: pattern.clone(),
        device: index(device).unwrap_or(devices.len() - 1),
    };
    overrides.iter().map(over).collect()
}

/// What the language model in `gguf` needs, whose header was checked; `overrides` are by index of `n_rooms`.
pub fn needs(gguf: &Gguf, hparams: &Hparams, overrides: &[Override], n_rooms: usize) -> Needs {
    let mut needs = Needs {
        layers: vec![0; hparams.n_layer as usize],
        output: 0,
        is_tied: gguf.tensor("output.weight").is_none(),
        embedding: 0,
        pinned: vec![0; n_rooms],
        kv_row: [hparams.n_embd_k(), hparams.n_embd_v()],
        kv_head: [hparams.n_embd_head_k.into(), hparams.n_embd_head_v.into()],
        vision: None,
        draft: None,
    };
    for tensor in gguf.tensors() {
        let (name, n_bytes) = (&tensor.name, tensor.n_bytes);
        let over = overrides.iter().find(|over| over.pattern.is_match(name));
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        match (over, layer.and_then(|il| il.parse::<usize>().ok())) {
            (Some(over), _) => needs.pinned[over.device] += n_bytes,
            (None, Some(il)) if il < needs.layers.len() => needs.layers[il] += n_bytes,
            (None, _) if name == "token_embd.weight" => needs.embedding += n_bytes,
            // What else is in the file, such as a vision tower, is somebody else's.
            (None, _) if name.starts_with("output") || name.starts_with("rope_freqs") => {
                needs.output += n_bytes;
            }
            (None, _) => {}
        }
    }
    if needs.is_tied {
        needs.output += needs.embedding;
    }
    needs
}
