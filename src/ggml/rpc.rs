//! ggml's RPC over byte streams of ours: devices of another process, which this one uses as its own.
//!
//! ggml's own transport opens TCP ports without asking anybody who they are. It is not compiled; its place
//! is taken by functions that hand bytes to a [`Stream`], which `crate::remote` encrypts. Where ggml wants
//! an address, it gets a label, and a table here knows the stream behind each. A label is good for one
//! stream: a client's lives as long as the program, since ggml would open another where none is open.
//!
//! When a stream fails, ggml's client ends the process; see [`on_abort`](super::on_abort).

mod fake;
mod transport;

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;
use std::ptr::{NonNull, null};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use ggml_sys as sys;

use super::{Device, GgmlError};
use transport::{Handle, SERVER, WORKER};

pub use fake::fake_gpus;

/// Bytes to and from the other side. One thread at a time makes use of it.
pub trait Stream: Send {
    /// Sends all bytes, at the latest with [`flush`](Self::flush).
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Fills `bytes`, however long that takes.
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<()>;
    /// A message ends here.
    fn flush(&mut self) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(self, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The devices at the other end of `stream`. Their [`description`](Device::description) is what `describe`
/// says of the device with that index.
///
/// The other end must answer as ggml's server, or the process ends (see the module).
pub fn add_worker(
    stream: impl Stream + 'static,
    describe: impl Fn(usize) -> String,
) -> Result<Vec<Device>, GgmlError> {
    super::devices(); // sets ggml up
    let label = transport::put(WORKER, Handle::Stream(Box::new(stream)));
    let endpoint = CString::new(label).expect("labels have no NUL");
    // SAFETY: the label is known to the table. The backend comes first and stays for good: it holds the one
    // connection, which ggml would close after `add_server` and open anew.
    let registry = unsafe {
        if sys::ggml_backend_rpc_init(endpoint.as_ptr(), 0).is_null() {
            return Err(GgmlError::Compute("the worker's first device did not start".to_owned()));
        }
        sys::ggml_backend_rpc_add_server(endpoint.as_ptr())
    };
    let none = || GgmlError::Compute("the worker offers no device".to_owned());
    let registry = NonNull::new(registry).ok_or_else(none)?.as_ptr();
    // SAFETY: the registry entry lives as long as the program; the index is below its count.
    let pointers = unsafe {
        let n = sys::ggml_backend_reg_dev_count(registry);
        (0..n).map(|i| sys::ggml_backend_reg_dev_get(registry, i)).collect::<Vec<_>>()
    };
    let devices: Vec<_> = pointers.into_iter().filter_map(NonNull::new).map(Device).collect();
    let mut known = DESCRIPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    known.extend(devices.iter().enumerate().map(|(i, device)| (*device, describe(i))));
    Ok(devices)
}

/// What is told of workers' devices, of which ggml itself knows the label only.
static DESCRIPTIONS: Mutex<Vec<(Device, String)>> = Mutex::new(Vec::new());

/// What was said of a worker's device; `None` for devices of this machine.
pub(super) fn description(device: Device) -> Option<String> {
    let known = DESCRIPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    known.iter().find(|(known, _)| *known == device).map(|(_, text)| text.clone())
}

static LENT: Mutex<Vec<Device>> = Mutex::new(Vec::new());

/// Makes devices of workers part of [`devices`](super::devices), for good.
pub fn publish(devices: &[Device]) {
    LENT.lock().unwrap_or_else(PoisonError::into_inner).extend(devices);
}

/// Devices that were published.
pub(super) fn published() -> Vec<Device> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Serves `devices` to one client after the other, as they come in, until nobody can send any more.
///
/// What a client asks for is computed as it stands: rubbish may end the process.
pub fn serve(devices: &[Device], n_threads: u32, incoming: Receiver<Box<dyn Stream>>) {
    let label = transport::put(SERVER, Handle::Listener(incoming));
    let endpoint = CString::new(label).expect("labels have no NUL");
    let mut pointers: Vec<_> = devices.iter().map(|device| device.0.as_ptr()).collect();
    // SAFETY: devices live as long as the program; the list is read before the call returns.
    unsafe {
        sys::ggml_backend_rpc_start_server(
            endpoint.as_ptr(),
            null(),
            n_threads as usize,
            pointers.len(),
            pointers.as_mut_ptr(),
        );
    }
}

/// How many loaders are at work.
static N_LOADING: AtomicUsize = AtomicUsize::new(0);

/// While it lives, tensors that are set are taken for weights, which workers keep in their caches; what a
/// graph is given for one run is not worth it.
#[derive(Debug)]
pub struct Loading(());

impl Loading {
    /// Loading begins.
    pub fn begin() -> Self {
        N_LOADING.fetch_add(1, Ordering::SeqCst);
        Loading(())
    }

    /// Whether anybody is loading weights.
    pub fn is_under_way() -> bool {
        N_LOADING.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        N_LOADING.fetch_sub(1, Ordering::SeqCst);
    }
}
