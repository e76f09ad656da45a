//! The client's end: ggml's requests go out, answers come in, weights are offered by their hash first.
//!
//! ggml's thread writes. A reader of ours hears answers and signs of life, and a third thread gives them. An
//! offer costs no round trip: ggml goes on while answers are outstanding, up to a window of data that is
//! kept here until the worker has said whether it wants it. Before any other request all offers are
//! settled, so that requests take effect in their order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::channel::{BEAT, CLOSED, Channel, Kind, Reader, Writer};
use super::handshake::Refusal;
use super::request::{Part, Requests};
use super::session::Welcome;
use super::{locked, plain};
use crate::ggml::rpc::{Loading, Stream};

/// Bytes of offered weights that may be outstanding.
const WINDOW: usize = 64 << 20;
/// Answers that nobody has asked for are no answers.
const MAX_WAITING: usize = 1 << 30;

/// Why the first connection that was lost was lost, naming the worker; ggml ends the process then.
pub fn lost() -> Option<String> {
    locked(&LOST).clone()
}

static LOST: Mutex<Option<String>> = Mutex::new(None);

/// ggml's stream to one worker.
pub(super) struct Link {
    address: String,
    shared: Arc<Shared>,
    requests: Requests,
}

struct Shared {
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
    /// Something came in, or will no more.
    changed: Condvar,
}

/// What is to go out.
struct Outgoing {
    writer: Writer,
    /// Offers without an answer, and their data.
    offers: VecDeque<(u32, Vec<u8>)>,
    n_offered: usize,
    next_id: u32,
}

/// What came in.
#[derive(Default)]
struct Incoming {
    /// Bytes for ggml, in the pieces they came in; `n_taken` of the first are spent.
    data: VecDeque<Vec<u8>>,
    n_taken: usize,
    n_waiting: usize,
    answers: VecDeque<(Kind, u32)>,
    /// Answers that were heeded so far, by whichever thread.
    n_heeded: u64,
    lost: Option<String>,
}

impl Link {
    /// Asks the worker to serve this side; with its answer, which must come by `deadline`, the names of its devices.
    pub(super) fn start(
        address: &str,
        mut channel: Channel,
        deadline: Instant,
    ) -> Result<(Self, Vec<String>), Refusal> {
        channel.wait_for_first(deadline);
        channel.writer.send(Kind::Welcome, &[], &[])?;
        channel.writer.flush()?;
        let names: Vec<_> = loop {
            match channel.reader.next()? {
                Some((Kind::Beat, _)) => {}
                Some((Kind::Welcome, body)) => match postcard::from_bytes(body) {
                    Ok(Welcome::Devices(names)) => {
                        break names.iter().map(|name| plain(name)).collect();
                    }
                    Ok(Welcome::Busy(with)) => return Err(Refusal::Busy(plain(&with))),
                    Err(_) => return Err(Refusal::Protocol("a broken welcome")),
                },
                Some(_) => return Err(Refusal::Protocol("no welcome")),
                None => return Err(Refusal::Closed),
            }
        };
        channel.patient()?;
        let Channel { reader, writer, .. } = channel;
        let outgoing = Outgoing { writer, offers: VecDeque::new(), n_offered: 0, next_id: 0 };
        let shared = Arc::new(Shared {
            outgoing: Mutex::new(outgoing),
            incoming: Mutex::default(),
            changed: Condvar::new(),
        });
        let (hearing, beating) = (shared.clone(), shared.clone());
        let named = |name: &str| thread::Builder::new().name(format!("{name} {address}"));
        named("from").spawn(move || hearing.hear(reader))?;
        named("to").spawn(move || beating.beat())?;
        Ok((Link { address: address.to_owned(), shared, requests: Requests::default() }, names))
    }

    /// Notes for whoever ends the process what this error means.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let cause =
                locked(&self.shared.incoming).lost.clone().unwrap_or_else(|| error.to_string());
            let line = format!("worker {}: connection lost: {cause}", self.address);
            locked(&LOST).get_or_insert(line);
        }
        result
    }
}

impl Stream for Link {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let shared = &self.shared;
        let sent = self.requests.take(bytes, Loading::is_under_way(), |part| match part {
            Part::Plain(bytes) => shared.send(bytes),
            Part::Weights(before, data) => shared.offer(before, data),
        });
        self.noted(sent)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let received = self.shared.receive(bytes);
        self.noted(received)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = locked(&self.shared.outgoing).writer.flush();
        self.noted(flushed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.lose("closed here".to_owned());
    }
}

impl Shared {
    fn lose(&self, cause: String) {
        locked(&self.incoming).lost.get_or_insert(cause);
        self.changed.notify_all();
    }

    fn is_lost(&self) -> io::Result<()> {
        match &locked(&self.incoming).lost {
            Some(cause) => Err(io::Error::other(cause.clone())),
            None => Ok(()),
        }
    }

