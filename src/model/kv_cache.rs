//! The KV cache: one pool of cells that all sessions share.
//!
//! A cell is one row of every layer's K and V tensor and holds one position of one timeline. Sessions
//! own lists of cells; a prefix that two sessions share is the same cells counted twice, so sharing
//! costs nothing and freeing is a decrement. Which cells a token may look at is said by the mask, so
//! cells need no order; they are handed out in runs all the same, because backends skip masked blocks.

use std::sync::Arc;

use crate::ggml::{DType, Device, GgmlError, StoreBuilder, TensorId, TensorStore, can_attend};

use super::{Hparams, Placement};

/// Most cells that a session takes at once, so that sessions growing side by side stay in runs.
const RUN: usize = 32;

/// A run is at most this part of the free cells: what one session takes ahead, another can't use.
const RUN_SHARE: usize = 64;

/// Graphs look at whole multiples of this many cells, so that one graph serves many steps.
const VIEW_STEP: usize = 256;

/// K and V of every layer, each on its layer's device.
#[derive(Debug)]
pub struct KvCache {
    store: Arc<TensorStore>,
    /// One per layer, `[n_embd_head_k · n_head_kv, n_cells]`.
    k: Vec<TensorId>,
    /// One per layer, `[n_embd_head_v · n_head_kv, n_cells]`.
    v: Vec<TensorId>,
    /// Where each layer's K and V are.
    devices: Vec<Device>,
    types: [DType; 2],
    /// Whether attention goes without a matrix of scores.
    flash_attn: bool,
    /// Bytes on each device of the placement.
    n_bytes: Vec<u64>,
    n_cells: usize,
    /// Cells below this have been zeroed; memory above has never been touched.
    n_zeroed: usize,
}

/// Name of a layer's K or V tensor, where `what` is `k` or `v`.
pub(super) fn cache_name(what: &str, layer: usize) -> String {
    format!("cache_{what}-{layer}")
}

impl KvCache {
    /// A cache of `n_cells` positions. Pages of the processor's are touched only as they come into use.
    pub fn new(
        hparams: &Hparams,
        n_cells: usize,
        types: [DType; 2],
        placement: &Placement,
    ) -> Result<Self, GgmlError> {
        Self::place(hparams, n_cells, types, placement, |builder, device, ids| {
            let n_before = builder.n_bytes_allocated();
            builder.allocate(device.buffer_type(), device, "the KV cache", ids)?;
            Ok(builder.n_bytes_allocated() - n_before)
        })
    }

    /// The same without memory: graphs of it can be planned, not run.
    pub fn pretend(
        hparams: &Hparams,
        n_cells: usize,
        types: [DType; 2],
        placement: &Placement,
    ) -> Self {
        let placed = Self::place(hparams, n_cells, types, placement, |builder, device, ids| {
            Ok(builder.pretend(device.buffer_type(), ids))
        });
        placed.expect("nothing is allocated that could be refused")
    }

    fn place(
        hparams: &Hparams,
        n_cells: usize,
        types: [DType; 2],
        placement: &Placement,
        take: impl Fn(&mut StoreBuilder, Device, &[TensorId]) -> Result<usize, GgmlError>,
    ) -> Result<Self, GgmlError> {
        let n_layer = hparams.n_layer as usize;
        let n_head_kv = i64::from(hparams.n_head_kv);
        let n_k = i64::from(hparams.n_embd_head_k) * n_head_kv;
        let n_v = i64::from(hparams.n_embd_head_v) * n_head_kv;
        let mut builder = StoreBuilder::new(2 * n_layer);
        let mut declare = |what: &str, dtype, n| -> Vec<TensorId> {
            let name = |layer| cache_name(what, layer);
            (0..n_layer).map(|i| builder.declare(&name(i), dtype, &[n, n_cells as i64])).collect()
        };
        let (k, v) = (declare("k", types[0], n_k), declare("v", types[1], n_v));
        let mut homes = placement.kv();
        let shapes = [(types[0], [n_k, n_cells as i64]), (types[1], [n_v, n_cells as i64])];
        for home in &mut homes {
            let device = placement.devices[*home];
            if !device.is_cpu() && !shapes.iter().all(|(dtype, ne)| device.can_hold(*dtype, ne)) {
                *home = placement.cpu();
            }
        }
        let mut n_bytes = vec![0; placement.devices.len()];
        for (index, &device) in placement.devices.iter().enumerate() {
            let layers = (0..n_layer).filter(|&il| homes[il] == index);
            let ids: Vec<TensorId> = layers.flat_map(|il| [k[il], v[il]]).collect();
            if !ids.is_empty() {
                n_bytes[index] = take(&mut builder, device, &ids)? as u64;
            }
        }
        let devices = homes.into_iter().map(|index| placement.devices[index]).collect();
        let able = || placement.without_flash_attn(hparams, types).is_none();
        Ok(KvCache {
            store: builder.finish(),
            k,
            v,
            devices,
            types,
            flash_attn: placement.flash_attn.unwrap_or_else(able),
            n_bytes,
            n_cells,
            n_zeroed: 0,
        })
    }

