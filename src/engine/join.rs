//! GPUs that work on each layer together: one device, with the room and the needs of one.

use std::sync::Arc;

use crate::ggml::{DType, Device, GgmlError, check_memory, join};
use crate::gguf::Gguf;
use crate::model::{Hparams, KvCache, Placement, Weights, cuts};
use crate::plan::{Fit, Room, RoomKind};

use super::{DeviceOptions, Error, Machine};

/// `machine` with its accelerators as one, cut for this model.
pub(super) fn joined(
    machine: &Machine,
    gguf: &Gguf,
    hparams: &Hparams,
    options: &DeviceOptions,
) -> Result<Machine, Error> {
    let n = machine.n_gpu();
    let (gpus, rooms) = (&machine.devices[..n], &machine.rooms[..n]);
    let shares: Vec<f64> = match &options.tensor_split {
        Some(split) if split.len() == n => split.iter().map(|&x| x.into()).collect(),
        Some(split) => return Err(Error::Shares { n: split.len(), n_gpu: n }),
        None if rooms.iter().all(|room| room.free == 0) => vec![1.0; n],
        None => rooms.iter().map(|room| room.free as f64).collect(),
    };
    if let Some(room) = rooms.iter().find(|room| room.kind == RoomKind::SharedGpu) {
        return Err(Error::SharedInJoint { device: room.name.clone() });
    }
    let device = join(gpus, &shares, cuts(gguf, hparams, n))?;
    // What one of them has no room for has no room: some have less than their share.
    let of = |(room, (_, share)): (&Room, (Device, f64))| (room.free as f64 / share) as u64;
    let room = Room {
        name: device.name().to_owned(),
        kind: RoomKind::Gpu,
        free: rooms.iter().zip(device.members()).map(of).min().unwrap_or(0),
    };
    let cpu = machine.without_gpus();
    Ok(Machine { devices: vec![device, cpu.devices[0]], rooms: vec![room, cpu.rooms[0].clone()] })
}

/// What `n_bytes` of working memory, spread evenly, count in such a room: the smallest share weighs most.
pub(super) fn weighed(device: Device, n_bytes: u64) -> u64 {
    (n_bytes as f64 / least_of_even(device)) as u64
}

/// The same of what every member has whole, of `n_bytes` each.
pub(super) fn on_all(device: Device, n_bytes: u64) -> u64 {
    weighed(device, n_bytes * device.members().len().max(1) as u64)
}

/// The bytes that were [`weighed`].
pub(super) fn unweighed(device: Device, n_bytes: u64) -> u64 {
    (n_bytes as f64 * least_of_even(device)).round() as u64
}

/// The smallest share of `device`, in shares that are all equal; 1 for a device of its own.
fn least_of_even(device: Device) -> f64 {
    let members = device.members();
    members.iter().map(|(_, share)| share * members.len() as f64).fold(1.0, f64::min)
}

/// Bytes on all members in which the partial sums of a pass come together, ⌈log₂ n⌉ at a time on each.
pub(super) fn sum_bytes(device: Device, hparams: &Hparams, n_batch: usize) -> u64 {
    let n = device.members().len();
    let n_sums = n as u64 * u64::from(n.max(1).next_power_of_two().trailing_zeros());
    n_sums * u64::from(hparams.n_embd) * n_batch as u64 * size_of::<f32>() as u64
}

/// Asks every member for a plan's working memory, and gives it back: ggml would end the process where there is none.
pub(super) fn check_room(placement: &Placement, fit: &Fit) -> Result<(), GgmlError> {
    let device = placement.devices[0];
    let (members, n_bytes) = (device.members(), fit.rooms[0].compute);
    let on_each = n_bytes as usize / members.len().max(1);
    let asked: Vec<_> = members.iter().map(|(member, _)| (*member, on_each)).collect();
    check_memory("working memory", &asked)
}

/// Refuses what cannot be cut: a matrix of scores, and a layer of which some lies with the processor.
pub(super) fn check(
    gguf: &Arc<Gguf>,
    hparams: &Hparams,
    placement: &Placement,
    cache_types: [DType; 2],
    n_ctx: u32,
) -> Result<(), Error> {
    let device = placement.devices[0];
    if !device.is_joint() {
        return Ok(());
    }
    let most = KvCache::most_cells(hparams, cache_types, device, n_ctx);
    if most < n_ctx && placement.kv().contains(&0) {
        return Err(Error::CacheTooLargeToJoin { device: device.name(), n_ctx, most });
    }
    let unable = placement.without_flash_attn(hparams, cache_types).is_some();
    if placement.flash_attn == Some(false) || (placement.flash_attn.is_none() && unable) {
        return Err(Error::JoinedScores);
    }
    let too_large = Weights::pretend(gguf, hparams, placement).too_large;
    match too_large.into_iter().next() {
        Some((device, tensor)) => Err(Error::TooLargeToJoin { tensor, device: device.name() }),
        None => Ok(()),
    }
}
