//! Memory of the processor that a device reads without a detour.

use std::ptr::NonNull;

use ggml_sys as sys;

use super::Device;

/// Page-locked memory from a device's driver: copies from it go at the bus's full speed, and copies from
/// elsewhere through a buffer of the driver's.
pub struct PinnedMemory {
    buffer: NonNull<sys::ggml_backend_buffer>,
    n_bytes: usize,
}

impl PinnedMemory {
    /// `None` where the device has no such memory, or none left.
    pub fn new(device: Device, n_bytes: usize) -> Option<Self> {
        if device.is_cpu() {
            return None;
        }
        let kind = device.host_buffer_type()?;
        // SAFETY: a plain allocation, NULL if refused.
        let buffer = NonNull::new(unsafe { sys::ggml_backend_buft_alloc_buffer(kind.0, n_bytes) })?;
        // SAFETY: the buffer is ours; memory that is lent out as bytes must hold some.
        unsafe { sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0) };
        Some(PinnedMemory { buffer, n_bytes })
    }

    /// The memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the buffer is ours, in host memory, and has this many bytes.
        unsafe {
            let base = sys::ggml_backend_buffer_get_base(self.buffer.as_ptr()).cast::<u8>();
            std::slice::from_raw_parts_mut(base, self.n_bytes)
        }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: the buffer is ours.
        unsafe { sys::ggml_backend_buffer_free(self.buffer.as_ptr()) };
    }
}