    /// Most positions that a layer's K and V may have on `device`, which has memory for them, up to `n`.
    pub fn most_cells(hparams: &Hparams, types: [DType; 2], device: Device, n: u32) -> u32 {
        let n_head_kv = i64::from(hparams.n_head_kv);
        let head = [hparams.n_embd_head_k, hparams.n_embd_head_v].map(i64::from);
        let holds = |n: u32| {
            (0..2).all(|i| device.can_hold(types[i], &[head[i] * n_head_kv, i64::from(n)]))
        };
        if device.is_cpu() || holds(n) {
            return n;
        }
        let (mut low, mut high) = (0, n / VIEW_STEP as u32);
        while low + 1 < high {
            let middle = low.midpoint(high);
            match holds(middle * VIEW_STEP as u32) {
                true => low = middle,
                false => high = middle,
            }
        }
        low * VIEW_STEP as u32
    }

    /// Positions that fit.
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// Bytes of all cells on each device of the placement.
    pub fn n_bytes(&self) -> &[u64] {
        &self.n_bytes
    }

    /// Bytes of one layer's K and V of one position.
    pub fn n_bytes_per_cell(&self) -> usize {
        self.n_bytes.iter().sum::<u64>() as usize / self.n_cells / self.devices.len()
    }

    /// K and V of one layer, for the graph.
    pub(super) fn layer(&self, layer: usize) -> (&Arc<TensorStore>, TensorId, TensorId) {
        (&self.store, self.k[layer], self.v[layer])
    }

    /// Where one layer's K and V are.
    pub(super) fn device(&self, layer: usize) -> Device {
        self.devices[layer]
    }

    /// Whether attention goes without a matrix of scores.
    pub(super) fn flash_attn(&self) -> bool {
        self.flash_attn
    }

    /// Whether attention can go by lists of cells in this cache.
    pub fn can_list(&self, hparams: &Hparams) -> bool {
        let head = [hparams.n_embd_head_k, hparams.n_embd_head_v].map(i64::from);
        let n_group = i64::from(hparams.n_head / hparams.n_head_kv);
        self.flash_attn && self.is_on_cpu() && can_attend(self.types, head, n_group)
    }

    /// Whether chosen cells can be copied together.
    pub fn can_gather(&self) -> bool {
        self.is_on_cpu()
    }

    fn is_on_cpu(&self) -> bool {
        self.devices.iter().all(|device| device.is_cpu())
    }

    /// How many cells a graph must look at to see cell `last`.
    pub fn view_for(&self, last: usize) -> usize {
        (last + 1).next_multiple_of(VIEW_STEP).min(self.n_cells)
    }

    /// Makes cells below `n` readable: a masked cell is multiplied by zero, which garbage would survive.
    pub fn zero_below(&mut self, n: usize) {
        if n > self.n_zeroed {
            for &id in self.k.iter().chain(&self.v) {
                self.store.zero_rows(id, self.n_zeroed..n);
            }
            self.n_zeroed = n;
        }
    }

    /// Clears cells that were given what is no number.
    pub fn clear(&mut self, cells: impl Iterator<Item = usize>) {
        for cell in cells {
            for &id in self.k.iter().chain(&self.v) {
                self.store.zero_rows(id, cell..cell + 1);
            }
        }
    }
}

/// Counts who uses which cell.
#[derive(Debug)]
pub struct CellPool {
    /// Timelines that own the cell; 0 is free.
    n_owners: Vec<u32>,
    n_free: usize,
}

/// The cells of one timeline, in the order of its positions.
#[derive(Debug, Default)]
pub struct Cells {
    used: Vec<u32>,
    /// Taken ahead and not yet used; ascending from the end.
    ahead: Vec<u32>,
}

impl Cells {
    /// Cell of each position.
    pub fn as_slice(&self) -> &[u32] {
        &self.used
    }

    /// How many are taken ahead.
    pub fn n_ahead(&self) -> usize {
        self.ahead.len()
    }
}

impl CellPool {
    /// A pool of free cells.
    pub fn new(n_cells: usize) -> Self {
        CellPool { n_owners: vec![0; n_cells], n_free: n_cells }
    }

    /// Cells that nobody owns.
    pub fn n_free(&self) -> usize {
        self.n_free
    }

