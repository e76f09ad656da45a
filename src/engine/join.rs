//! GPUs that work on each layer together: one device, with the room and the needs of one.

use std::sync::Arc;

use crate::ggml::{Cuts, DType, Device, join};
use crate::gguf::Gguf;
use crate::model::{Hparams, Placement, Weights, cuts};

use super::{DeviceOptions, Error};

/// The devices that are planned with: accelerators, joined to one if that is wished for, and the processor last.
pub fn devices_for(
    options: &DeviceOptions,
    gguf: &Gguf,
    hparams: &Hparams,
    cpu: Device,
) -> Result<Vec<Device>, Error> {
    let gpus = match (&options.gpus[..], options.join) {
        ([], _) | (_, false) => options.gpus.clone(),
        (gpus, true) => vec![joined(gpus, options, cuts(gguf, hparams, gpus.len()))?],
    };
    Ok(gpus.into_iter().chain([cpu]).collect())
}

fn joined(gpus: &[Device], options: &DeviceOptions, cuts: Cuts) -> Result<Device, Error> {
    let most = cuts.values().map(|cut| cut.n_units).min().unwrap_or(1);
    let shares: Vec<f64> = match &options.tensor_split {
        Some(split) if split.len() == gpus.len() => split.iter().map(|&x| x.into()).collect(),
        Some(split) => return Err(Error::Shares { n: split.len(), n_gpu: gpus.len() }),
        None => gpus.iter().map(|gpu| gpu.memory()[0] as f64).collect(),
    };
    join(gpus, &shares, cuts).ok_or(Error::TooManyJoined { n: gpus.len(), most })
}

/// Bytes that `device` has for what is cut, if each member keeps `margin` for itself: some have less than their
/// share.
pub(super) fn room(device: Device, margin: u64) -> u64 {
    let of = |(member, share): (Device, f64)| {
        (member.memory()[0].saturating_sub(margin) as f64 / share) as u64
    };
    device.members().into_iter().map(of).min().unwrap_or(0)
}

/// What `n_bytes` of working memory on every member come to in such a room: the smallest share weighs most.
pub(super) fn weighed(device: Device, n_bytes: u64) -> u64 {
    let least = device.members().iter().map(|(_, share)| *share).fold(1.0, f64::min);
    (n_bytes as f64 / least) as u64
}

/// Bytes on all members in which the partial sums of a pass come together, ⌈log₂ n⌉ at a time on each.
pub(super) fn sum_bytes(device: Device, hparams: &Hparams, n_batch: usize) -> u64 {
    let n = device.members().len();
    let n_sums = n as u64 * u64::from(n.max(1).next_power_of_two().trailing_zeros());
    n_sums * u64::from(hparams.n_embd) * n_batch as u64 * size_of::<f32>() as u64
}

/// Refuses what cannot be cut: a matrix of scores, and a layer of which some lies with the processor.
pub(super) fn check(
    gguf: &Arc<Gguf>,
    hparams: &Hparams,
    placement: &Placement,
    cache_types: [DType; 2],
) -> Result<(), Error> {
    if !placement.devices[0].is_joint() {
        return Ok(());
    }
    let unable = placement.without_flash_attn(hparams, cache_types).is_some();
    if placement.flash_attn == Some(false) || (placement.flash_attn.is_none() && unable) {
        return Err(Error::JoinedScores);
    }
    let weights = Weights::pretend(gguf, hparams, placement);
    match weights.too_large.into_iter().next() {
        Some((device, tensor)) => Err(Error::TooLargeToJoin { tensor, device: device.name() }),
        None => Ok(()),
    }
}
