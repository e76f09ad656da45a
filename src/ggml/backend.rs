//! Devices, the backends that run graphs on them, and the kinds of memory they offer.
//!
//! Whatever only the CPU can do is looked up by name in its registry entry, so that the same code
//! serves a backend that is linked in, one of several variants, or one loaded at run time.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use ggml_sys as sys;

use super::joint::Joint;
use super::log::keep_errors;
use super::{DType, GgmlError, text};

/// A device that ggml found: a processor or an accelerator. Devices live as long as the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(pub(super) NonNull<sys::ggml_backend_device>);

// SAFETY: ggml's device entries are immutable after registration, which `devices` completes first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Every device of this machine that a backend, built in or loaded, can use.
pub fn devices() -> Vec<Device> {
    register();
    // SAFETY: the registry is complete; the index is below its count.
    let here = (0..unsafe { sys::ggml_backend_dev_count() })
        .filter_map(|i| NonNull::new(unsafe { sys::ggml_backend_dev_get(i) }).map(Device));
    #[cfg(feature = "rpc")]
    let here = here.chain(super::rpc::published());
    here.collect()
}

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function that never unwinds: it only takes a lock.
        unsafe { sys::ggml_log_set(Some(keep_errors), std::ptr::null_mut()) };
        #[cfg(feature = "cpu-variants")]
        register_best_cpu();
        super::module::load();
    });
}

#[cfg(feature = "cpu-variants")]
fn register_best_cpu() {
    // SAFETY: score functions only ask the processor; init is called for a variant that it can run.
    let score = |variant: &&sys::CpuVariant| unsafe { (variant.2)() };
    if let Some(best) = sys::CPU_VARIANTS.iter().max_by_key(score).filter(|v| score(v) > 0) {
        unsafe { sys::ggml_backend_register((best.1)()) };
    }
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics card with memory of its own; also one on another machine, or several that are joined.
    Gpu,
    /// A graphics processor that shares the machine's memory.
    IntegratedGpu,
    /// A library that computes for the processor, such as BLAS; nothing lies in it.
    Helper,
}

/// Attention without a matrix of scores.
#[derive(Debug, Clone, Copy)]
pub struct FlashAttn {
    /// Elements of a head of keys, and of one of values.
    pub head: [i64; 2],
    /// Heads of queries, and those of keys and values.
    pub n_head: [i64; 2],
    /// Types of keys and values.
    pub types: [DType; 2],
    /// Whether a mask says which tokens see which.
    pub is_masked: bool,
}

impl Device {
    /// The processor.
    pub fn cpu() -> Result<Device, GgmlError> {
        devices().into_iter().find(|d| d.is_cpu()).ok_or(GgmlError::NoCpu)
    }

    fn ptr(self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }

    /// What it is.
    pub fn kind(self) -> DeviceKind {
        // SAFETY: a device pointer is valid for the program's life.
        match unsafe { sys::ggml_backend_dev_type(self.ptr()) } {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU | sys::GGML_BACKEND_DEVICE_TYPE_META => {
                DeviceKind::Gpu
            }
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
            _ => DeviceKind::Helper,
        }
    }

    /// Whether this is the processor.
    pub fn is_cpu(self) -> bool {
        self.kind() == DeviceKind::Cpu
    }

    /// Bytes of its memory that are free now, and all of them, as the driver tells.
    pub fn memory(self) -> [u64; 2] {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both numbers are written by ggml.
        unsafe { sys::ggml_backend_dev_memory(self.ptr(), &mut free, &mut total) };
        [free as u64, total as u64]
    }

    /// The devices that are joined in it, with the largest share of a model that each may have; none for a device of its own.
    pub fn members(self) -> Vec<(Device, f64)> {
        let joint = Joint::of(self);
        let pairs =
            joint.map(|joint| joint.members().iter().copied().zip(joint.shares().iter().copied()));
        pairs.into_iter().flatten().collect()
    }

    /// Whether it is several devices that were joined.
    pub fn is_joint(self) -> bool {
        Joint::of(self).is_some()
    }

