//! What a layout takes, as ggml's own planner counts it, without taking it.
//!
//! The real graph is built over tensors that only seem to have memory, and the scheduler is asked for the sizes of
//! its buffers. Devices are the machine's own or pretended ones: kinds of memory, alignments and which device
//! runs which operation are theirs.

use std::sync::Arc;

use crate::ggml::{Backend, Device, GgmlError, Scheduler};
use crate::gguf::Gguf;
use crate::model::{Hparams, KvCache, Override, Placement, TextGraph, Weights};
use crate::plan::Layout;

use super::Error;
use super::asked::{Asked, dtype};
use super::check::{check_attention, check_embedding};
use super::join;
use super::machine::default_n_threads;
use super::needs::by_index;
use super::shapes::{Bounds, worst};

/// Measures layouts of one model on some devices.
#[derive(Debug)]
pub struct Measure {
    gguf: Arc<Gguf>,
    hparams: Hparams,
    /// Accelerators, and the processor last.
    devices: Vec<Device>,
    overrides: Vec<Override>,
    flash_attn: Option<bool>,
    mmap: bool,
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
    /// Prepares to measure what is asked for on `devices`: accelerators, and the processor last.
    pub(super) fn new(asked: &Asked<'_>, devices: &[Device]) -> Result<Self, GgmlError> {
        let options = asked.options;
        let n_threads = options.n_threads.unwrap_or_else(default_n_threads);
        let start = |&device| Backend::new(device, n_threads);
        let backends = devices.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Measure {
            gguf: asked.gguf.clone(),
            hparams: asked.hparams.clone(),
            devices: devices.to_vec(),
            overrides: by_index(&options.devices.overrides, devices),
            flash_attn: options.devices.flash_attn,
            mmap: options.devices.mmap,
            bounds: Bounds {
                n_batch: super::N_BATCH,
                n_slots: options.n_slots as usize,
                has_vision: asked.vision.is_some(),
                outputs: options.outputs,
            },
            sched: Scheduler::new(backends, TextGraph::n_nodes_max(asked.hparams)),
        })
    }

    /// What `layout` takes.
    pub fn all(&mut self, layout: &Layout) -> Measured {
        let placement = self.placement(layout);
        let weights = Weights::pretend(&self.gguf, &self.hparams, &placement);
        let types = layout.cache_types.map(dtype);
        let kv = KvCache::pretend(&self.hparams, layout.n_ctx as usize, types, &placement);
        let bounds = self.bounds(layout);
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
        let weighed = |(n_bytes, device): (u64, &Device)| join::weighed(*device, n_bytes);
        self.all(layout).compute.into_iter().zip(&self.devices).map(weighed).collect()
    }

    /// Refuses a layout of which a device cannot compute something, whatever memory it has.
    pub fn check(&self, layout: &Layout) -> Result<(), Error> {
        let placement = self.placement(layout);
        check_attention(&self.hparams, &placement, layout.cache_types.map(dtype))?;
        check_embedding(&self.gguf, &placement)?;
        join::check(
            &self.gguf,
            &self.hparams,
            &placement,
            layout.cache_types.map(dtype),
            layout.n_ctx,
        )
    }

    /// What bounds the passes of a layout.
    pub(super) fn bounds(&self, layout: &Layout) -> Bounds {
        Bounds { n_batch: layout.n_batch as usize, ..self.bounds }
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
            overrides: self.overrides.clone(),
            repack_budget: 0,
            touch: false,
            mmap: self.mmap,
            n_threads: 1,
        }
    }

    /// The scheduler, for who opens what was measured.
    pub(super) fn into_scheduler(self) -> Scheduler {
        self.sched
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, PoisonError};

    use crate::engine::{BatchRow, Engine, EngineOptions, PassOutputs, Session};
    use crate::model;

    /// Tokens in a pass.
    const N: usize = 128;

    fn opened(outputs: PassOutputs) -> Arc<Engine> {
        let sizes = (Some(512), Some(N as u32));
        let options =
            EngineOptions { n_ctx: sizes.0, n_batch: sizes.1, outputs, ..EngineOptions::on_cpu(1) };
        Engine::open(model::builtin(), None, &options, &mut |_, _| {}).unwrap()
    }

    fn working_memory(engine: &Engine) -> usize {
        let runtime = engine.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.sched.n_bytes().iter().sum()
    }

    #[test]
    fn passes_that_want_more_take_what_was_planned_for_them() {
        let least = opened(PassOutputs::Replies).fit().rooms[0].compute;
        let sums = |with_output| PassOutputs::ColumnSums { with_output };
        for outputs in [PassOutputs::Logits(N as u32 / 2), sums(false), sums(true)] {
            let engine = opened(outputs);
            let planned = engine.fit().rooms[0].compute;
            let taken = working_memory(&engine);
            let near = planned.abs_diff(taken as u64) as f64 <= 0.05 * taken as f64;
            assert!(near, "{outputs:?}: {planned} planned, {taken} taken");
            let mut session = Session::new(&engine);
            let n_logits = match outputs {
                PassOutputs::Logits(n) => n as usize,
                _ => 0,
            };
            let tokens = [5; N];
            let row = BatchRow { session: &mut session, tokens: &tokens, images: &[], n_logits };
            match outputs {
                PassOutputs::ColumnSums { with_output } => {
                    engine.column_sums(&mut [row], with_output).map(drop).unwrap();
                }
                _ => {
                    assert!(planned > least, "{planned} {least}");
                    engine.forward(&mut [row], &mut Vec::new()).unwrap();
                }
            }
            assert_eq!(working_memory(&engine), taken, "{outputs:?}");
        }
    }
}
