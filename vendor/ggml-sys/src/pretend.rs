//! The one function of `pretend.cpp`. Written by hand, since bindgen reads only ggml's headers.

use core::ffi::c_char;

use crate::ggml_backend_dev_t;

unsafe extern "C" {
    /// A device that has this much memory and cannot compute; both texts are copied.
    pub fn gust_pretend_gpu(
        name: *const c_char,
        description: *const c_char,
        memory: usize,
    ) -> ggml_backend_dev_t;
}