    /// Short name, such as `CPU`.
    pub fn name(self) -> &'static str {
        if let Some(joint) = Joint::of(self) {
            return joint.name();
        }
        // SAFETY: names live as long as the device.
        unsafe { text(sys::ggml_backend_dev_name(self.ptr())) }
    }

    /// What the device calls itself, such as the processor's model name.
    pub fn description(self) -> String {
        #[cfg(feature = "rpc")]
        if let Some(text) = super::rpc::description(self) {
            return text;
        }
        // SAFETY: as for `name`; the text may be anything the hardware says.
        let description = unsafe { CStr::from_ptr(sys::ggml_backend_dev_description(self.ptr())) };
        description.to_string_lossy().trim().to_owned()
    }

    /// Name of the backend that drives it, such as `CPU`.
    pub fn backend_name(self) -> &'static str {
        if let Some(joint) = Joint::of(self) {
            return joint.members()[0].backend_name();
        }
        // SAFETY: registry entries live as long as the program.
        unsafe { text(sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(self.ptr()))) }
    }

    /// Whether it is another process, on this machine or another, or one that is joined in it is.
    pub fn is_remote(self) -> bool {
        let is_remote = |device: Device| device.backend_name() == "RPC";
        match Joint::of(self) {
            Some(joint) => joint.members().iter().any(|member| is_remote(*member)),
            None => is_remote(self),
        }
    }

    /// The memory kind in which tensors lie as they are in a file.
    pub fn buffer_type(self) -> BufferType {
        if let Some((memory, _)) = Joint::with_memory(self) {
            return memory;
        }
        // SAFETY: every device has a default buffer type.
        BufferType(unsafe { sys::ggml_backend_dev_buffer_type(self.ptr()) })
    }

    /// The processor's memory that this device reads and writes fastest, where it has one.
    pub(super) fn host_buffer_type(self) -> Option<BufferType> {
        // SAFETY: NULL means that there is none.
        let kind = unsafe { sys::ggml_backend_dev_host_buffer_type(self.ptr()) };
        (!kind.is_null()).then_some(BufferType(kind))
    }

    /// Further memory kinds whose tensors are rearranged for speed, best first.
    pub fn extra_buffer_types(self) -> Vec<BufferType> {
        let Some(address) = self.proc_address(c"ggml_backend_dev_get_extra_bufts") else {
            return Vec::new();
        };
        // SAFETY: ggml-backend.h fixes this type for this name; the list ends with NULL.
        unsafe {
            let get: sys::ggml_backend_dev_get_extra_bufts_t = std::mem::transmute(address);
            let mut list = get.expect("the address is not null")(self.ptr());
            let mut types = Vec::new();
            while !list.is_null() && !(*list).is_null() {
                types.push(BufferType(*list));
                list = list.add(1);
            }
            types
        }
    }

    /// Whether `weight` times an f32 matrix runs on this device when the weight lies in `kind`.
    ///
    /// `ne` is the weight's shape `[n_in, n_out]`.
    pub fn supports_mul_mat(self, kind: BufferType, dtype: DType, ne: [i64; 2]) -> bool {
        let builder = super::graph::Arena::new(8 * 1024);
        let weight = builder.tensor(dtype, &[ne[0], ne[1]]);
        let x = builder.tensor(DType::F32, &[ne[0], 512]);
        // SAFETY: both tensors live in the arena; the empty buffer only lends its kind to the question
        // and is freed after the answer.
        unsafe {
            let product = sys::ggml_mul_mat(builder.ptr(), weight.ptr.as_ptr(), x.ptr.as_ptr());
            let buffer = sys::ggml_backend_buft_alloc_buffer(kind.0, 0);
            (*weight.ptr.as_ptr()).buffer = buffer;
            let supported = sys::ggml_backend_dev_supports_op(self.ptr(), product);
            sys::ggml_backend_buffer_free(buffer);
            supported
        }
    }

    /// Whether such attention runs on this device: for a prompt, and for single tokens, which have other kernels.
    pub fn supports_flash_attn(self, attention: FlashAttn) -> bool {
        [512, 1].into_iter().all(|n_tokens| self.supports_flash_attn_of(attention, n_tokens))
    }

    fn supports_flash_attn_of(self, attention: FlashAttn, n_tokens: i64) -> bool {
        let FlashAttn { head, n_head, types, is_masked } = attention;
        let n_kv = 512;
        let arena = super::graph::Arena::for_tensors(8);
        // Heads lie beside each other in the rows of tokens, those of a cache as well.
        let rows = [
            arena.tensor(DType::F32, &[head[0], n_head[0], n_tokens]),
            arena.tensor(types[0], &[head[0], n_head[1], n_kv]),
            arena.tensor(types[1], &[head[1], n_head[1], n_kv]),
        ];
        let mask = is_masked.then(|| arena.tensor(DType::F16, &[n_kv, n_tokens]));
        // SAFETY: all tensors live in the arena, which has room for these; the question only reads their headers.
        unsafe {
            let [q, k, v] =
                rows.map(|x| sys::ggml_permute(arena.ptr(), x.ptr.as_ptr(), 0, 2, 1, 3));
            let mask = mask.map_or(std::ptr::null_mut(), |mask| mask.ptr.as_ptr());
            let mixed = sys::ggml_flash_attn_ext(arena.ptr(), q, k, v, mask, 1.0, 0.0, 0.0);
            sys::ggml_prec_set_acc(mixed, sys::GGML_PREC_F32);
            sys::ggml_backend_dev_supports_op(self.ptr(), mixed)
        }
    }

    /// Whether a tensor of this type and shape can lie on this device, however much memory is free: the ranges
    /// that a shader can address are bounded on some.
    pub fn can_hold(self, dtype: DType, ne: &[i64]) -> bool {
        let arena = super::graph::Arena::new(8 * 1024);
        let tensor = arena.tensor(dtype, ne).ptr.as_ptr();
        // SAFETY: the tensor lives in the arena; the question only reads its header.
        unsafe { sys::ggml_backend_dev_supports_op(self.ptr(), tensor) }
    }

    /// Whether rows of a tensor of type `dtype` can be looked up on this device.
    pub fn supports_get_rows(self, dtype: DType) -> bool {
        let arena = super::graph::Arena::new(8 * 1024);
        let table = arena.tensor(dtype, &[256, 4]).ptr.as_ptr();
        let rows = arena.tensor(DType::I32, &[4]).ptr.as_ptr();
        // SAFETY: all tensors live in the arena; the question only reads their headers.
        unsafe {
            let found = sys::ggml_get_rows(arena.ptr(), table, rows);
            sys::ggml_backend_dev_supports_op(self.ptr(), found)
        }
    }

    /// Whether rows of F32 can be written into a tensor of type `dtype` on this device.
    pub fn supports_set_rows(self, dtype: DType) -> bool {
        let arena = super::graph::Arena::new(8 * 1024);
        let n = 256;
        let [to, from] = [dtype, DType::F32].map(|dtype| arena.tensor(dtype, &[n, 4]).ptr.as_ptr());
        let rows = arena.tensor(DType::I64, &[4]).ptr.as_ptr();
        // SAFETY: all tensors live in the arena; the question only reads their headers.
        unsafe {
            let written = sys::ggml_set_rows(arena.ptr(), to, from, rows);
            sys::ggml_backend_dev_supports_op(self.ptr(), written)
        }
    }

    /// Whether host memory can be used in place, without a copy.
    pub fn maps_host_memory(self) -> bool {
        let mut props = sys::ggml_backend_dev_props::default();
        // SAFETY: props is written by ggml.
        unsafe { sys::ggml_backend_dev_get_props(self.ptr(), &mut props) };
        props.caps.buffer_from_host_ptr
    }

    /// Whether its memory is the processor's: an integrated GPU, or one that uses weights where the file is mapped, as
    /// Metal does, whose devices do not call themselves integrated.
    pub fn shares_host_memory(self) -> bool {
        match self.kind() {
            DeviceKind::IntegratedGpu => true,
            DeviceKind::Gpu => self.maps_host_memory(),
            DeviceKind::Cpu | DeviceKind::Helper => false,
        }
    }

    /// A buffer over memory that is there; no tensor in it is larger than `n_bytes_max`.
    pub(super) fn wrap_host(
        self,
        bytes: &[u8],
        n_bytes_max: usize,
    ) -> Option<NonNull<sys::ggml_backend_buffer>> {
        // SAFETY: the store keeps the memory alive as long as the buffer and never writes through it.
        NonNull::new(unsafe {
            sys::ggml_backend_dev_buffer_from_host_ptr(
                self.ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                n_bytes_max,
            )
        })
    }

    fn proc_address(self, name: &CStr) -> Option<*mut c_void> {
        if self.is_joint() {
            return None; // belongs to no backend of the registry
        }
        // SAFETY: the registry entry is valid; an unknown name gives NULL.
        let address = unsafe {
            sys::ggml_backend_reg_get_proc_address(
                sys::ggml_backend_dev_backend_reg(self.ptr()),
                name.as_ptr(),
            )
        };
        (!address.is_null()).then_some(address)
    }
}

