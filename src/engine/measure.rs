//! What a layout takes, as ggml's own planner counts it, without taking it.
//!
//! The real graph is built over tensors that only seem to have memory, and the scheduler is asked for the sizes of
//! its buffers. Devices are the machine's own or pretended ones: kinds of memory, alignments and which device
//! runs which operation are theirs.

use std::sync::Arc;

use regex::Regex;

use crate::ggml::{Backend, Device, GgmlError, Scheduler};
use crate::gguf::Gguf;
use crate::model::{Hparams, KvCache, Placement, TextGraph, Weights};
use crate::plan::Layout;

use super::DeviceOptions;
use super::join;
use super::open::dtype;
use super::shapes::{Bounds, worst};

/// Measures layouts of one model on some devices.
#[derive(Debug)]
pub struct Measure {
    gguf: Arc<Gguf>,
    hparams: Hparams,
    /// Accelerators, and the processor last.
    devices: Vec<Device>,
    overrides: Vec<(Regex, Device)>,
    flash_attn: Option<bool>,
    bounds: Bounds,
    sched: Scheduler,
}

/// Bytes on each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Weights, with what devices add for alignment.
    pub weights: Vec<u64>,
    /// K and V of all cells.
    pub kv: Vec<u64>,
    /// Working memory of graphs.
    pub compute: Vec<u64>,
}

impl Measure {
    /// Prepares to measure the model of `gguf`, of which only the header is read, on `devices`: accelerators, and
    /// the processor last. `n_slots` sessions run side by side, with pictures or without.
    pub fn new(
        gguf: &Arc<Gguf>,
        hparams: &Hparams,
        devices: &[Device],
        n_threads: u32,
        (n_slots, has_vision): (usize, bool),
    ) -> Result<Self, GgmlError> {
        let start = |&device| Backend::new(device, n_threads);
        let backends = devices.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Measure {
            gguf: gguf.clone(),
            hparams: hparams.clone(),
            devices: devices.to_vec(),
            overrides: Vec::new(),
            flash_attn: None,
            bounds: Bounds { n_batch: super::N_BATCH, n_slots, has_vision },
            sched: Scheduler::new(backends, TextGraph::n_nodes_max(hparams)),
        })
    }

    /// What the user decided about single tensors and about attention.
    pub fn with(self, options: &DeviceOptions) -> Self {
        let (overrides, flash_attn) = (options.overrides.clone(), options.flash_attn);
        Measure { overrides, flash_attn, ..self }
    }

    /// What `layout` takes.
    pub fn all(&mut self, layout: &Layout) -> Measured {
        let placement = self.placement(layout);
        let weights = Weights::pretend(&self.gguf, &self.hparams, &placement);
        let types = layout.cache_types.map(dtype);
        let kv = KvCache::pretend(&self.hparams, layout.n_ctx as usize, types, &placement);
        let bounds = Bounds { n_batch: layout.n_batch as usize, ..self.bounds };
        let mut compute = vec![0; self.devices.len()];
        for shape in worst(&self.hparams, &kv, bounds) {
            let graph = TextGraph::build(&self.hparams, &weights, &kv, shape).graph;
            for (most, n_bytes) in compute.iter_mut().zip(self.sched.measure(graph)) {
                *most = n_bytes.max(*most as usize) as u64;
            }
        }
        for (n_bytes, device) in compute.iter_mut().zip(&self.devices) {
            *n_bytes += join::sum_bytes(*device, &self.hparams, bounds.n_batch);
        }
        Measured { weights: weights.n_bytes, kv: kv.n_bytes().to_vec(), compute }
    }

    /// Bytes of working memory on each device, for the planner.
    pub fn compute(&mut self, layout: &Layout) -> Vec<u64> {
        let weighed = |(n_bytes, device): (u64, &Device)| match device.members().len() as u64 {
            0 => n_bytes,
            n => join::weighed(*device, n_bytes / n),
        };
        self.all(layout).compute.into_iter().zip(&self.devices).map(weighed).collect()
    }

    /// The devices of a layout, without copies for speed.
    pub(super) fn placement(&self, layout: &Layout) -> Placement {
        Placement {
            devices: self.devices.clone(),
            layers: layout.layers.clone(),
            output: layout.output,
            vision: layout.vision,
            kv_offload: layout.kv_offload,
            flash_attn: self.flash_attn,
            overrides: super::needs::by_index(&self.overrides, &self.devices),
            repack_budget: 0,
            touch: false,
            mmap: true,
            n_threads: 1,
        }
    }

    /// The scheduler, for who opens what was measured.
    pub(super) fn into_scheduler(self) -> Scheduler {
        self.sched
    }
}
