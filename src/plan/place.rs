//! Runs of layers on rooms, for one setting: whether they fit, how many do, and evenly.
//!
//! Layers are handed out from the last one backwards, beginning with the room of the output, which is the
//! last GPU that can hold it. A room takes layers until the next one is too large; what one room takes more
//! the others need not take, so nothing can be gained by leaving room behind, and one pass decides. Filling
//! all rooms to a share of their memory instead of the whole gives the even distribution. GPUs that share the
//! processor's memory take from it what others leave: they come first, and so get their layers last.

use super::compute::{Compute, Known, Roles};
use super::{Needs, Room, RoomKind, Wish};
use crate::gguf::TensorType;

/// Halvings in the search of the smallest share: the last is a millionth of a room's memory.
const N_HALVINGS: u32 = 20;

/// What may be varied to make a model fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// Cells of the KV cache.
    pub(super) n_ctx: u32,
    /// Types of K and V.
    pub(super) cache_types: [TensorType; 2],
    /// Tokens in a pass.
    pub(super) n_batch: u32,
    /// Layers on GPUs, the output counted as the last.
    pub(super) gpu_layers: usize,
    /// Whether the vision tower is on a GPU.
    pub(super) vision_on_gpu: bool,
    /// Whether the processor's mapped weights have to fit its memory as well.
    pub(super) resident: bool,
}

/// What each thing costs in one setting.
#[derive(Debug)]
pub(super) struct Costs {
    /// Each layer on a GPU.
    layers: Vec<u64>,
    /// The output and the draft head on a GPU.
    output: u64,
    /// The cache of one layer, and that of the draft head.
    pub(super) kv: [u64; 2],
    vision: u64,
}

/// Which rooms take what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Layers on each GPU; the rest, the first ones, are the processor's.
    pub(super) counts: Vec<usize>,
    /// GPU of the output.
    pub(super) output: Option<usize>,
    /// GPU of the vision tower.
    pub(super) vision: Option<usize>,
    /// Bytes on GPUs that share the processor's memory.
    pub(super) shared: u64,
}

/// The rooms, what they are to hold, and what is known of working memory.
pub(super) struct Places<'a> {
    pub(super) rooms: &'a [Room],
    pub(super) needs: &'a Needs,
    pub(super) wish: &'a Wish,
    /// The user's proportions.
    pub(super) split: Option<&'a [f32]>,
    /// Whether the processor's weights stay where the file is mapped.
    pub(super) mmap: bool,
    pub(super) compute: Compute<'a>,
}

/// Bytes of a K row and a V row.
pub(super) fn kv_row_bytes(needs: &Needs, types: [TensorType; 2]) -> u64 {
    let row = |ty: TensorType, n: u64| n.div_ceil(ty.block_size()).saturating_mul(ty.type_size());
    row(types[0], needs.kv_row[0]).saturating_add(row(types[1], needs.kv_row[1]))
}

