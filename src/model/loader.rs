//! Placing the tensors of a file in memory.
//!
//! A tensor stays where the file is mapped; where the CPU backend runs faster on a rearranged copy, and
//! the copies fit the memory that the caller allows, it gets one, instead of the mapped tensor or beside
//! it. Names, shapes and types were checked against the spec before (`spec.rs`), so nothing here can fail
//! but memory. `weights.rs` and `vision_weights.rs` say which tensor is what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ggml::{
    BufferType, DType, Device, GgmlError, GraphBuilder, HostMemory, StoreBuilder, Tensor, TensorId,
    TensorStore,
};
use crate::gguf::{Gguf, TensorInfo, TensorType};

/// What the CPU's vector loads want, and what GGUF files have by default.
const ALIGNMENT: u64 = 32;

/// Mapped pages are brought in by pieces of this size, so that progress can be shown.
const TOUCH_BYTES: usize = 64 << 20;

/// A matrix and what goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[n_in, n_out]`
    pub weight: TensorId,
    /// The same in the CPU's own order, for the few rows of a decode step; see `Copied::Beside`.
    pub packed: Option<TensorId>,
    /// F32 `[1]`; NVFP4 files carry one per matrix.
    pub scale: Option<TensorId>,
    /// F32 `[n_out]`; Mistral Medium 3.5 has none.
    pub bias: Option<TensorId>,
}

/// Batches up to this many rows multiply with a weight's packed copy, where there is one.
const PACKED_ROWS: i64 = 16;

impl Linear {
    /// W·x, times the weight's own scale and plus its bias, where the file has them.
    pub(super) fn apply<'g>(
        &self,
        g: &GraphBuilder<'g>,
        store: &Arc<TensorStore>,
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        let packed = self.packed.filter(|_| x.ne()[1] <= PACKED_ROWS);
        let mut y = g.mul_mat(g.stored(store, packed.unwrap_or(self.weight)), x);
        if let Some(scale) = self.scale {
            y = g.mul(y, g.stored(store, scale));
        }
        if let Some(bias) = self.bias {
            y = g.add(y, g.stored(store, bias));
        }
        y
    }
}

/// How weights are placed.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Where they go.
    pub device: Device,
    /// Bytes that the weights with their rearranged copies may take; 0 makes no copies.
    pub repack_budget: u64,
    /// Whether mapped pages are read in now; sensible when they fit memory.
    pub touch: bool,
    /// Threads that copy and touch.
    pub n_threads: usize,
}

/// What a rearranged copy is to the tensor in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// The copy does everything; the file's pages may go.
    Instead,
    /// The copy serves batches of few rows, the file's own order the rest.
    ///
    /// ggml's x86 kernels multiply K and I quants as they lie in the file, tile by tile, and are 1.6 times
    /// as fast on prompts as the rearranged form; that is faster on 1 and on 4 to 16 rows (measured with
    /// `gust bench -p 1,2,4,8,16,32`, with and without `--no-repack`).
    Beside,
}

impl Copied {
    fn of(ty: TensorType, kind: BufferType) -> Self {
        use TensorType as T;
        let tiled = matches!(ty, T::Q2_K | T::Q3_K | T::Q4_K | T::Q5_K | T::Q6_K | T::IQ4_XS);
        // Other kinds of memory, such as AMX's, have kernels of their own for prompts as well.
        let repack = kind.name() == "CPU_REPACK";
        match cfg!(target_arch = "x86_64") && tiled && repack {
            true => Copied::Beside,
            false => Copied::Instead,
        }
    }
}

/// Told how many of how many bytes are in place.
pub(super) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Part of a model as memory that tensors use in place.
struct PartMemory {
    gguf: Arc<Gguf>,
    part: usize,
}

impl AsRef<[u8]> for PartMemory {
    fn as_ref(&self) -> &[u8] {
        self.gguf.parts()[self.part].bytes()
    }
}

struct Item<'a> {
    id: TensorId,
    info: &'a TensorInfo,
    /// `None` leaves the tensor where it is mapped.
    copy_to: Option<BufferType>,
    /// Whether a forward pass reads all of it.
    read_whole: bool,
}

