//! A worker's door: who comes in, how many wait outside, and that one client at a time is served.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::cache::Cache;
use super::channel::{Channel, Kind};
use super::handshake::{self, Refusal, Version};
use super::key::Key;
use super::server::ServerCommand;
use super::session::{self, Fate, LEAVING, Welcome};
use super::{PATIENCE, locked};

/// Connections at once that have not shown the key.
const MAX_STRANGERS: usize = 16;
/// Time in which it is noticed that a client has gone.
const NOTICED: Duration = Duration::from_millis(300);

/// A worker.
pub struct Worker {
    key: Key,
    devices: Vec<String>,
    server: ServerCommand,
    cache: Option<Mutex<Cache>>,
    log: Box<dyn Fn(&str) + Send + Sync>,
    n_strangers: AtomicUsize,
    /// Who is being served.
    client: Mutex<Option<Client>>,
    changed: Condvar,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("devices", &self.devices).finish_non_exhaustive()
    }
}

struct Client {
    address: SocketAddr,
    socket: Arc<TcpStream>,
    fate: Arc<Fate>,
}

/// The place of the client that is being served, given up when dropped.
struct Place<'a>(&'a Worker);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.client() = None;
        self.0.changed.notify_all();
    }
}

impl Worker {
    /// A worker whose clients have `key` and are told of `devices`. A line for each thing that happens goes to
    /// `log`.
    pub fn new(
        key: Key,
        devices: Vec<String>,
        server: ServerCommand,
        cache: Option<Cache>,
        log: impl Fn(&str) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Worker {
            key,
            devices,
            server,
            cache: cache.map(Mutex::new),
            log: Box::new(log),
            n_strangers: AtomicUsize::new(0),
            client: Mutex::new(None),
            changed: Condvar::new(),
        })
    }

    /// Takes connections for good.
    pub fn listen(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let (socket, address) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as too many open files: others may close theirs.
                    (self.log)(&format!("a connection could not be taken: {error}"));
                    thread::sleep(Duration::from_millis(200));
                    continue;
                }
            };
            let stranger = Stranger::of(self);
            if self.n_strangers.load(Ordering::SeqCst) > MAX_STRANGERS {
                handshake::turn_away(socket, &Version::ours());
                continue;
            }
            let worker = self.clone();
            let spawned = thread::Builder::new()
                .name(format!("client {address}"))
                .spawn(move || worker.admit(socket, address, stranger));
            if let Err(error) = spawned {
                (self.log)(&format!("{address}: {error}"));
            }
        }
    }

    /// Ends the connection of whoever is being served, and waits until its memory is free.
    pub fn stop(&self) {
        let mut client = self.client();
        if let Some(client) = &*client {
            client.fate.is_stopped.store(true, Ordering::SeqCst);
            let _ = client.socket.shutdown(std::net::Shutdown::Read);
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while client.is_some() && Instant::now() < deadline {
            let waited = self.changed.wait_timeout(client, Duration::from_millis(100));
            client = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn client(&self) -> MutexGuard<'_, Option<Client>> {
        locked(&self.client)
    }

    fn admit(&self, socket: TcpStream, address: SocketAddr, stranger: Stranger) {
        let deadline = Instant::now() + PATIENCE;
        let channel = handshake::respond(socket, &self.key, &Version::ours(), deadline)
            .and_then(|channel| asked(channel, deadline));
        drop(stranger);
        let mut channel = match channel {
            Ok(channel) => channel,
            Err(refusal) => return (self.log)(&format!("{address}: refused: {refusal}")),
        };
        let fate = Arc::<Fate>::default();
        let client = Client { address, socket: channel.socket.clone(), fate: fate.clone() };
        if let Err(other) = self.claim(client) {
            (self.log)(&format!("{address}: refused: busy with {other}"));
            let body = postcard::to_stdvec(&Welcome::Busy(other.to_string())).unwrap_or_default();
            let told = channel.writer.send(Kind::Welcome, &body, &[]);
            let _ = told.and_then(|()| channel.writer.flush());
            return channel.writer.close();
        }
        let _place = Place(self);
        (self.log)(&format!("{address}: connected"));
        let Worker { server, cache, devices, log, .. } = self;
        session::run(address, channel, &fate, server, cache.as_ref(), devices, &**log);
    }

    /// Makes `next` the client; who else is, if it can't be. One that is leaving is waited for: whoever is
    /// started anew comes back sooner than its memory is free.
    fn claim(&self, next: Client) -> Result<(), SocketAddr> {
        let start = Instant::now();
        let mut client = self.client();
        while let Some(other) = &*client {
            let is_leaving = other.fate.is_leaving.load(Ordering::SeqCst);
            if start.elapsed() > if is_leaving { LEAVING } else { NOTICED } {
                return Err(other.address);
            }
            let waited = self.changed.wait_timeout(client, Duration::from_millis(50));
            client = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *client = Some(next);
        Ok(())
    }
}

/// The client's first frame, which nobody can send who only repeats what was recorded.
fn asked(mut channel: Channel, deadline: Instant) -> Result<Channel, Refusal> {
    channel.wait_for_first(deadline);
    match channel.reader.next() {
        Ok(Some((Kind::Welcome, _))) => {}
        Ok(Some(_)) => return Err(Refusal::Protocol("an unexpected first frame")),
        Ok(None) => return Err(Refusal::Closed),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Refusal::WrongKey);
        }
        Err(error) => return Err(error.into()),
    }
    channel.patient()?;
    Ok(channel)
}

/// A connection that has not shown the key yet, counted.
struct Stranger(Arc<Worker>);

impl Stranger {
    fn of(worker: &Arc<Worker>) -> Self {
        worker.n_strangers.fetch_add(1, Ordering::SeqCst);
        Stranger(worker.clone())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.n_strangers.fetch_sub(1, Ordering::SeqCst);
    }
}