impl Places<'_> {
    pub(super) fn n_layer(&self) -> usize {
        self.needs.layers.len()
    }

    /// All rooms but the last are GPUs.
    pub(super) fn n_gpu(&self) -> usize {
        self.rooms.len() - 1
    }

    pub(super) fn cpu(&self) -> usize {
        self.n_gpu()
    }

    pub(super) fn pinned(&self, room: usize) -> u64 {
        self.needs.pinned.get(room).copied().unwrap_or(0)
    }

    pub(super) fn costs(&self, setting: &Setting) -> Costs {
        let cell = kv_row_bytes(self.needs, setting.cache_types);
        let layer = cell.saturating_mul(setting.n_ctx.into());
        let draft = self.needs.draft.map_or(0, |draft| layer.saturating_mul(draft.n_layer.into()));
        let on_gpu = |kv: u64| if self.wish.kv_offload { kv } else { 0 };
        let weights = self.needs.draft.map_or(0, |draft| draft.weights);
        let output = self.needs.output.saturating_add(weights).saturating_add(on_gpu(draft));
        let vision = self.needs.vision.map_or(0, |vision| vision.on_gpu);
        let layers = self.needs.layers.iter().map(|n| n.saturating_add(on_gpu(layer))).collect();
        Costs { layers, output, kv: [layer, draft], vision }
    }

    /// Whether `setting` fits, by working memory that is known as `known` says.
    pub(super) fn fits(&mut self, setting: &Setting, known: Known) -> bool {
        let costs = self.costs(setting);
        let towers = self.towers(setting);
        towers.into_iter().any(|tower| self.fits_beside(setting, &costs, tower, known))
    }

    fn fits_beside(
        &mut self,
        setting: &Setting,
        costs: &Costs,
        tower: Option<usize>,
        known: Known,
    ) -> bool {
        let mut fits = |known| {
            let Some((roles, compute)) = self.roles(setting, costs, tower, known) else {
                return false;
            };
            let placed = self.place(setting, costs, &roles, &compute, tower, 1.0);
            placed.is_some_and(|placed| self.cpu_fits(setting, costs, &compute, placed.shared))
        };
        // What does not fit without any working memory is not worth a measure.
        fits(Known::Nothing) && fits(known)
    }

    /// The most layers that fit, of at most `setting.gpu_layers`.
    pub(super) fn most_layers(&mut self, setting: &Setting) -> Option<usize> {
        let fits = |places: &mut Self, n: usize| {
            places.fits(&Setting { gpu_layers: n, ..*setting }, Known::Measured).then_some(n)
        };
        let most = setting.gpu_layers;
        if fits(self, most).is_some() {
            return Some(most);
        }
        if self.split.is_some() || self.has_shared() {
            return (0..most).rev().find_map(|n| fits(self, n));
        }
        // More layers on GPUs with memory of their own never need more of the processor, and what holds so many
        // holds fewer.
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = (low + high).div_ceil(2).min(high);
            match middle < most && fits_gpus(self, setting, middle) {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        fits(self, low)
    }

    /// GPUs that the tower may go to; only `None` where it stays on the processor.
    pub(super) fn towers(&self, setting: &Setting) -> Vec<Option<usize>> {
        match setting.vision_on_gpu && self.needs.vision.is_some() {
            true => (0..self.n_gpu()).map(Some).collect(),
            false => vec![None],
        }
    }

    /// What each GPU is there for, and the working memory that follows; `None` where the output has no room.
    pub(super) fn roles(
        &mut self,
        setting: &Setting,
        costs: &Costs,
        tower: Option<usize>,
        known: Known,
    ) -> Option<(Roles, Vec<u64>)> {
        let mut roles = match self.split_counts(setting) {
            Some((counts, output)) => {
                let layers = counts.iter().map(|&n| n > 0).collect();
                let roles = Roles { layers, output };
                let compute = self.compute.of(setting, &roles, known);
                return Some((roles, compute));
            }
            None => Roles::all(self.n_gpu(), setting.gpu_layers),
        };
        if setting.gpu_layers > 0 && self.n_gpu() == 0 {
            return None;
        }
        loop {
            let compute = self.compute.of(setting, &roles, known);
            let Some(room) = roles.output else { return Some((roles, compute)) };
            let last_layer = if roles.layers[room] { costs.layers[self.n_layer() - 1] } else { 0 };
            let vision = if tower == Some(room) { costs.vision } else { 0 };
            let needed = compute[room].saturating_add(costs.output).saturating_add(last_layer);
            if self.left(room, 1.0, vision).is_some_and(|left| needed <= left) {
                return Some((roles, compute));
            }
            if roles.layers[room] {
                roles.layers[room] = false;
            } else {
                roles.output = Some(room.checked_sub(1)?);
            }
        }
    }

    /// Layers on each GPU and the output's GPU, as the user's proportions say.
    pub(super) fn split_counts(&self, setting: &Setting) -> Option<(Vec<usize>, Option<usize>)> {
        let split = self.split?;
        let total: f32 = split.iter().sum();
        let mut counts = vec![0; self.n_gpu()];
        let mut output = None;
        for item in 0..setting.gpu_layers {
            let place = item as f32 / setting.gpu_layers as f32;
            let mut sum = 0.0;
            let room = split.iter().position(|part| {
                sum += part / total;
                sum > place
            });
            // The sum of all parts may round to less than 1.
            let last = || split.iter().rposition(|&part| part > 0.0).unwrap_or(0);
            let room = room.unwrap_or_else(last);
            if item + 1 == setting.gpu_layers {
                output = Some(room);
            } else {
                counts[room] += 1;
            }
        }
        Some((counts, output))
    }

    /// Bytes that one room has for layers, output and working memory when filled to `share`; `None` where
    /// even what is fixed does not fit.
    fn left(&self, room: usize, share: f64, vision: u64) -> Option<u64> {
        let free = self.rooms[room].free;
        let filled = if share == 1.0 { free } else { (free as f64 * share) as u64 };
        filled.checked_sub(self.pinned(room))?.checked_sub(vision)
    }

    /// Layers on rooms that are filled to `share` of their memory at most.
    fn place(
        &self,
        setting: &Setting,
        costs: &Costs,
        roles: &Roles,
        compute: &[u64],
        tower: Option<usize>,
        share: f64,
    ) -> Option<Placed> {
        let split = self.split_counts(setting);
        let first = self.n_layer() - setting.gpu_layers.saturating_sub(1);
        let mut next = self.n_layer(); // layers from here on have their place
        let mut counts = vec![0; self.n_gpu()];
        let mut shared = 0u64;
        for room in (0..self.n_gpu()).rev() {
            let vision = if tower == Some(room) { costs.vision } else { 0 };
            let all = self.left(room, share, 0)?;
            let mut left = all.checked_sub(vision)?;
            let has_output = roles.output == Some(room);
            let mut working = compute[room];
            if has_output || !roles.layers[room] {
                // A room without either may still work, on tensors that are pinned to it.
                let output = if has_output { costs.output } else { 0 };
                left = left.checked_sub(working)?.checked_sub(output)?;
                working = 0;
            }
            let most = split.as_ref().map_or(usize::MAX, |(counts, _)| counts[room]);
            while roles.layers[room] && next > first && counts[room] < most {
                let Some(rest) = left.checked_sub(costs.layers[next - 1].saturating_add(working))
                else {
                    break;
                };
                (left, working) = (rest, 0);
                (next, counts[room]) = (next - 1, counts[room] + 1);
            }
            if self.rooms[room].kind == RoomKind::SharedGpu {
                let used = (all - left).saturating_add(self.pinned(room));
                shared = shared.saturating_add(used);
            }
        }
        let is_whole = split.is_none_or(|(wanted, _)| wanted == counts);
        (next == first && is_whole).then_some(Placed {
            counts,
            output: roles.output,
            vision: tower,
            shared,
        })
    }

    /// The most even way to place what fits. GPUs that share the processor's memory leave room for its weights, if
    /// that can be, before anything is even.
    pub(super) fn even(&mut self, setting: &Setting) -> Option<Placed> {
        let resident = Setting { resident: true, ..*setting };
        let placed = if self.has_shared() { self.most_even(&resident) } else { None };
        placed.or_else(|| self.most_even(setting))
    }

    fn most_even(&mut self, setting: &Setting) -> Option<Placed> {
        let costs = self.costs(setting);
        let mut best: Option<(f64, Placed)> = None;
        for tower in self.towers(setting) {
            let Some((roles, compute)) = self.roles(setting, &costs, tower, Known::Measured) else {
                continue;
            };
            let most = best.as_ref().map_or(1.0, |(share, _)| *share);
            let holds = |placed: &Placed| self.cpu_fits(setting, &costs, &compute, placed.shared);
            let found = self.even_as(setting, &costs, (&roles, &compute, tower), most, holds);
            if let Some(found) = found {
                best = Some(self.settled(setting, &costs, roles, tower, found));
            }
        }
        best.map(|(_, placed)| placed)
    }

    /// The same again without working memory on rooms that stay empty, until nothing changes.
    fn settled(
        &mut self,
        setting: &Setting,
        costs: &Costs,
        mut roles: Roles,
        tower: Option<usize>,
        (mut share, mut placed): (f64, Placed),
    ) -> (f64, Placed) {
        loop {
            let layers: Vec<bool> = placed.counts.iter().map(|&n| n > 0).collect();
            if layers == roles.layers {
                return (share, placed);
            }
            roles.layers = layers;
            let compute = self.compute.of(setting, &roles, Known::Measured);
            let holds = |placed: &Placed| self.cpu_fits(setting, costs, &compute, placed.shared);
            match self.even_as(setting, costs, (&roles, &compute, tower), 1.0, holds) {
                Some(better) => (share, placed) = better,
                None => return (share, placed), // what it really needs is measured before it is used
            }
        }
    }

    /// The smallest share, of at most `most`, of all rooms' memory that is enough for runs of which `holds`
    /// says that they can be, and the runs.
    pub(super) fn even_as(
        &self,
        setting: &Setting,
        costs: &Costs,
        (roles, compute, tower): (&Roles, &[u64], Option<usize>),
        most: f64,
        holds: impl Fn(&Placed) -> bool,
    ) -> Option<(f64, Placed)> {
        let place = |share| self.place(setting, costs, roles, compute, tower, share).filter(&holds);
        let mut placed = place(most)?;
        let (mut low, mut high) = (0.0, most);
        for _ in 0..N_HALVINGS {
            let middle = (low + high) / 2.0;
            match place(middle) {
                Some(better) => (placed, high) = (better, middle),
                None => low = middle,
            }
        }
        Some((high, placed))
    }
}

/// Whether the GPUs hold `n` layers, whatever the processor says.
fn fits_gpus(places: &mut Places<'_>, setting: &Setting, n: usize) -> bool {
    let setting = Setting { gpu_layers: n, ..*setting };
    let costs = places.costs(&setting);
    places.towers(&setting).into_iter().any(|tower| {
        let roles = places.roles(&setting, &costs, tower, Known::Measured);
        roles.is_some_and(|(roles, compute)| {
            places.place(&setting, &costs, &roles, &compute, tower, 1.0).is_some()
        })
    })
}
