//! The worker's end: one client, and the process of ggml's server that computes for it.
//!
//! The server is a process of its own because it trusts what it is told: a request that makes no sense may end
//! it, and nothing else. When the client has gone it is killed, whatever it computes, and all memory is free.
//!
//! This thread hears the client and feeds the server; it holds offered weights back until their bytes are
//! there, from the cache or from the client. A second one carries answers, a third gives signs of life.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::channel::{BEAT, Channel, Kind, Reader, Writer};
use super::request::{BEFORE_WEIGHTS, HEAD, n_weights};
use super::server::{Server, ServerCommand, is_suspended};
use super::{locked, plain};

/// Time that a worker waits for an earlier client that is leaving; clients wait longer for its answer.
pub(super) const LEAVING: Duration = Duration::from_secs(5);
/// Signs of life for which a suspended server is waited for: somebody may only have a look at it.
const MAX_SUSPENDED: u32 = 3;
/// Bytes of offered weights that may be outstanding, with room for what a client counts differently.
const MAX_PENDING: usize = 96 << 20;

/// The first frame of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Welcome {
    /// It is there for this client; what its devices are.
    Devices(Vec<String>),
    /// It serves another one.
    Busy(String),
}

/// What a client did.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) n_received: u64,
    pub(super) n_sent: u64,
    /// Weights from the cache and from the client, in bytes.
    pub(super) n_cached: u64,
    pub(super) n_uploaded: u64,
}

/// Why a session ends, other than by the client's leaving.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Lost(#[source] io::Error),
    #[error("the worker cannot start its server: {0}")]
    Start(#[source] io::Error),
    #[error("it does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the computing process {0}")]
    Server(String),
    #[error("the computing process was suspended, by SIGSTOP or a debugger")]
    Suspended,
    #[error("the worker was stopped")]
    Stopped,
}

/// A session as the rest of the worker knows it.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// All that is left to do is to clean up.
    pub(super) is_leaving: AtomicBool,
    /// The worker ends, and has closed the client's half of the connection.
    pub(super) is_stopped: AtomicBool,
}

/// Serves one client until it goes or is gone.
///
/// `fate` is what others see and do of it.
pub(super) fn run(
    address: SocketAddr,
    channel: Channel,
    fate: &Fate,
    server: &ServerCommand,
    cache: Option<&Mutex<Cache>>,
    devices: &[String],
    log: &dyn Fn(&str),
) {
    let start = Instant::now();
    if let Some(cache) = cache {
        locked(cache).begin();
    }
    let Channel { reader, writer, .. } = channel;
    let writer = Mutex::new(writer);
    let mut relay = Relay {
        reader,
        writer: &writer,
        cache,
        counts: Counts::default(),
        pending: VecDeque::new(),
    };
    let ended = relay.welcomed(devices).and_then(|()| relay.serve(server, fate, log));
    let ended = match fate.is_stopped.load(Ordering::SeqCst) {
        true => Err(Ended::Stopped),
        false => ended,
    };
    let mut writer = locked(&writer);
    if let Err(ended) = &ended {
        let told = writer.send(Kind::End, &[], plain(&ended.to_string()).as_bytes());
        let _ = told.and_then(|()| writer.flush());
    }
    relay.reader.drain(&writer);
    let Counts { n_cached, n_uploaded, .. } = relay.counts;
    let counts =
        Counts { n_received: relay.reader.n_bytes, n_sent: writer.n_bytes, n_cached, n_uploaded };
    let how = ended.map_or_else(|ended| format!("dropped: {ended}"), |()| "left".to_owned());
    log(&format!("{address}: {how}; {}", told(&counts, start.elapsed())));
}

fn told(counts: &Counts, time: Duration) -> String {
    let mb = |n: u64| n as f64 / 1e6;
    format!(
        "{:.1} s, {:.1} MB received, {:.1} MB sent, weights: {:.1} MB from the cache, {:.1} MB received",
        time.as_secs_f64(),
        mb(counts.n_received),
        mb(counts.n_sent),
        mb(counts.n_cached),
        mb(counts.n_uploaded)
    )
}

/// Carries what the server says to the client, until either is gone; if it is the server, `is_served` ends.
fn answers(mut from: UnixStream, writer: &Mutex<Writer>, is_served: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(n @ 1..) => {
                let mut writer = locked(writer);
                let sent = writer.send(Kind::Data, &[], &buffer[..n]);
                if sent.and_then(|()| writer.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Killed with something unread, it resets the connection.
            Ok(0) | Err(_) => return is_served.store(false, Ordering::SeqCst),
        }
    }
}

