//! Placing the tensors of a file in memory.
//!
//! What belongs to the processor stays where the file is mapped; where the CPU backend runs faster on a
//! rearranged copy, and the copies fit the memory that the caller allows, it gets one, instead of the mapped
//! tensor or beside it. What belongs to a device with memory of its own is copied there, by several threads
//! and through pinned memory where the device has some. Names, shapes and types were checked against the spec before (`spec.rs`), so nothing here can fail
//! but memory. `weights.rs` and `vision_weights.rs` say which tensor is what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ggml::{
    BufferType, DType, Device, GgmlError, HostMemory, PinnedMemory, StoreBuilder, TensorId,
    TensorStore,
};
use crate::gguf::{Gguf, TensorInfo, TensorType};

use super::linear::Linear;
use super::placement::Placement;

/// What the CPU's vector loads want, and what GGUF files have by default.
const ALIGNMENT: u64 = 32;

/// Mapped pages are brought in by pieces of this size, so that progress can be shown.
const TOUCH_BYTES: usize = 64 << 20;

/// Other devices are filled by pieces of this size: large enough for a bus or a network, and small enough that
/// several threads read the file while others send. What is known on another machine is known by the piece.
const UPLOAD_BYTES: usize = 8 << 20;

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
    device: usize,
    /// `None` leaves the tensor where it is mapped.
    copy_to: Option<BufferType>,
    /// Whether a forward pass reads all of it.
    read_whole: bool,
}

/// Weights in their places.
pub(super) struct Placed {
    pub(super) store: Arc<TensorStore>,
    /// Bytes on each device, mapped ones counted.
    pub(super) n_bytes: Vec<u64>,
    /// Devices and types of matrices that they cannot multiply with.
    pub(super) without_kernel: Vec<(Device, DType)>,
    /// Devices and tensors that they cannot hold, which stay with the processor.
    pub(super) too_large: Vec<(Device, String)>,
    /// Bytes of tensors that have a rearranged copy.
    pub(super) n_bytes_repacked: u64,
    /// Bytes that a pass over one token reads.
    pub(super) n_bytes_read: u64,
}

/// Whether tensors get memory.
pub(super) enum Fill<'p> {
    /// They are loaded, and the caller told how far that is.
    Load(Progress<'p>),
    /// They are only planned with: nothing is taken and nothing read.
    Pretend,
}

