//! Working memory of a setting: measured at most once, and guessed where a guess will do.
//!
//! Planning a graph takes milliseconds, so the answer is kept. It depends on what each room is there for
//! (layers, the output, both), not on how many layers it has; a plan that is about to be used is measured
//! as it is all the same.

use std::collections::HashMap;

use super::place::Setting;
use super::{Layout, MeasureCompute};
use crate::gguf::TensorType;

/// What each GPU is there for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Roles {
    /// Which GPUs have layers.
    pub(super) layers: Vec<bool>,
    /// Which one has the output; `None` for the processor.
    pub(super) output: Option<usize>,
}

impl Roles {
    /// All of `n_gpu` have layers, if there are any for them, and the last one the output.
    pub(super) fn all(n_gpu: usize, gpu_layers: usize) -> Self {
        let output = if gpu_layers > 0 { n_gpu.checked_sub(1) } else { None };
        Roles { layers: vec![gpu_layers > 1; n_gpu], output }
    }

    /// Layers for each room that has any: a layout of these roles. Where there are fewer layers than rooms,
    /// several, so that each room has a layer in one of them.
    fn spread(&self, n_layer: usize, cpu_has_layers: bool) -> Vec<Vec<usize>> {
        let cpu = self.layers.len();
        let mut rooms: Vec<usize> = (0..cpu).filter(|&room| self.layers[room]).collect();
        if cpu_has_layers || rooms.is_empty() {
            rooms.insert(0, cpu);
        }
        let spread = |rooms: &[usize]| {
            (0..n_layer).map(|layer| rooms[layer * rooms.len() / n_layer]).collect()
        };
        rooms.chunks(n_layer).map(spread).collect()
    }
}

/// How well working memory has to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Not at all: none is counted, and what does not fit then never does.
    Nothing,
    /// By what was measured at other contexts.
    Guessed,
    /// Measured.
    Measured,
}

/// What a measure depends on besides the context.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    roles: Roles,
    cpu_has_layers: bool,
    cache_types: [TensorType; 2],
    n_batch: u32,
}

/// What was measured.
pub(super) struct Compute<'a> {
    measure: MeasureCompute<'a>,
    n_layer: usize,
    kv_offload: bool,
    /// By context, a few each.
    known: HashMap<Key, Vec<(u32, Vec<u64>)>>,
    /// Bytes by which plans were found to need more than their roles do, by room.
    more: Vec<u64>,
}

impl<'a> Compute<'a> {
    pub(super) fn new(
        measure: MeasureCompute<'a>,
        n_rooms: usize,
        n_layer: usize,
        kv_offload: bool,
    ) -> Self {
        Compute { measure, n_layer, kv_offload, known: HashMap::new(), more: vec![0; n_rooms] }
    }

    /// Working memory of each room.
    pub(super) fn of(&mut self, setting: &Setting, roles: &Roles, known: Known) -> Vec<u64> {
        if known == Known::Nothing {
            return vec![0; self.more.len()];
        }
        let key = Key {
            roles: roles.clone(),
            cpu_has_layers: setting.gpu_layers <= self.n_layer,
            cache_types: setting.cache_types,
            n_batch: setting.n_batch,
        };
        let points = self.known.get(&key).map(Vec::as_slice).unwrap_or_default();
        let same = points.iter().find(|(n_ctx, _)| *n_ctx == setting.n_ctx);
        let mut bytes = match same {
            Some((_, bytes)) => bytes.clone(),
            None => match between(points, setting.n_ctx).filter(|_| known == Known::Guessed) {
                Some(bytes) => bytes,
                None => self.measured(setting, key),
            },
        };
        bytes.iter_mut().zip(&self.more).for_each(|(n, more)| *n = n.saturating_add(*more));
        bytes
    }

    fn measured(&mut self, setting: &Setting, key: Key) -> Vec<u64> {
        let cpu = key.roles.layers.len();
        let mut bytes = vec![0; self.more.len()];
        for layers in key.roles.spread(self.n_layer, key.cpu_has_layers) {
            let layout = Layout {
                layers,
                output: key.roles.output.unwrap_or(cpu),
                vision: cpu,
                kv_offload: self.kv_offload,
                n_ctx: setting.n_ctx,
                cache_types: setting.cache_types,
                n_batch: setting.n_batch,
            };
            let measured = self.layout(&layout);
            bytes.iter_mut().zip(measured).for_each(|(most, n)| *most = n.max(*most));
        }
        self.known.entry(key).or_default().push((setting.n_ctx, bytes.clone()));
        bytes
    }

    /// Working memory of exactly this layout.
    pub(super) fn layout(&mut self, layout: &Layout) -> Vec<u64> {
        let bytes = (self.measure)(layout);
        assert_eq!(bytes.len(), self.more.len(), "a measure for each room");
        bytes
    }

    /// Remembers that a plan needs more in `room` than its roles said.
    pub(super) fn needs_more(&mut self, room: usize, n_bytes: u64) {
        self.more[room] = self.more[room].saturating_add(n_bytes);
    }
}

/// The line through the nearest known contexts on either side of `n_ctx`, or what is nearest.
fn between(known: &[(u32, Vec<u64>)], n_ctx: u32) -> Option<Vec<u64>> {
    let low = known.iter().filter(|(n, _)| *n < n_ctx).max_by_key(|(n, _)| *n);
    let high = known.iter().filter(|(n, _)| *n > n_ctx).min_by_key(|(n, _)| *n);
    let (Some((low, a)), Some((high, b))) = (low, high) else {
        return low.or(high).map(|(_, bytes)| bytes.clone());
    };
    let part = f64::from(n_ctx - low) / f64::from(high - low);
    let point = |(&a, &b): (&u64, &u64)| (a as f64 + (b as f64 - a as f64) * part).ceil() as u64;
    Some(a.iter().zip(b).map(point).collect())
}
