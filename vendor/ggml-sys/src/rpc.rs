//! ggml-rpc.h, and the functions that carry its bytes (`transport.cpp`). Written by hand, since bindgen
//! would bind them in builds that don't link them.

use core::ffi::{c_char, c_int, c_void};

use crate::{ggml_backend_dev_t, ggml_backend_reg_t, ggml_backend_t};

/// What `transport.cpp` forwards to. A handle is whatever `connect`, `listen` and `accept` return; null
/// says no.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct gust_rpc_transport {
    /// The stream behind a client's label.
    pub connect: unsafe extern "C" fn(host: *const c_char, port: c_int) -> *mut c_void,
    /// The listener behind a server's label.
    pub listen: unsafe extern "C" fn(host: *const c_char, port: c_int) -> *mut c_void,
    /// The next stream of a listener.
    pub accept: unsafe extern "C" fn(listener: *mut c_void) -> *mut c_void,
    /// Sends all bytes.
    pub send: unsafe extern "C" fn(stream: *mut c_void, data: *const c_void, size: usize) -> bool,
    /// Receives exactly as many bytes.
    pub receive: unsafe extern "C" fn(stream: *mut c_void, data: *mut c_void, size: usize) -> bool,
    /// Called where a message ends.
    pub flush: unsafe extern "C" fn(stream: *mut c_void) -> bool,
    /// Frees a stream or a listener.
    pub close: unsafe extern "C" fn(handle: *mut c_void),
}

unsafe extern "C" {
    /// Sets the functions; before anything else of RPC.
    pub fn gust_rpc_set_transport(functions: *const gust_rpc_transport);
    /// A backend on a server's device.
    pub fn ggml_backend_rpc_init(endpoint: *const c_char, device: u32) -> ggml_backend_t;
    /// The devices of a server.
    pub fn ggml_backend_rpc_add_server(endpoint: *const c_char) -> ggml_backend_reg_t;
    /// Serves devices until the listener has no further stream.
    pub fn ggml_backend_rpc_start_server(
        endpoint: *const c_char,
        cache_dir: *const c_char,
        n_threads: usize,
        n_devices: usize,
        devices: *mut ggml_backend_dev_t,
    );
}