/// Says every second that the worker lives, until `done` is dropped, or the server has been suspended for too long, or
/// the client has gone; in both of these cases why.
fn beats(writer: &Mutex<Writer>, done: mpsc::Receiver<()>, server_id: u32) -> Option<Ended> {
    let mut n_suspended = 0;
    while done.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
        n_suspended = if is_suspended(server_id) { n_suspended + 1 } else { 0 };
        if n_suspended == MAX_SUSPENDED {
            return Some(Ended::Suspended);
        }
        let mut writer = locked(writer);
        if let Err(error) = writer.beat() {
            writer.close();
            return Some(Ended::Lost(error));
        }
    }
    None
}

/// From the client to the server.
struct Relay<'a> {
    reader: Reader,
    writer: &'a Mutex<Writer>,
    cache: Option<&'a Mutex<Cache>>,
    counts: Counts,
    /// Offers that wait for their bytes, or for others before them.
    pending: VecDeque<Offer>,
}

struct Offer {
    id: u32,
    hash: Hash,
    /// The request up to its data.
    before: Vec<u8>,
    n: usize,
    /// What has come of the data, once it was asked for.
    data: Option<Vec<u8>>,
}

impl Relay<'_> {
    fn welcomed(&mut self, devices: &[String]) -> Result<(), Ended> {
        let body = postcard::to_stdvec(&Welcome::Devices(devices.to_vec()));
        let body = body.map_err(|error| Ended::Lost(io::Error::other(error)))?;
        self.answer(Kind::Welcome, &body)
    }

    fn answer(&self, kind: Kind, body: &[u8]) -> Result<(), Ended> {
        let mut writer = locked(self.writer);
        writer.send(kind, body, &[]).and_then(|()| writer.flush()).map_err(Ended::Lost)
    }

    /// Starts the server, and serves until it or the client is gone.
    fn serve(
        &mut self,
        server: &ServerCommand,
        fate: &Fate,
        log: &dyn Fn(&str),
    ) -> Result<(), Ended> {
        let (mut process, near) = Server::start(server).map_err(Ended::Start)?;
        let far = near.try_clone().map_err(Ended::Start)?;
        let (writer, server_id) = (self.writer, process.id());
        let is_served = AtomicBool::new(true);
        let (ended, why) = thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(|| answers(far, writer, &is_served));
            let beating = scope.spawn(|| {
                let why = beats(writer, is_done, server_id);
                if why.is_some() {
                    // Whoever feeds a server that does not read waits no longer.
                    is_served.store(false, Ordering::SeqCst);
                    let _ = near.shutdown(Shutdown::Both);
                }
                why
            });
            let ended = self.run(&near, &is_served, log);
            fate.is_leaving.store(true, Ordering::SeqCst);
            let _ = near.shutdown(Shutdown::Both);
            drop(done);
            (ended, beating.join().unwrap_or_default())
        });
        match (ended, why) {
            (Err(Ended::Server(_)), Some(why)) => Err(why),
            (Err(Ended::Server(_)), None) => Err(Ended::Server(process.cause())),
            (ended, _) => ended,
        }
    }

    /// `Ok` when the client closes the connection.
    fn run(
        &mut self,
        server: &UnixStream,
        is_served: &AtomicBool,
        log: &dyn Fn(&str),
    ) -> Result<(), Ended> {
        let mut scratch = Vec::new();
        let mut server = server;
        let heard = self.reader.heard.clone();
        // A server that computes does not read, and then nobody hears the client.
        let mut feed = |bytes: &[u8]| {
            let fed = heard.while_deaf(|| server.write_all(bytes));
            fed.map_err(|_| Ended::Server(String::new()))
        };
        loop {
            let Some((kind, body)) = self.reader.next().map_err(Ended::Lost)? else {
                return Ok(());
            };
            // Signs of life come often enough to notice it here.
            if !is_served.load(Ordering::SeqCst) {
                return Err(Ended::Server(String::new()));
            }
            match kind {
                Kind::Beat => {}
                Kind::Data if self.pending.is_empty() => feed(body)?,
                Kind::Data => return Err(Ended::Protocol("a request before its weights")),
                Kind::Offer => {
                    let offer = parsed(body)?;
                    self.offered(offer)?;
                    self.settle(&mut scratch, &mut feed, log)?;
                }
                Kind::Piece => {
                    add_piece(&mut self.pending, body)?;
                    self.settle(&mut scratch, &mut feed, log)?;
                }
                _ => return Err(Ended::Protocol("an unexpected frame")),
            }
        }
    }

    /// Takes an offer in, and asks at once for what is not in the cache.
    fn offered(&mut self, mut offer: Offer) -> Result<(), Ended> {
        let n_pending: usize = self.pending.iter().map(|offer| offer.n).sum();
        if n_pending + offer.n > MAX_PENDING {
            return Err(Ended::Protocol("too many offers at once"));
        }
        if !self.cache.is_some_and(|cache| locked(cache).has(&offer.hash)) {
            self.want(&mut offer)?;
        }
        self.pending.push_back(offer);
        Ok(())
    }

    fn want(&self, offer: &mut Offer) -> Result<(), Ended> {
        offer.data = Some(Vec::with_capacity(offer.n));
        self.answer(Kind::Wants, &offer.id.to_be_bytes())
    }

    /// Feeds all offers that can be fed, in their order.
    fn settle(
        &mut self,
        scratch: &mut Vec<u8>,
        feed: &mut impl FnMut(&[u8]) -> Result<(), Ended>,
        log: &dyn Fn(&str),
    ) -> Result<(), Ended> {
        while let Some(mut offer) = self.pending.pop_front() {
            match offer.data.take() {
                Some(data) if data.len() < offer.n => {
                    offer.data = Some(data);
                    self.pending.push_front(offer);
                    return Ok(());
                }
                Some(data) => {
                    feed(&offer.before)?;
                    feed(&data)?;
                    self.counts.n_uploaded += offer.n as u64;
                    self.keep(&offer.hash, &data, log)?;
                }
                None => {
                    let heard = self.reader.heard.clone();
                    let read =
                        |cache: &Mutex<Cache>| locked(cache).read(&offer.hash, offer.n, scratch);
                    if heard.while_deaf(|| self.cache.is_some_and(read)) {
                        feed(&offer.before)?;
                        feed(scratch)?;
                        self.counts.n_cached += offer.n as u64;
                        self.answer(Kind::Has, &offer.id.to_be_bytes())?;
                    } else {
                        // The file was not what its name says.
                        self.want(&mut offer)?;
                        self.pending.push_front(offer);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps weights for the next time. A disk that takes no more is no reason to stop.
    fn keep(&mut self, hash: &Hash, data: &[u8], log: &dyn Fn(&str)) -> Result<(), Ended> {
        let heard = self.reader.heard.clone();
        heard.while_deaf(|| {
            if blake3::hash(data) != *hash {
                return Err(Ended::Protocol("weights that are not what was offered"));
            }
            if let Some(cache) = self.cache
                && let Err(error) = locked(cache).write(*hash, data)
            {
                log(&format!("weights are not kept any more: {error}"));
                self.cache = None;
            }
            Ok(())
        })
    }
}

/// `id | hash | request up to its data`
fn parsed(body: &[u8]) -> Result<Offer, Ended> {
    let broken = Ended::Protocol("a broken offer");
    let split = body.split_first_chunk::<4>().and_then(|(id, rest)| {
        let (hash, before) = rest.split_first_chunk::<32>()?;
        let n = n_weights(before.get(..HEAD)?)?;
        (before.len() == BEFORE_WEIGHTS).then(|| Offer {
            id: u32::from_be_bytes(*id),
            hash: Hash::from_bytes(*hash),
            before: before.to_vec(),
            n,
            data: None,
        })
    });
    split.ok_or(broken)
}

/// `id | bytes`, of an offer whose data was asked for.
fn add_piece(pending: &mut VecDeque<Offer>, body: &[u8]) -> Result<(), Ended> {
    let added = body.split_first_chunk::<4>().and_then(|(id, bytes)| {
        let id = u32::from_be_bytes(*id);
        let offer = pending.iter_mut().find(|offer| offer.id == id)?;
        let data = offer.data.as_mut()?;
        (data.len() + bytes.len() <= offer.n).then(|| data.extend_from_slice(bytes))
    });
    added.ok_or(Ended::Protocol("weights that nobody asked for"))
}