    /// Takes whatever comes until nothing can.
    fn hear(&self, mut reader: Reader) {
        let cause = loop {
            match reader.next() {
                Ok(Some((kind, body))) => {
                    if let Err(cause) = self.heard(kind, body) {
                        break cause;
                    }
                }
                Ok(None) => break CLOSED.to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        self.lose(cause);
    }

    fn heard(&self, kind: Kind, body: &[u8]) -> Result<(), String> {
        let mut incoming = locked(&self.incoming);
        match kind {
            Kind::Beat => return Ok(()),
            Kind::Data if incoming.n_waiting < MAX_WAITING => {
                incoming.n_waiting += body.len();
                incoming.data.push_back(body.to_vec());
            }
            Kind::Has | Kind::Wants => {
                let id = body.try_into().map_err(|_| "a broken answer to an offer")?;
                incoming.answers.push_back((kind, u32::from_be_bytes(id)));
            }
            Kind::End => return Err(plain(&String::from_utf8_lossy(body))),
            kind => return Err(format!("an unexpected frame: {kind:?}")),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Says every second that this side lives, and sends what is wanted if ggml is quiet.
    fn beat(&self) {
        loop {
            thread::sleep(BEAT);
            let mut outgoing = locked(&self.outgoing);
            let done = self.is_lost().and_then(|()| self.serve_wants(&mut outgoing));
            if let Err(error) = done.and_then(|()| outgoing.writer.beat()) {
                outgoing.writer.close();
                return self.lose(error.to_string());
            }
        }
    }

    /// Passes bytes on, after all offers are settled.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut outgoing = self.settled(0)?;
        outgoing.writer.send(Kind::Data, &[], bytes)
    }

    /// Offers a tensor's data instead of sending it.
    fn offer(&self, before: &[u8], data: &[u8]) -> io::Result<()> {
        let hash = blake3::hash(data);
        let mut outgoing = self.settled(WINDOW.saturating_sub(data.len()))?;
        let id = outgoing.next_id;
        outgoing.next_id = id.wrapping_add(1);
        outgoing.n_offered += data.len();
        outgoing.offers.push_back((id, data.to_vec()));
        let head = [&id.to_be_bytes()[..], hash.as_bytes(), before].concat();
        outgoing.writer.send(Kind::Offer, &head, &[])
    }

    /// Waits until at most `n_left` bytes of offers are outstanding.
    fn settled(&self, n_left: usize) -> io::Result<MutexGuard<'_, Outgoing>> {
        loop {
            let mut outgoing = locked(&self.outgoing);
            self.serve_wants(&mut outgoing)?;
            if outgoing.n_offered <= n_left {
                return Ok(outgoing);
            }
            outgoing.writer.flush()?;
            let n_heeded = locked(&self.incoming).n_heeded;
            drop(outgoing);
            let nothing_new = |incoming: &mut Incoming| {
                incoming.answers.is_empty()
                    && incoming.lost.is_none()
                    && incoming.n_heeded == n_heeded
            };
            drop(self.changed.wait_while(locked(&self.incoming), nothing_new));
            self.is_lost()?;
        }
    }

    /// Does what the answers to offers ask for.
    fn serve_wants(&self, outgoing: &mut Outgoing) -> io::Result<()> {
        let answers = std::mem::take(&mut locked(&self.incoming).answers);
        let n_heeded = answers.len() as u64;
        for (kind, id) in answers {
            let at = outgoing.offers.iter().position(|(offered, _)| *offered == id);
            let Some((_, data)) = at.and_then(|at| outgoing.offers.remove(at)) else {
                return Err(io::Error::other("an answer to no offer"));
            };
            outgoing.n_offered -= data.len();
            if kind == Kind::Wants {
                outgoing.writer.send(Kind::Piece, &id.to_be_bytes(), &data)?;
                outgoing.writer.flush()?;
            }
        }
        if n_heeded > 0 {
            locked(&self.incoming).n_heeded += n_heeded;
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Fills `bytes` from what comes in.
    fn receive(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        let mut incoming = locked(&self.incoming);
        while !bytes.is_empty() {
            let Incoming { data, n_taken, n_waiting, lost, .. } = &mut *incoming;
            let Some(first) = data.front() else {
                if let Some(cause) = lost {
                    return Err(io::Error::other(cause.clone()));
                }
                incoming = self.changed.wait(incoming).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let n = bytes.len().min(first.len() - *n_taken);
            let (now, later) = bytes.split_at_mut(n);
            now.copy_from_slice(&first[*n_taken..][..n]);
            bytes = later;
            *n_taken += n;
            *n_waiting -= n;
            if *n_taken == first.len() {
                data.pop_front();
                *n_taken = 0;
            }
        }
        Ok(())
    }
}
