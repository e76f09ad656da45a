//! Tensors with memory of their own that outlive any one graph: weights and KV cache.
//!
//! A store is filled once, by its builder, and then only read, or written by graphs that its single
//! owner runs. Graphs hold it by `Arc`, so its memory outlives every use.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use ggml_sys as sys;

use super::graph::Arena;
use super::joint::{Joint, check_memory};
use super::{BufferType, DType, Device, GgmlError, Tensor};

/// Memory that tensors may use in place, such as a mapped file.
///
/// `as_ref` is asked once; it must keep returning the same bytes while the store lives.
pub type HostMemory = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where tensors without memory seem to lie: aligned for everybody, and nobody's.
const PRETENDED_ADDRESS: usize = 1 << 20;

/// Names one tensor of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorId(usize);

/// Memory of a device, given back at the end.
pub(super) struct Buffer(NonNull<sys::ggml_backend_buffer>);

impl Buffer {
    /// `None` where there is not so much.
    pub(super) fn allocate(kind: BufferType, n_bytes: usize) -> Option<Self> {
        // SAFETY: a plain allocation, NULL if refused.
        NonNull::new(unsafe { sys::ggml_backend_buft_alloc_buffer(kind.0, n_bytes) }).map(Buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the buffer is ours, and the store's tensors go with it.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) };
        super::sched::memory_changed();
    }
}

/// Tensors and the memory they lie in.
pub struct TensorStore {
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    n_bytes: usize,
    // Freed in this order: buffers before the memory they wrap and the headers that point to them.
    _buffers: Vec<Buffer>,
    _memory: Vec<HostMemory>,
    _arena: Arena,
}

// SAFETY: headers and buffers are fixed once built. Weights are never written again; the KV cache is
// written only by graphs, which its one owner computes one at a time (see `model::KvCache`).
unsafe impl Send for TensorStore {}
// SAFETY: as above.
unsafe impl Sync for TensorStore {}

impl std::fmt::Debug for TensorStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TensorStore({} tensors)", self.tensors.len())
    }
}

impl TensorStore {
    pub(super) fn tensor(&self, id: TensorId) -> *mut sys::ggml_tensor {
        self.tensors[id.0].as_ptr()
    }

    /// Bytes in buffers that the store allocated itself, mapped memory not counted.
    pub fn n_bytes_allocated(&self) -> usize {
        self.n_bytes
    }

    /// Zeroes rows of a two-dimensional tensor that no graph is using.
    pub fn zero_rows(&self, id: TensorId, rows: std::ops::Range<usize>) {
        let tensor = self.tensor(id);
        // SAFETY: the range is checked against the tensor; the owner runs no graph meanwhile.
        unsafe {
            assert!(rows.end <= (*tensor).ne[1] as usize, "rows {rows:?} past the tensor's end");
            let row = (*tensor).nb[1];
            sys::ggml_backend_tensor_memset(tensor, 0, rows.start * row, rows.len() * row);
        }
    }

    /// Copies bytes of a tensor out of the store, from `offset` on.
    pub fn read(&self, id: TensorId, offset: usize, out: &mut [u8]) {
        let tensor = self.tensor(id);
        // SAFETY: the range is checked against the tensor's size; the tensor has memory.
        unsafe {
            assert!(offset + out.len() <= sys::ggml_nbytes(tensor), "read past the tensor's end");
            sys::ggml_backend_tensor_get(tensor, out.as_mut_ptr().cast(), offset, out.len());
        }
    }
}

/// Declares tensors, gives them memory, fills them.
pub struct StoreBuilder {
    store: TensorStore,
    /// ggml's tables about tensors that are cut are not for several threads.
    cutting: Mutex<()>,
}

impl StoreBuilder {
    /// Room for `n_tensors` declarations.
    pub fn new(n_tensors: usize) -> Self {
        let arena = Arena::for_tensors(n_tensors);
        StoreBuilder {
            store: TensorStore {
                tensors: Vec::with_capacity(n_tensors),
                n_bytes: 0,
                _buffers: Vec::new(),
                _memory: Vec::new(),
                _arena: arena,
            },
            cutting: Mutex::new(()),
        }
    }

    /// Declares a tensor of shape `ne`, without memory yet.
    pub fn declare(&mut self, name: &str, dtype: DType, ne: &[i64]) -> TensorId {
        let tensor = self.store._arena.tensor(dtype, ne).named(name);
        self.store.tensors.push(tensor.ptr);
        TensorId(self.store.tensors.len() - 1)
    }

    /// Bytes of the declared tensor.
    pub fn n_bytes(&self, id: TensorId) -> usize {
        // SAFETY: the header is in our arena.
        unsafe { sys::ggml_nbytes(self.store.tensor(id)) }
    }