/// A kind of memory that tensors can lie in. Kinds live as long as the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferType(pub(super) sys::ggml_backend_buffer_type_t);

// SAFETY: buffer types are immutable statics of their backends.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

impl BufferType {
    /// Such as `CPU` or `CPU_REPACK`.
    pub fn name(self) -> &'static str {
        // SAFETY: names are literals of the backend.
        unsafe { text(sys::ggml_backend_buft_name(self.0)) }
    }

    /// Most bytes of one buffer.
    pub(super) fn max_bytes(self) -> usize {
        // SAFETY: a buffer type pointer is always valid.
        unsafe { sys::ggml_backend_buft_get_max_size(self.0) }
    }

    pub(super) fn alignment(self) -> usize {
        // SAFETY: a buffer type pointer is always valid.
        unsafe { sys::ggml_backend_buft_get_alignment(self.0) }
    }
}

/// Raised from any thread to stop a running computation at its next operation.
pub type CancelFlag = Arc<AtomicBool>;

/// A device made ready to run graphs.
#[derive(Debug)]
pub struct Backend {
    pub(super) ptr: NonNull<sys::ggml_backend>,
    device: Device,
    cancel: CancelFlag,
    _threads: Option<ThreadPool>,
}

// SAFETY: a backend may be used from any one thread at a time, and &self does not touch it.
unsafe impl Send for Backend {}