    /// Appends `n` cells to a timeline; `false`, and nothing done, when too few are free. `n_others` are
    /// wanted by others in the same pass: they are not taken ahead.
    pub fn extend(&mut self, cells: &mut Cells, n: usize, n_others: usize) -> bool {
        if self.n_free + cells.ahead.len() < n {
            return false;
        }
        for i in 0..n {
            if cells.ahead.is_empty() {
                // A prompt takes what it needs; only what grows token by token takes ahead.
                let n_spare = self.n_free.saturating_sub(1 + n_others);
                let n_wanted = if n > 1 { n - i } else { RUN.min(1 + n_spare / RUN_SHARE) };
                self.take_run(cells, n_wanted);
            }
            cells.used.push(cells.ahead.pop().expect("a free cell was counted"));
        }
        true
    }

    /// Cuts a timeline to its first `n` positions.
    pub fn truncate(&mut self, cells: &mut Cells, n: usize) {
        for cell in cells.used.drain(n.min(cells.used.len())..).chain(cells.ahead.drain(..)) {
            release(&mut self.n_owners, &mut self.n_free, cell);
        }
    }

    /// Another timeline with the same first `n` positions.
    pub fn share(&mut self, cells: &Cells, n: usize) -> Cells {
        let used = cells.used[..n].to_vec();
        for &cell in &used {
            self.n_owners[cell as usize] += 1;
        }
        Cells { used, ahead: Vec::new() }
    }

    /// Takes up to `n` free cells that follow each other: after the timeline's last if possible, else
    /// from the first gap of a whole run, else from the first gap at all.
    fn take_run(&mut self, cells: &mut Cells, n: usize) {
        let free = |i: usize| self.n_owners.get(i) == Some(&0);
        let after_last = cells.used.last().map_or(0, |&c| c as usize + 1);
        let start = if free(after_last) {
            after_last
        } else {
            let whole = |start: &usize| (*start..*start + RUN).all(free);
            (0..self.n_owners.len())
                .step_by(RUN)
                .find(whole)
                .or_else(|| (0..self.n_owners.len()).find(|&i| free(i)))
                .expect("a free cell was counted")
        };
        let run = (start..start + n).take_while(|&i| free(i)).map(|i| i as u32);
        cells.ahead = run.collect();
        cells.ahead.reverse();
        for &cell in &cells.ahead {
            self.n_owners[cell as usize] = 1;
        }
        self.n_free -= cells.ahead.len();
    }
}

fn release(n_owners: &mut [u32], n_free: &mut usize, cell: u32) {
    let owners = &mut n_owners[cell as usize];
    *owners -= 1;
    if *owners == 0 {
        *n_free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_shared_counted_and_returned() {
        let mut pool = CellPool::new(100);
        let (mut a, mut b) = (Cells::default(), Cells::default());
        assert!(pool.extend(&mut a, 40, 0));
        assert!(pool.extend(&mut b, 10, 0));
        assert_eq!(a.as_slice(), (0..40).collect::<Vec<u32>>());
        let mut shared = pool.share(&a, 8);
        assert!(pool.extend(&mut shared, 2, 0));
        pool.truncate(&mut a, 0);
        assert_eq!(shared.as_slice()[..8], (0..8).collect::<Vec<u32>>());
        pool.truncate(&mut shared, 0);
        pool.truncate(&mut b, 0);
        assert_eq!(pool.n_free(), 100);
    }

    #[test]
    fn a_full_pool_refuses_and_keeps_everything() {
        let mut pool = CellPool::new(10);
        let (mut a, mut b) = (Cells::default(), Cells::default());
        assert!(pool.extend(&mut a, 9, 0));
        assert!(!pool.extend(&mut b, 3, 0));
        assert!(b.as_slice().is_empty());
        pool.truncate(&mut a, 2);
        assert!(pool.extend(&mut b, 8, 0));
        assert!(!pool.extend(&mut b, 1, 0));
    }

    #[test]
    fn prompts_side_by_side_fill_the_pool_to_its_last_cell() {
        let mut pool = CellPool::new(512);
        let mut timelines: Vec<Cells> = (0..4).map(|_| Cells::default()).collect();
        assert!(timelines.iter_mut().all(|cells| pool.extend(cells, 128, 0)));
        assert_eq!(pool.n_free(), 0);
    }

    #[test]
    fn nobody_takes_ahead_what_another_row_of_the_pass_needs() {
        for n in [1, 63, 64, 65, 200, 512] {
            let mut pool = CellPool::new(n);
            let mut timelines: Vec<Cells> = (0..n).map(|_| Cells::default()).collect();
            for (i, cells) in timelines.iter_mut().enumerate() {
                assert!(pool.extend(cells, 1, n - 1 - i), "timeline {i} of {n}");
            }
        }
    }
}