    /// Bytes allocated so far.
    pub fn n_bytes_allocated(&self) -> usize {
        self.store.n_bytes
    }

    /// Puts tensors where they already lie: `(tensor, offset into memory)`.
    ///
    /// Offsets must be aligned for the device; extents are checked.
    pub fn map(
        &mut self,
        device: Device,
        memory: &HostMemory,
        tensors: &[(TensorId, usize)],
    ) -> Result<(), GgmlError> {
        let bytes = (**memory).as_ref();
        // A device is only shown what is its own: it may want to keep all of that near.
        let starts = tensors.iter().map(|&(_, offset)| offset);
        let first = if device.is_cpu() { 0 } else { starts.min().unwrap_or(0) };
        let ends = tensors.iter().map(|&(id, offset)| offset.saturating_add(self.n_bytes(id)));
        let last = if device.is_cpu() { bytes.len() } else { ends.max().unwrap_or(0) };
        assert!(first <= last && last <= bytes.len(), "tensors end at {last} of {}", bytes.len());
        let n_bytes_max = tensors.iter().map(|&(id, _)| self.n_bytes(id)).max().unwrap_or(0);
        let buffer = device.wrap_host(&bytes[first..last], n_bytes_max).map(Buffer).ok_or(
            GgmlError::Alloc {
                what: "mapped weights",
                n_bytes: bytes.len(),
                device: device.name().to_owned(),
            },
        )?;
        for &(id, offset) in tensors {
            let end = offset.checked_add(self.n_bytes(id)).expect("extents were validated");
            assert!(end <= bytes.len(), "tensor ends at {end}, its memory at {}", bytes.len());
            // SAFETY: [offset, end) lies in the buffer; the tensor has no memory yet.
            unsafe {
                place(buffer.0, self.store.tensor(id), bytes.as_ptr().add(offset).cast_mut())
            };
        }
        self.mark_weights(&buffer);
        self.store._buffers.push(buffer);
        self.store._memory.push(memory.clone());
        Ok(())
    }

    /// Gives tensors new memory of one kind, in as few buffers as the kind allows; `what` names it in an error.
    pub fn allocate(
        &mut self,
        kind: BufferType,
        device: Device,
        what: &'static str,
        tensors: &[TensorId],
    ) -> Result<(), GgmlError> {
        if let Some(joint) = Joint::of_memory(kind) {
            return self.allocate_joint(joint, kind, what, tensors);
        }
        let mut rest = tensors;
        while !rest.is_empty() {
            let (n, offsets, n_bytes) = self.laid_out(kind, rest);
            let refused = || GgmlError::Alloc { what, n_bytes, device: device.name().to_owned() };
            let buffer = Buffer::allocate(kind, n_bytes).ok_or_else(refused)?;
            // SAFETY: the buffer is valid.
            let base = unsafe { sys::ggml_backend_buffer_get_base(buffer.0.as_ptr()) }.cast::<u8>();
            for (&id, offset) in rest[..n].iter().zip(offsets) {
                // SAFETY: offsets were laid out inside the buffer's n_bytes. A device's addresses are only
                // numbers here, so their sum is one too.
                unsafe { place(buffer.0, self.store.tensor(id), base.wrapping_add(offset)) };
            }
            self.mark_weights(&buffer);
            self.store.n_bytes += n_bytes;
            self.store._buffers.push(buffer);
            rest = &rest[n..];
        }
        Ok(())
    }

    /// The same where every device takes a part of each tensor.
    fn allocate_joint(
        &mut self,
        joint: &Joint,
        kind: BufferType,
        what: &'static str,
        tensors: &[TensorId],
    ) -> Result<(), GgmlError> {
        let mut pointers: Vec<_> = tensors.iter().map(|&id| self.store.tensor(id)).collect();
        // SAFETY: the headers are in our arena.
        let sizes = unsafe { joint.n_bytes(&pointers) };
        let wanted: Vec<_> = joint.members().iter().copied().zip(sizes.iter().copied()).collect();
        check_memory(what, &wanted)?;
        // SAFETY: the tensors have no memory yet.
        let buffer = unsafe {
            let n = pointers.len() as i32;
            sys::ggml_backend_buft_alloc_buffer_n(kind.0, pointers.as_mut_ptr(), n)
        };
        let buffer = Buffer(NonNull::new(buffer).expect("there was room"));
        self.mark_weights(&buffer);
        self.store.n_bytes += sizes.iter().sum::<usize>();
        self.store._buffers.push(buffer);
        Ok(())
    }

