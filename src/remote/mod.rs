//! Several machines: devices of a `gust worker` on another machine, used as if they were here.
//!
//! ggml has a protocol for that and no protection at all: whoever reaches its port reads and writes the
//! memory behind it. So ggml never sees a network here. Its bytes go through a tunnel of ours:
//!
//! ```text
//! here     ggml's client → link ─┐                                     ┌─ ggml's server, in a process
//!                                channel ═══ TCP, encrypted ═══ channel│  of its own for each client
//! there                                                    session ────┘
//! ```
//!
//! `handshake` lets in who has the key and the same version. `channel` is the encrypted stream of frames, with
//! a sign of life every second each way. `link` is the client's end: ggml's requests go through as they are,
//! only weights are offered by their hash first. `session` is the worker's end, with a `cache` of weights.
//! `worker` listens and admits one client at a time.

mod cache;
mod channel;
mod handshake;
mod key;
mod link;
mod request;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod worker;

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::ggml::{Device, rpc};

pub use cache::{Cache, CacheError};
pub use handshake::{Refusal, Version};
pub use key::{Key, KeyError, is_readable_by_others};
pub use link::lost;
pub use server::ServerCommand;
pub use worker::Worker;

/// Time that finding and connecting a worker may take, and the handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time in which a worker must have answered, all together. It is more than a handshake takes: the worker may
/// still be ending with another client.
const START: Duration = Duration::from_secs(9);

/// Most characters of a text that the other side says.
const MAX_TEXT: usize = 600;

/// Why a worker cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("worker {address}: {cause}")]
pub struct RemoteError {
    /// Its host and port.
    pub address: String,
    /// What is wrong.
    pub cause: Refusal,
}

/// Connects to workers and gives their devices, in this order; [`devices`](crate::ggml::devices) has them from
/// then on, too. `addresses` are `HOST:PORT`.
///
/// Connections last as long as the process. If one is lost later, ggml gives up; [`lost`] then says why.
pub fn connect(addresses: &[String], key: &Key) -> Result<Vec<Device>, RemoteError> {
    let mut links = Vec::with_capacity(addresses.len());
    for (i, address) in addresses.iter().enumerate() {
        let failed = |cause| RemoteError { address: address.clone(), cause };
        if addresses[..i].contains(address) {
            return Err(failed(Refusal::Twice));
        }
        let opened = open(address, key, &Version::ours()).map_err(failed)?;
        links.push((address, opened));
    }
    // All are there before ggml hears of the first: from then on an error ends the process.
    let mut devices = Vec::new();
    for (address, (link, names)) in links {
        let describe = |i: usize| {
            let name = names.get(i).map_or("a device", String::as_str);
            format!("{address} {name}")
        };
        let added = rpc::add_worker(link, describe);
        let failed = |error: crate::ggml::GgmlError| RemoteError {
            address: address.clone(),
            cause: Refusal::Devices(error.to_string()),
        };
        devices.extend(added.map_err(failed)?);
    }
    rpc::publish(&devices);
    Ok(devices)
}

/// A connection to one worker, and what it says of its devices.
fn open(address: &str, key: &Key, version: &Version) -> Result<(link::Link, Vec<String>), Refusal> {
    let start = Instant::now();
    let deadline = start + START;
    let socket = connected(address, start + PATIENCE)?;
    let channel =
        handshake::initiate(socket, key, version, deadline.min(Instant::now() + PATIENCE))?;
    link::Link::start(address, channel, deadline)
}

/// A connection to the first of a name's addresses that takes one.
fn connected(address: &str, deadline: Instant) -> Result<TcpStream, Refusal> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let addresses = resolved(address, left())?;
    let mut reached = Err(Refusal::Resolve("the name has no address".to_owned()));
    for (i, address) in addresses.iter().enumerate() {
        // One that does not answer leaves as much for each of the others.
        let share = (left() / (addresses.len() - i) as u32).max(Duration::from_millis(50));
        reached = TcpStream::connect_timeout(address, share).map_err(Refusal::Connect);
        if reached.is_ok() || left().is_zero() {
            break;
        }
    }
    reached
}

/// The addresses of a name. The system may ask name servers for longer than anybody wants to wait: its thread is left
/// to itself then.
fn resolved(address: &str, patience: Duration) -> Result<Vec<SocketAddr>, Refusal> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (sender, found) = mpsc::channel();
    let name = address.to_owned();
    let resolve = move || {
        let _ = sender.send(name.to_socket_addrs().map(Vec::from_iter));
    };
    thread::Builder::new().name("resolve".to_owned()).spawn(resolve)?;
    match found.recv_timeout(patience) {
        Ok(addresses) => addresses.map_err(|error| Refusal::Resolve(error.to_string())),
        Err(_) => Err(Refusal::Resolve("no name server answers in time".to_owned())),
    }
}

/// What the other side says, or a process, fit for one line of a message.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
