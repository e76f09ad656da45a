//! What a plan comes to: its layout, and the bytes on each room, also of plans that do not fit.

use super::compute::{Known, Roles};
use super::fit::RoomUse;
use super::place::{Placed, Places, Setting, kv_row_bytes};
use super::{Layout, Room, RoomKind};

/// Largest multiple of a room's memory for which a plan that does not fit is shown.
const MOST_OVERFULL: f64 = 1e6;

impl Places<'_> {
    /// The layout of what was placed.
    pub(super) fn layout(&self, setting: &Setting, placed: &Placed) -> Layout {
        let cpu = self.cpu();
        let n_on_cpu = self.n_layer() - placed.counts.iter().sum::<usize>();
        let mut layers = vec![cpu; n_on_cpu];
        for (room, &n) in placed.counts.iter().enumerate() {
            layers.extend(std::iter::repeat_n(room, n));
        }
        Layout {
            layers,
            output: placed.output.unwrap_or(cpu),
            vision: placed.vision.unwrap_or(cpu),
            kv_offload: self.wish.kv_offload,
            n_ctx: setting.n_ctx,
            cache_types: setting.cache_types,
            n_batch: setting.n_batch,
        }
    }

    /// What each room would hold, all filled beyond their memory by the same factor.
    pub(super) fn overfull(&mut self, setting: &Setting) -> Option<Vec<RoomUse>> {
        let costs = self.costs(setting);
        let (roles, compute) = match self.split_counts(setting) {
            Some(_) => self.roles(setting, &costs, None, Known::Measured)?,
            None => {
                let roles = Roles::all(self.n_gpu(), setting.gpu_layers);
                let compute = self.compute.of(setting, &roles, Known::Measured);
                (roles, compute)
            }
        };
        let mut share = 1.0;
        while share <= MOST_OVERFULL {
            for tower in self.towers(setting) {
                let roles = (&roles, &compute[..], tower);
                let found = self.even_as(setting, &costs, roles, share, |_| true);
                if let Some((_, placed)) = found {
                    let layout = self.layout(setting, &placed);
                    return Some(self.uses(&layout, &compute));
                }
            }
            share *= 2.0;
        }
        None
    }

    /// Whether only the user's proportions are in the way.
    pub(super) fn fits_evenly(&mut self, setting: &Setting) -> bool {
        let Some(split) = self.split.take() else { return false };
        let fits = self.fits(setting, Known::Measured);
        self.split = Some(split);
        fits
    }

    /// Whether only copies of the processor's weights are in the way.
    pub(super) fn fits_mapped(&mut self, setting: &Setting) -> bool {
        if std::mem::replace(&mut self.mmap, true) {
            return false;
        }
        let fits = self.fits(setting, Known::Measured);
        self.mmap = false;
        fits
    }

    /// What lies on each room.
    pub(super) fn uses(&self, layout: &Layout, compute: &[u64]) -> Vec<RoomUse> {
        let (needs, cpu) = (self.needs, self.cpu());
        let mut uses = vec![RoomUse::default(); self.rooms.len()];
        let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
        let cell: u64 = kv_row_bytes(needs, layout.cache_types);
        let kv = cell.saturating_mul(layout.n_ctx.into());
        let home = |room: usize| if layout.kv_offload { room } else { cpu };
        for (&n, &room) in needs.layers.iter().zip(&layout.layers) {
            add(&mut uses[room].weights, n);
            add(&mut uses[home(room)].kv, kv);
        }
        if !(needs.is_tied && layout.output == cpu) {
            add(&mut uses[layout.output].weights, needs.output);
        }
        add(&mut uses[cpu].weights, needs.embedding);
        if let Some(draft) = needs.draft {
            add(&mut uses[layout.output].draft, draft.weights);
            add(&mut uses[home(layout.output)].draft, kv.saturating_mul(draft.n_layer.into()));
        }
        if let Some(vision) = needs.vision {
            let on_cpu = vision.weights.saturating_add(vision.working);
            let n_bytes = if layout.vision == cpu { on_cpu } else { vision.on_gpu };
            add(&mut uses[layout.vision].vision, n_bytes);
        }
        for (room, used) in uses.iter_mut().enumerate() {
            add(&mut used.weights, self.pinned(room));
            used.compute = compute[room];
            used.free = self.rooms[room].free.saturating_sub(used.sum());
        }
        let shared = self.shared(&uses);
        uses[cpu].free = uses[cpu].free.saturating_sub(shared);
        uses
    }

    /// Bytes on GPUs that share the processor's memory.
    pub(super) fn shared(&self, uses: &[RoomUse]) -> u64 {
        let shares = |(room, _): &(&Room, &RoomUse)| room.kind == RoomKind::SharedGpu;
        let sums = self.rooms.iter().zip(uses).filter(shares).map(|(_, used)| used.sum());
        sums.fold(0, u64::saturating_add)
    }
}