    /// How many of the tensors fit one buffer, at least one; where each lies in it; and its size.
    fn laid_out(&self, kind: BufferType, tensors: &[TensorId]) -> (usize, Vec<usize>, usize) {
        let (align, max) = (kind.alignment(), kind.max_bytes());
        let (mut offsets, mut end) = (Vec::with_capacity(tensors.len()), 0usize);
        for &id in tensors {
            // SAFETY: the header is in our arena; the kind may want more than nbytes.
            let size =
                unsafe { sys::ggml_backend_buft_get_alloc_size(kind.0, self.store.tensor(id)) };
            let next = end.saturating_add(size.next_multiple_of(align));
            if next > max && !offsets.is_empty() {
                break;
            }
            offsets.push(end);
            end = next;
        }
        (offsets.len(), offsets, end)
    }

    /// Lets tensors count as placed in memory of one kind, without any: for graphs that are planned and never
    /// run. Gives the bytes that [`allocate`](Self::allocate) would take.
    pub fn pretend(&mut self, kind: BufferType, tensors: &[TensorId]) -> usize {
        let n_bytes = match Joint::of_memory(kind) {
            Some(joint) => {
                let pointers: Vec<_> = tensors.iter().map(|&id| self.store.tensor(id)).collect();
                // SAFETY: the headers are in our arena.
                unsafe { joint.n_bytes(&pointers) }.iter().sum()
            }
            None => self.laid_out_bytes(kind, tensors),
        };
        // A buffer of no bytes is a header that only tells its kind.
        let buffer = Buffer::allocate(kind, 0).expect("a header can be allocated");
        for &id in tensors {
            // SAFETY: the header is ours. Planning asks whether there is an address, and never follows it.
            unsafe {
                let tensor = self.store.tensor(id);
                (*tensor).buffer = buffer.0.as_ptr();
                (*tensor).data = std::ptr::without_provenance_mut(PRETENDED_ADDRESS);
            }
        }
        self.mark_weights(&buffer);
        self.store._buffers.push(buffer);
        n_bytes
    }

    fn laid_out_bytes(&self, kind: BufferType, tensors: &[TensorId]) -> usize {
        let (mut n_bytes, mut rest) = (0, tensors);
        while !rest.is_empty() {
            let (n, _, size) = self.laid_out(kind, rest);
            n_bytes += size;
            rest = &rest[n..];
        }
        n_bytes
    }

    fn mark_weights(&self, buffer: &Buffer) {
        // SAFETY: the buffer is valid; usage is a hint to the scheduler.
        unsafe {
            sys::ggml_backend_buffer_set_usage(
                buffer.0.as_ptr(),
                sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS,
            );
        }
    }

    /// Fills a part of a tensor that has memory of its own; memory of a kind that rearranges wants it whole.
    /// Different parts may be filled from different threads at once. A tensor that is cut takes the whole as well.
    pub fn fill(&self, id: TensorId, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.n_bytes(id)), "filled past the tensor's end");
        #[cfg(feature = "rpc")]
        let _loading = super::rpc::Loading::begin();
        // SAFETY: the range is checked; `allocate` gave the tensor memory that nobody else writes.
        unsafe {
            let tensor = self.store.tensor(id);
            assert!(!(*tensor).data.is_null(), "a tensor is filled after it has memory");
            let kind = BufferType(sys::ggml_backend_buffer_get_type((*tensor).buffer));
            let _cutting = Joint::of_memory(kind)
                .map(|_| self.cutting.lock().expect("nobody panics while filling"));
            sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), offset, bytes.len());
        }
    }

    /// Zeroes every buffer that the store allocated.
    pub fn zero(&self) {
        for buffer in &self.store._buffers {
            // SAFETY: the buffer is ours.
            unsafe { sys::ggml_backend_buffer_clear(buffer.0.as_ptr(), 0) };
        }
    }

    /// The finished store.
    pub fn finish(self) -> Arc<TensorStore> {
        Arc::new(self.store)
    }
}

/// `fill` from several threads: headers are read only, and each thread writes its own tensor.
// SAFETY: see above; the builder's mutating methods need &mut.
unsafe impl Sync for StoreBuilder {}

/// # Safety
/// `address` and the tensor's bytes after it must lie in `buffer`, and the tensor must be new.
unsafe fn place(
    buffer: NonNull<sys::ggml_backend_buffer>,
    tensor: *mut sys::ggml_tensor,
    address: *mut u8,
) {
    // SAFETY: the caller's promise.
    let status = unsafe { sys::ggml_backend_tensor_alloc(buffer.as_ptr(), tensor, address.cast()) };
    assert_eq!(status, sys::GGML_STATUS_SUCCESS, "placing a checked tensor can't fail");
}

impl<'g> Tensor<'g> {
    pub(super) fn of_store(store: &'g TensorStore, id: TensorId) -> Tensor<'g> {
        Tensor::new(store.tensor(id))
    }
}