/// Declares the tensors that are asked for, then places them all.
pub(super) struct Loader<'a> {
    gguf: &'a Arc<Gguf>,
    placement: Placement,
    repack_types: Vec<BufferType>,
    builder: StoreBuilder,
    items: Vec<Item<'a>>,
    pub(super) n_bytes_repacked: u64,
    pub(super) n_bytes_read: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(gguf: &'a Arc<Gguf>, placement: Placement) -> Self {
        Loader {
            gguf,
            placement,
            repack_types: match placement.repack_budget {
                0 => Vec::new(),
                _ => placement.device.extra_buffer_types(),
            },
            builder: StoreBuilder::new(2 * gguf.tensors().len()), // a copy each at most
            items: Vec::new(),
            n_bytes_repacked: 0,
            n_bytes_read: 0,
        }
    }

    pub(super) fn linear(&mut self, name: &str) -> Linear {
        let info = self.info(&format!("{name}.weight"));
        let copy_to = self.repacked(info);
        let beside = copy_to.is_some_and(|kind| Copied::of(info.ty, kind) == Copied::Beside);
        let packed = beside.then(|| self.add(info, copy_to, false));
        Linear {
            weight: self.add(info, if beside { None } else { copy_to }, true),
            packed,
            scale: self.optional(&format!("{name}.scale")),
            bias: self.optional(&format!("{name}.bias")),
        }
    }

    /// The embedding as output matrix. Rows are looked up in the file's order, so a copy is one beside it.
    pub(super) fn tied_output(&mut self, token_embd: TensorId) -> Linear {
        let info = self.info("token_embd.weight");
        let tied = Linear { weight: token_embd, packed: None, scale: None, bias: None };
        let Some(kind) = self.repacked(info) else { return tied };
        let copy = self.add(info, Some(kind), false);
        match Copied::of(info.ty, kind) {
            Copied::Instead => Linear { weight: copy, ..tied },
            Copied::Beside => Linear { packed: Some(copy), ..tied },
        }
    }

    /// A matrix whose rows are looked up; `read_whole` if it is multiplied with as well.
    pub(super) fn table(&mut self, name: &str, read_whole: bool) -> TensorId {
        let info = self.info(name);
        self.add(info, None, read_whole)
    }

    pub(super) fn vector(&mut self, name: &str) -> TensorId {
        let info = self.info(name);
        self.add(info, None, true)
    }

    pub(super) fn optional(&mut self, name: &str) -> Option<TensorId> {
        let info = self.gguf.tensor(name)?;
        Some(self.add(info, None, true))
    }

    fn info(&self, name: &str) -> &'a TensorInfo {
        self.gguf.tensor(name).expect("the spec's tensors were checked to be there")
    }

    /// A tensor seen as a matrix `[n_in, n_out]`, where the file gives its input more dimensions.
    pub(super) fn matrix(&mut self, name: &str, ne: [i64; 2]) -> TensorId {
        let info = self.info(name);
        assert_eq!(info.n_elements() as i64, ne[0] * ne[1], "{name} as {ne:?}");
        self.add_as(info, &ne, None, true)
    }

    fn add(
        &mut self,
        info: &'a TensorInfo,
        copy_to: Option<BufferType>,
        read_whole: bool,
    ) -> TensorId {
        let ne: Vec<i64> = info.dims.iter().map(|&d| d as i64).collect();
        self.add_as(info, &ne, copy_to, read_whole)
    }

    fn add_as(
        &mut self,
        info: &'a TensorInfo,
        ne: &[i64],
        copy_to: Option<BufferType>,
        read_whole: bool,
    ) -> TensorId {
        let id = self.builder.declare(&info.name, dtype(info), ne);
        let copy_to = copy_to.or_else(|| {
            // A file may align its data less than vector loads need.
            let bytes = self.gguf.parts()[info.part].bytes();
            let address = bytes.as_ptr() as u64 + info.offset;
            let mappable =
                address.is_multiple_of(ALIGNMENT) && self.placement.device.maps_host_memory();
            (!mappable).then(|| self.placement.device.buffer_type())
        });
        if read_whole {
            self.n_bytes_read += info.n_bytes;
        }
        self.items.push(Item { id, info, copy_to, read_whole });
        id
    }

    /// The memory kind in which the CPU multiplies faster with this matrix, if it may be copied there.
    fn repacked(&mut self, info: &TensorInfo) -> Option<BufferType> {
        let ne = [info.dims[0] as i64, info.dims[1] as i64];
        let supports =
            |kind: &&BufferType| self.placement.device.supports_mul_mat(**kind, dtype(info), ne);
        let kind = self.repack_types.iter().find(supports).copied()?;
        let mapped = match Copied::of(info.ty, kind) {
            Copied::Instead => 0,
            Copied::Beside => self.gguf.n_bytes(),
        };
        if mapped + self.n_bytes_repacked + info.n_bytes > self.placement.repack_budget {
            return None;
        }
        self.n_bytes_repacked += info.n_bytes;
        Some(kind)
    }

    pub(super) fn place(mut self, progress: Progress<'_>) -> Result<Arc<TensorStore>, GgmlError> {
        let device = self.placement.device;
        for part in 0..self.gguf.parts().len() {
            let mapped: Vec<(TensorId, usize)> = self
                .items
                .iter()
                .filter(|item| item.info.part == part && item.copy_to.is_none())
                .map(|item| (item.id, item.info.offset as usize))
                .collect();
            if !mapped.is_empty() {
                let memory: HostMemory = Arc::new(PartMemory { gguf: self.gguf.clone(), part });
                self.builder.map(device, &memory, &mapped)?;
            }
        }
        let kinds: Vec<BufferType> = self.items.iter().filter_map(|item| item.copy_to).collect();
        for kind in unique(kinds) {
            let ids: Vec<TensorId> = self
                .items
                .iter()
                .filter(|item| item.copy_to == Some(kind))
                .map(|item| item.id)
                .collect();
            self.builder.allocate(kind, device, "weights", &ids)?;
        }
        self.read_in(progress);
        Ok(self.builder.finish())
    }

    /// Copies what is copied and touches what is mapped, on several threads.
    fn read_in(&self, progress: Progress<'_>) {
        let jobs: Vec<Job<'_>> = self.items.iter().flat_map(|item| self.jobs(item)).collect();
        let n_total: u64 = jobs.iter().map(|job| job.bytes.len() as u64).sum();
        let next = AtomicUsize::new(0);
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.placement.n_threads.max(1) {
                let (done, next, jobs) = (done.clone(), &next, &jobs);
                scope.spawn(move || {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.run(job);
                        let _ = done.send(job.bytes.len() as u64);
                    }
                });
            }
            drop(done);
            let mut n_done = 0;
            progress(0, n_total);
            for n in finished {
                n_done += n;
                progress(n_done, n_total);
            }
        });
    }

    fn jobs(&self, item: &Item<'a>) -> Vec<Job<'a>> {
        let bytes = self.gguf.data(item.info);
        if item.copy_to.is_some() {
            // A copy that is not read whole has its original beside it.
            let replaces = item.read_whole;
            return vec![Job { fill: Some(item.id), bytes, info: item.info, replaces }];
        }
        if !(item.read_whole && self.placement.touch) {
            return Vec::new();
        }
        let job = |bytes| Job { fill: None, bytes, info: item.info, replaces: false };
        bytes.chunks(TOUCH_BYTES).map(job).collect()
    }

    fn run(&self, job: &Job<'_>) {
        match job.fill {
            Some(id) => {
                self.builder.fill(id, job.bytes);
                if job.replaces {
                    let start = job.info.offset as usize;
                    self.gguf.parts()[job.info.part].release(&(start..start + job.bytes.len()));
                }
            }
            None => {
                let page = job.bytes.iter().step_by(4096).fold(0u8, |sum, &byte| sum ^ byte);
                std::hint::black_box(page);
            }
        }
    }
}

struct Job<'a> {
    /// The tensor to fill; `None` only touches the bytes.
    fill: Option<TensorId>,
    bytes: &'a [u8],
    info: &'a TensorInfo,
    /// Whether the file's own pages may go when the copy is made.
    replaces: bool,
}

fn dtype(info: &TensorInfo) -> DType {
    DType::from_id(info.ty.ggml_id()).expect("the spec admits only types that ggml has")
}

fn unique(kinds: Vec<BufferType>) -> Vec<BufferType> {
    kinds.into_iter().fold(Vec::new(), |mut seen, kind| {
        if !seen.contains(&kind) {
            seen.push(kind);
        }
        seen
    })
}
