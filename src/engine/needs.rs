//! What a model needs, and what devices have, as the planner takes them.

use regex::Regex;

use crate::ggml::{Device, DeviceKind};
use crate::gguf::{Gguf, TensorType};
use crate::model::{Hparams, KvCache, Override};
use crate::plan::{Needs, Room, RoomKind};

use super::join;
use super::machine::memory_available;
use super::open::dtype;

/// Left to drivers, other programs and what backends take beside planned buffers, on each accelerator.
pub const GPU_MARGIN: u64 = 1 << 30;

/// Left to the rest of the machine when sizes are chosen for the user.
pub const MEMORY_MARGIN: u64 = 1 << 30;

/// Accelerators as rooms, and the processor last.
pub(super) fn rooms(devices: &[Device]) -> Vec<Room> {
    let room = |device: &Device| match device.kind() {
        DeviceKind::Cpu => Room {
            name: device.name().to_owned(),
            kind: RoomKind::Cpu,
            free: memory_available().saturating_sub(MEMORY_MARGIN),
        },
        _ if device.is_joint() => Room {
            name: device.name().to_owned(),
            kind: RoomKind::Gpu,
            free: join::room(*device, GPU_MARGIN),
        },
        _ => Room {
            name: device.name().to_owned(),
            kind: RoomKind::Gpu,
            free: device.memory()[0].saturating_sub(GPU_MARGIN),
        },
    };
    devices.iter().map(room).collect()
}

/// The context that is wished for where the user wants none: as trained, or what a layer's cache may have on every
/// device that it may lie on.
pub fn widest_ctx(
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
pub fn by_index(overrides: &[(Regex, Device)], devices: &[Device]) -> Vec<Override> {
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
