//! Opening a model: what goes where is decided first, then taken, then checked against what was decided.

use std::sync::{Arc, Mutex};

use crate::ggml::{Device, GgmlError, Scheduler};
use crate::gguf::Gguf;
use crate::model::{CellPool, Hparams, KvCache, Placement, TextGraph, Warning, Weights, validate};
use crate::plan::VisionNeeds;
use crate::tokenizer::Tokenizer;

use super::asked::{Asked, Planned, dtype};
use super::forward::Runtime;
use super::images::{Tower, Vision};
use super::join;
use super::shapes::worst;
use super::{
    Engine, EngineOptions, Error, MEMORY_MARGIN, Machine, default_n_threads, memory_available,
};

/// Told how many of how many bytes are in place.
type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What a model takes of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceUse {
    /// The device.
    pub device: Device,
    /// Layers whose weights it has.
    pub n_layer: usize,
    /// Whether it has the output matrix.
    pub has_output: bool,
    /// Bytes of the language model's weights, mapped ones counted.
    pub weights: u64,
    /// Bytes of K and V.
    pub kv: u64,
    /// Bytes of working memory.
    pub compute: u64,
    /// Bytes of the vision tower's weights.
    pub vision: u64,
}

impl Engine {
    /// Opens a model; `progress` is told the bytes in place and the bytes in all.
    ///
    /// The vision tower is that of `mmproj`, or else the one in `gguf` itself, if it has one.
    pub fn open(
        gguf: impl Into<Arc<Gguf>>,
        mmproj: Option<Gguf>,
        options: &EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Arc<Self>, Error> {
        let gguf = gguf.into();
        let (hparams, mut warnings) = validate(&gguf, options.yarn)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let tower = Tower::of(&gguf, mmproj, &hparams, &mut warnings)?;
        let vision = tower
            .as_ref()
            .map(|tower| VisionNeeds::new(tower.weight_bytes(), tower.working_bytes()));
        let asked = Asked { gguf: &gguf, hparams: &hparams, vision, draft: None, options };
        let planned = asked.plan(&Machine::new(&options.devices.gpus, None)?)?;
        let placement = placement(&planned, options, memory_available());
        let Planned { fit, without_gpus, measure, .. } = planned;
        warnings.extend(without_gpus);
        if options.devices.mlock {
            lock(&gguf, tower.as_ref(), &placement, &mut warnings);
        }
        let (weights, vision) = load(&gguf, &hparams, tower, &placement, progress)?;
        let layout = &fit.layout;
        let (n_ctx, n_batch) = (layout.n_ctx as usize, layout.n_batch as usize);
        let cache_types = layout.cache_types.map(dtype);
        let kv = KvCache::new(&hparams, n_ctx, cache_types, &placement)?;
        let shapes = worst(&hparams, &kv, measure.bounds(layout));
        join::check_room(&placement, &fit)?;
        let mut sched = measure.into_scheduler();
        for shape in shapes {
            sched.reserve(TextGraph::build(&hparams, &weights, &kv, shape).graph)?;
        }
        let mut cancel = sched.cancel_flags();
        cancel.extend(vision.iter().flat_map(Vision::cancel_flags));
        warnings.extend(misplaced(&weights));
        let mut uses = uses(&placement, &weights, &kv, &sched, vision.as_ref());
        for used in &mut uses {
            used.compute += join::sum_bytes(used.device, &hparams, n_batch);
        }
        Ok(Arc::new(Engine {
            cancel,
            cells: Mutex::new(CellPool::new(kv.n_cells())),
            runtime: Mutex::new(Runtime::new(sched, kv)),
            gguf,
            hparams,
            warnings,
            tokenizer,
            weights,
            vision,
            cache_types,
            n_threads: placement.n_threads as u32,
            n_ctx,
            n_batch,
            fit,
            uses,
        }))
    }
}

/// How weights get to where the plan has them, where so many bytes are free.
fn placement(planned: &Planned, options: &EngineOptions, free: u64) -> Placement {
    let free = free.saturating_sub(planned.shared());
    let on_cpu = planned.fit.rooms.last().copied().unwrap_or_default();
    // The tower's pages are counted as its working memory is, though they are mapped.
    let others = on_cpu.kv + on_cpu.compute + on_cpu.vision;
    Placement {
        repack_budget: match options.repack {
            true => free.saturating_sub(others + MEMORY_MARGIN),
            false => 0,
        },
        touch: on_cpu.weights + on_cpu.vision < free,
        n_threads: options.n_threads.unwrap_or_else(default_n_threads) as usize,
        ..planned.measure.placement(&planned.fit.layout)
    }
}

/// What is said of weights that are not where they are fast.
fn misplaced(weights: &Weights) -> impl Iterator<Item = Warning> {
    let slow = weights.without_kernel.iter().map(|(device, dtype)| {
        let (device, dtype) = (device.name(), dtype.name());
        Warning(format!(
            "{device} has no kernel for {dtype}: weights of that type are copied to the processor in every pass; \
             leave them there with --override-tensor or --gpu-layers, or use a file of other types"
        ))
    });
    let kept = weights.too_large.iter().map(|(device, tensor)| {
        let device = device.name();
        Warning(format!("{tensor} is too large for {device} and stays with the processor"))
    });
    slow.chain(kept)
}

/// The weights of the language model, and after them those of the tower.
fn load(
    gguf: &Arc<Gguf>,
    hparams: &Hparams,
    tower: Option<Tower>,
    placement: &Placement,
    progress: Progress<'_>,
) -> Result<(Weights, Option<Vision>), GgmlError> {
    let mut n_text = 0;
    let weights = Weights::load(gguf, hparams, placement, &mut |done, total| {
        n_text = total;
        progress(done, total);
    })?;
    let load = |tower| {
        Vision::load(tower, placement, &mut |done, total| {
            progress(n_text + done, n_text + total);
        })
    };
    Ok((weights, tower.map(load).transpose()?))
}

fn uses(
    placement: &Placement,
    weights: &Weights,
    kv: &KvCache,
    sched: &Scheduler,
    vision: Option<&Vision>,
) -> Vec<DeviceUse> {
    let compute = sched.n_bytes();
    let of = |(index, &device): (usize, &Device)| DeviceUse {
        device,
        n_layer: placement.layers.iter().filter(|&&home| home == index).count(),
        has_output: placement.output == index,
        weights: weights.n_bytes[index],
        kv: kv.n_bytes()[index],
        compute: compute[index] as u64,
        vision: vision.map_or(0, |vision| vision.n_bytes()[index]),
    };
    placement.devices.iter().enumerate().map(of).collect()
}

/// Keeps mapped weights in memory, if the system lets us.
fn lock(gguf: &Gguf, tower: Option<&Tower>, placement: &Placement, warnings: &mut Vec<Warning>) {
    if placement.layers.iter().any(|&index| index != placement.cpu()) {
        let what = "--mlock keeps the whole file in memory, also what lies on GPUs";
        warnings.push(Warning(what.to_owned()));
    }
    for part in gguf.parts().iter().chain(tower.iter().flat_map(|tower| tower.gguf().parts())) {
        if let Err(error) = part.file().lock() {
            let (label, what) = (part.label(), "raise the limit (ulimit -l) or leave out --mlock");
            warnings.push(Warning(format!("{label}: not locked in memory: {error}; {what}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::pretend_gpus;
    use crate::model::{YarnPolicy, builtin};

    #[test]
    fn what_lies_on_gpus_takes_none_of_the_memory_for_copies() {
        let gguf = Arc::new(builtin());
        let (hparams, _) = validate(&gguf, YarnPolicy::Correct).unwrap();
        let n_all = hparams.n_layer + 1;
        let gpus = pretend_gpus(&[64 << 30]);
        let machine = Machine::new(&gpus, Some(64 << 30)).unwrap();
        for (gpu_layers, is_on_gpu) in [(0, false), (n_all, true)] {
            let mut options = EngineOptions { n_ctx: Some(65_536), ..EngineOptions::on_cpu(1) };
            options.repack = true;
            options.devices.gpus = gpus.clone();
            options.devices.gpu_layers = Some(gpu_layers);
            let (vision, draft, options) = (None, None, &options);
            let asked = Asked { gguf: &gguf, hparams: &hparams, vision, draft, options };
            let planned = asked.plan(&machine).unwrap();
            let on_cpu = planned.fit.rooms[1];
            assert_eq!((on_cpu.kv == 0, on_cpu.weights < 3 << 20), (is_on_gpu, is_on_gpu));
            let free = 8 << 30;
            let budget = placement(&planned, options, free).repack_budget;
            assert_eq!(budget, free - MEMORY_MARGIN - on_cpu.kv - on_cpu.compute);
            assert_eq!(placement(&planned, options, 3 << 20).touch, is_on_gpu);
        }
    }
}