impl Backend {
    /// Starts `device` with `n_threads` threads, where the device counts threads.
    pub fn new(device: Device, n_threads: u32) -> Result<Self, GgmlError> {
        // SAFETY: the device is valid; NULL asks for its defaults.
        let ptr =
            NonNull::new(unsafe { sys::ggml_backend_dev_init(device.ptr(), std::ptr::null()) })
                .ok_or_else(|| GgmlError::Compute(format!("{} did not start", device.name())))?;
        let backend = Backend {
            ptr,
            device,
            cancel: CancelFlag::default(),
            _threads: ThreadPool::start(device, ptr, n_threads),
        };
        if let Some(address) = device.proc_address(c"ggml_backend_set_n_threads") {
            // SAFETY: ggml-backend.h fixes this type for this name.
            unsafe {
                let set: sys::ggml_backend_set_n_threads_t = std::mem::transmute(address);
                set.expect("the address is not null")(ptr.as_ptr(), n_threads as i32);
            }
        }
        if let Some(address) = device.proc_address(c"ggml_backend_set_abort_callback") {
            // SAFETY: as above; the flag behind the pointer is owned by the backend, which drops it
            // after the last graph.
            unsafe {
                let set: sys::ggml_backend_set_abort_callback_t = std::mem::transmute(address);
                let flag = Arc::as_ptr(&backend.cancel).cast_mut().cast();
                set.expect("the address is not null")(ptr.as_ptr(), Some(is_raised), flag);
            }
        }
        Ok(backend)
    }

    /// The device it runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The flag that stops this backend's computations; lower it before the next one.
    pub fn cancel_flag(&self) -> CancelFlag {
        self.cancel.clone()
    }
}

/// Threads of the CPU backend, where OpenMP doesn't keep them: without a pool, ggml would start and end
/// threads for every graph.
#[derive(Debug)]
struct ThreadPool {
    ptr: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

impl ThreadPool {
    fn start(device: Device, backend: NonNull<sys::ggml_backend>, n_threads: u32) -> Option<Self> {
        let openmp = cfg!(all(feature = "openmp", target_os = "linux"));
        if openmp || !device.is_cpu() || n_threads < 2 {
            return None;
        }
        let mut params = sys::ggml_threadpool_params {
            n_threads: n_threads as i32,
            poll: 50, // ggml's own middle way between spinning and sleeping
            ..Default::default()
        };
        // SAFETY: ggml-cpu.h fixes these types for these names; the pool is freed after the backend.
        unsafe {
            type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut c_void;
            type Set = unsafe extern "C" fn(sys::ggml_backend_t, *mut c_void);
            let new: New = std::mem::transmute(device.proc_address(c"ggml_threadpool_new")?);
            let free = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(
                device.proc_address(c"ggml_threadpool_free")?,
            );
            let set: Set =
                std::mem::transmute(device.proc_address(c"ggml_backend_cpu_set_threadpool")?);
            let ptr = new(&mut params);
            set(backend.as_ptr(), ptr);
            Some(ThreadPool { ptr, free })
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the pool is ours, and the backend that used it is gone: fields drop after their owner.
        unsafe { (self.free)(self.ptr) };
    }
}

unsafe extern "C" fn is_raised(flag: *mut c_void) -> bool {
    // SAFETY: the backend keeps the flag alive while graphs run.
    unsafe { &*flag.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours; schedulers that use it own the backend.
        unsafe { sys::ggml_backend_free(self.ptr.as_ptr()) };
    }
}
