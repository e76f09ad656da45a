//! The functions behind `transport.cpp`, and the table of labels.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::mpsc::Receiver;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use ggml_sys as sys;

use super::Stream;

/// Host of the labels that ggml's client connects to.
pub(super) const WORKER: &str = "worker";
/// Host of the labels that ggml's server listens on.
pub(super) const SERVER: &str = "server";

/// What ggml's sockets are. A listener's end is the end of its server.
pub(super) enum Handle {
    Stream(Box<dyn Stream>),
    Listener(Receiver<Box<dyn Stream>>),
}

/// Handles that ggml has not asked for yet, by host and port of their labels.
#[derive(Default)]
struct Table {
    n_labels: c_int,
    waiting: HashMap<(&'static str, c_int), Handle>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(|| {
    let functions =
        sys::gust_rpc_transport { connect, listen, accept, send, receive, flush, close };
    // SAFETY: the functions never unwind; the struct is copied. Nobody has a label yet, so ggml uses none.
    unsafe { sys::gust_rpc_set_transport(&functions) };
    Mutex::default()
});

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `handle` until ggml asks for its label, which this returns.
pub(super) fn put(host: &'static str, handle: Handle) -> String {
    let mut table = table();
    let port = table.n_labels;
    table.n_labels += 1;
    table.waiting.insert((host, port), handle);
    format!("{host}:{port}")
}

/// The handle of a label, once; null for whatever else ggml asks for, such as addresses.
fn take(kind: &'static str, host: *const c_char, port: c_int) -> *mut c_void {
    // SAFETY: ggml passes a C string.
    let is_ours = unsafe { CStr::from_ptr(host) }.to_bytes() == kind.as_bytes();
    let found = is_ours.then(|| table().waiting.remove(&(kind, port))).flatten();
    found.map_or(null_mut(), |handle| Box::into_raw(Box::new(handle)).cast())
}

/// Runs `work`; a panic is our bug, and counts as a failed stream rather than unwinding into C++.
fn contained<T>(failed: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(failed)
}

unsafe extern "C" fn connect(host: *const c_char, port: c_int) -> *mut c_void {
    contained(null_mut(), || take(WORKER, host, port))
}

unsafe extern "C" fn listen(host: *const c_char, port: c_int) -> *mut c_void {
    contained(null_mut(), || take(SERVER, host, port))
}

/// # Safety
/// `handle` came from `take` or `accept` and was not closed; no other thread uses it now.
unsafe fn of<'a>(handle: *mut c_void) -> &'a mut Handle {
    // SAFETY: the caller's promise.
    unsafe { &mut *handle.cast::<Handle>() }
}

unsafe extern "C" fn accept(listener: *mut c_void) -> *mut c_void {
    // SAFETY: ggml calls this on what `listen` gave, in the server's thread only.
    contained(null_mut(), || match unsafe { of(listener) } {
        Handle::Listener(incoming) => match incoming.recv() {
            Ok(stream) => Box::into_raw(Box::new(Handle::Stream(stream))).cast(),
            Err(_) => {
                // To ggml it is an error that nobody else comes; it would hide what went before.
                super::super::log::stop_hearing_this_thread();
                null_mut()
            }
        },
        Handle::Stream(_) => null_mut(),
    })
}

unsafe extern "C" fn send(stream: *mut c_void, data: *const c_void, size: usize) -> bool {
    contained(false, || {
        if size == 0 {
            return true; // and `data` may be null
        }
        // SAFETY: a stream of ours, used by one thread at a time; `data` has `size` bytes.
        match unsafe { (of(stream), std::slice::from_raw_parts(data.cast(), size)) } {
            (Handle::Stream(stream), bytes) => stream.send(bytes).is_ok(),
            (Handle::Listener(_), _) => false,
        }
    })
}

unsafe extern "C" fn receive(stream: *mut c_void, data: *mut c_void, size: usize) -> bool {
    contained(false, || {
        if size == 0 {
            return true;
        }
        // SAFETY: as for `send`. The bytes are zeroed before they become a slice, for ggml may not have
        // written them.
        let bytes = unsafe {
            std::ptr::write_bytes(data.cast::<u8>(), 0, size);
            std::slice::from_raw_parts_mut(data.cast(), size)
        };
        // SAFETY: as for `send`.
        match unsafe { of(stream) } {
            Handle::Stream(stream) => stream.receive(bytes).is_ok(),
            Handle::Listener(_) => false,
        }
    })
}

unsafe extern "C" fn flush(stream: *mut c_void) -> bool {
    // SAFETY: as for `send`.
    contained(false, || match unsafe { of(stream) } {
        Handle::Stream(stream) => stream.flush().is_ok(),
        Handle::Listener(_) => false,
    })
}

unsafe extern "C" fn close(handle: *mut c_void) {
    // SAFETY: ggml closes what it got once, and never uses it again.
    contained((), || drop(unsafe { Box::from_raw(handle.cast::<Handle>()) }));
}