/// Declares the tensors that are asked for, then places them all.
pub(super) struct Loader<'a> {
    gguf: &'a Arc<Gguf>,
    placement: &'a Placement,
    /// Device of what is declared next.
    home: usize,
    repack_types: Vec<BufferType>,
    builder: StoreBuilder,
    items: Vec<Item<'a>>,
    /// Devices and tensors that they cannot hold, which stay with the processor.
    too_large: Vec<(Device, String)>,
    /// What was asked about kernels, and the answer.
    kernels: Vec<((Device, DType), bool)>,
    n_bytes_repacked: u64,
    n_bytes_read: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(gguf: &'a Arc<Gguf>, placement: &'a Placement) -> Self {
        Loader {
            gguf,
            placement,
            home: placement.cpu(),
            repack_types: match placement.repack_budget {
                0 => Vec::new(),
                _ => placement.devices[placement.cpu()].extra_buffer_types(),
            },
            builder: StoreBuilder::new(2 * gguf.tensors().len()), // a copy each at most
            items: Vec::new(),
            too_large: Vec::new(),
            kernels: Vec::new(),
            n_bytes_repacked: 0,
            n_bytes_read: 0,
        }
    }

    /// What is declared from here on goes to this device.
    pub(super) fn at(&mut self, device: usize) -> &mut Self {
        self.home = device;
        self
    }

    pub(super) fn linear(&mut self, name: &str) -> Linear {
        let info = self.info(&format!("{name}.weight"));
        self.look_for_kernel(info);
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

    /// Asks the matrix's device, once a type, whether it can multiply with it.
    fn look_for_kernel(&mut self, info: &TensorInfo) {
        let device = self.placement.devices[self.placement.device_of(&info.name, self.home)];
        let key = (device, dtype(info));
        if device.is_cpu() || self.kernels.iter().any(|(known, _)| *known == key) {
            return;
        }
        let ne = [info.dims[0] as i64, info.dims[1] as i64];
        let supported = device.supports_mul_mat(device.buffer_type(), dtype(info), ne);
        self.kernels.push((key, supported));
    }

    /// The embedding as output matrix. Rows are looked up in the file's order, so a copy is one beside it.
    pub(super) fn tied_output(&mut self, token_embd: TensorId) -> Linear {
        let info = self.info("token_embd.weight");
        let tied = Linear { weight: token_embd, packed: None, scale: None, bias: None };
        if self.placement.overrides.iter().any(|over| over.pattern.is_match(&info.name)) {
            return tied;
        }
        if self.home != self.placement.cpu() {
            return Linear { weight: self.add(info, None, true), ..tied };
        }
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
        let mut index = self.placement.device_of(&info.name, self.home);
        let mut device = self.placement.devices[index];
        if !device.is_cpu() && !device.can_hold(dtype(info), ne) {
            self.too_large.push((device, info.name.clone()));
            index = self.placement.cpu();
            device = self.placement.devices[index];
        }
        let copy_to = copy_to.or_else(|| {
            // A file may align its data less than vector loads need.
            let bytes = self.gguf.parts()[info.part].bytes();
            let address = bytes.as_ptr() as u64 + info.offset;
            let stays = self.placement.mmap && device.maps_host_memory();
            (!stays || !address.is_multiple_of(ALIGNMENT)).then(|| device.buffer_type())
        });
        if read_whole {
            self.n_bytes_read += info.n_bytes;
        }
        self.items.push(Item { id, info, device: index, copy_to, read_whole });
        id
    }

    /// The memory kind in which the CPU multiplies faster with this matrix, if it may be copied there.
    fn repacked(&mut self, info: &TensorInfo) -> Option<BufferType> {
        let cpu = self.placement.cpu();
        if self.placement.device_of(&info.name, self.home) != cpu {
            return None;
        }
        let cpu = self.placement.devices[cpu];
        let ne = [info.dims[0] as i64, info.dims[1] as i64];
        let supports = |kind: &&BufferType| cpu.supports_mul_mat(**kind, dtype(info), ne);
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

    pub(super) fn place(mut self, fill: Fill<'_>) -> Result<Placed, GgmlError> {
        let n_bytes = match fill {
            Fill::Load(progress) => {
                let n_bytes = self.take_memory()?;
                self.read_in(progress);
                n_bytes
            }
            Fill::Pretend => self.pretend(),
        };
        let Loader { builder, too_large, kernels, n_bytes_repacked, n_bytes_read, .. } = self;
        let missing = kernels.into_iter().filter(|(_, supported)| !supported);
        let without_kernel = missing.map(|(key, _)| key).collect();
        let store = builder.finish();
        Ok(Placed { store, n_bytes, without_kernel, too_large, n_bytes_repacked, n_bytes_read })
    }

    /// Maps or allocates memory for every tensor.
    fn take_memory(&mut self) -> Result<Vec<u64>, GgmlError> {
        let mut n_bytes = self.mapped_bytes();
        for (index, n_bytes) in n_bytes.iter_mut().enumerate() {
            let device = self.placement.devices[index];
            for part in 0..self.gguf.parts().len() {
                let stays = |item: &&Item<'_>| {
                    item.device == index && item.info.part == part && item.copy_to.is_none()
                };
                let mapped: Vec<(TensorId, usize)> = self
                    .items
                    .iter()
                    .filter(stays)
                    .map(|item| (item.id, item.info.offset as usize))
                    .collect();
                if !mapped.is_empty() {
                    let memory: HostMemory = Arc::new(PartMemory { gguf: self.gguf.clone(), part });
                    self.builder.map(device, &memory, &mapped)?;
                }
            }
            for (kind, ids) in self.copies(index) {
                let n_before = self.builder.n_bytes_allocated();
                self.builder.allocate(kind, device, "weights", &ids)?;
                *n_bytes += (self.builder.n_bytes_allocated() - n_before) as u64;
            }
        }
        Ok(n_bytes)
    }

    /// Lets every tensor count as placed.
    fn pretend(&mut self) -> Vec<u64> {
        let mut n_bytes = self.mapped_bytes();
        for (index, device) in self.placement.devices.iter().enumerate() {
            let stays = |item: &&Item<'_>| item.device == index && item.copy_to.is_none();
            let mapped: Vec<TensorId> =
                self.items.iter().filter(stays).map(|item| item.id).collect();
            self.builder.pretend(device.buffer_type(), &mapped);
            for (kind, ids) in self.copies(index) {
                n_bytes[index] += self.builder.pretend(kind, &ids) as u64;
            }
        }
        n_bytes
    }

    /// Bytes that each device uses where they are mapped.
    fn mapped_bytes(&self) -> Vec<u64> {
        let mut n_bytes = vec![0; self.placement.devices.len()];
        for item in self.items.iter().filter(|item| item.copy_to.is_none()) {
            n_bytes[item.device] += item.info.n_bytes;
        }
        n_bytes
    }

    /// What a device gets copies of, by the kind of memory.
    fn copies(&self, device: usize) -> Vec<(BufferType, Vec<TensorId>)> {
        let mut kinds: Vec<(BufferType, Vec<TensorId>)> = Vec::new();
        for item in self.items.iter().filter(|item| item.device == device) {
            let Some(kind) = item.copy_to else { continue };
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, ids)) => ids.push(item.id),
                None => kinds.push((kind, vec![item.id])),
            }
        }
        kinds
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
                    let mut pinned = None;
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.run(job, &mut pinned);
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
        let (bytes, info) = (self.gguf.data(item.info), item.info);
        let Some(_) = item.copy_to else {
            if !(item.read_whole && self.placement.touch) {
                return Vec::new();
            }
            let job = |(i, bytes)| Job {
                fill: None,
                bytes,
                info,
                offset: i * TOUCH_BYTES,
                replaces: false,
            };
            return bytes.chunks(TOUCH_BYTES).enumerate().map(job).collect();
        };
        let device = self.placement.devices[item.device];
        // The processor's own kinds of memory may rearrange, which takes the whole tensor, as cutting it does.
        let is_whole = device.is_cpu() || device.is_joint();
        let n_piece = if is_whole { bytes.len() } else { UPLOAD_BYTES };
        // A copy that is not read whole has its original beside it.
        let job = |(i, bytes)| Job {
            fill: Some((item.id, device)),
            bytes,
            info,
            offset: i * n_piece,
            replaces: item.read_whole,
        };
        bytes.chunks(n_piece).enumerate().map(job).collect()
    }

    fn run(&self, job: &Job<'_>, pinned: &mut Option<(Device, PinnedMemory)>) {
        match job.fill {
            Some((id, device)) => {
                if pinned.as_ref().is_none_or(|(owner, _)| *owner != device) {
                    let memory = PinnedMemory::new(device, UPLOAD_BYTES);
                    *pinned = memory.map(|memory| (device, memory));
                }
                match pinned.as_mut().filter(|_| job.bytes.len() <= UPLOAD_BYTES) {
                    Some((_, memory)) => {
                        let piece = &mut memory.bytes_mut()[..job.bytes.len()];
                        piece.copy_from_slice(job.bytes);
                        self.builder.fill(id, job.offset, piece);
                    }
                    None => self.builder.fill(id, job.offset, job.bytes),
                }
                if job.replaces {
                    let start = job.info.offset as usize + job.offset;
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
    /// The tensor to fill and its device; `None` only touches the bytes.
    fill: Option<(TensorId, Device)>,
    bytes: &'a [u8],
    info: &'a TensorInfo,
    /// Of the bytes in the tensor.
    offset: usize,
    /// Whether the file's own pages may go when the copy is made.
    replaces: bool,
}

fn dtype(info: &TensorInfo) -> DType {
    DType::from_id(info.ty.ggml_id()).expect("the spec admits only types that ggml has")
}
