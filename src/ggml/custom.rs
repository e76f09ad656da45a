//! Operations of ours among ggml's: what they have in common.

use std::ffi::c_void;

use ggml_sys as sys;

use super::graph::GraphBuilder;
use super::{DType, Tensor};

/// ggml's "as many threads as there are".
const ALL_THREADS: i32 = -1;

/// What ggml calls on each of `nth` threads with the result's tensor, the thread's number and `nth`.
pub(super) type Run = unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

impl<'g> GraphBuilder<'g> {
    /// An operation that `run` computes on the CPU.
    pub(super) fn custom(
        &self,
        dtype: DType,
        [a, b, c]: [i64; 3],
        args: &[Tensor<'g>],
        run: Run,
    ) -> Tensor<'g> {
        let mut args: Vec<_> = args.iter().map(|arg| arg.ptr.as_ptr()).collect();
        let ctx = self.arena.ptr();
        // SAFETY: the handles point to live headers and the arena has room (`Graph::build`); `run` reads no
        // user data.
        Tensor::new(unsafe {
            sys::ggml_custom_4d(
                ctx,
                dtype.0,
                a,
                b,
                c,
                1,
                args.as_mut_ptr(),
                args.len() as i32,
                Some(run),
                ALL_THREADS,
                std::ptr::null_mut(),
            )
        })
    }
}

/// The elements of a tensor that lies in one run.
///
/// # Safety
/// The tensor has its data, of type `T`, contiguous, and nobody writes it during `'a`.
pub(super) unsafe fn values<'a, T>(tensor: *const sys::ggml_tensor) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe {
        let ne = (*tensor).ne;
        let n = ne.iter().product::<i64>() as usize;
        std::slice::from_raw_parts((*tensor).data.cast::<T>(), n)
    }
}
