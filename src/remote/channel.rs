//! Frames in an encrypted stream, and the signs of life that tell a slow other side from a lost one.
//!
//! On the wire: `length u16 | ciphertext`, where the plain text is `kind u8 | body`. Bodies that are longer than
//! a Noise message are cut into frames of the same kind. Each half counts its own nonces, so that reading
//! and writing go on side by side. TCP's keepalive is not needed: somebody sends every second.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use snow::StatelessTransportState;

/// Time between signs of life.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// Silence after which the other side counts as lost.
pub(super) const SILENCE: Duration = Duration::from_secs(6);

/// What is said when the other side is gone and sends nothing about it.
pub(super) const CLOSED: &str = "the other side closed the connection";

/// Most bytes of a Noise message, by the specification.
const MAX_MESSAGE: usize = 65535;
const TAG: usize = 16;
/// Most bytes of a frame's body.
pub(super) const MAX_BODY: usize = MAX_MESSAGE - TAG - 1;
/// Ciphertext that is gathered before it is written.
const BATCH: usize = 256 << 10;
/// How often a write that makes no progress looks whether the other side still lives.
const STALL: Duration = Duration::from_millis(500);

/// What frames hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A sign of life.
    Beat,
    /// Bytes of ggml's, either way.
    Data,
    /// Client: a request whose weights may be known there; `id u32 | hash | head of the request`.
    Offer,
    /// Client: some of the weights that were wanted; `id u32 | bytes`.
    Piece,
    /// Worker: what it is, or with whom it is busy; the first frame of all.
    Welcome,
    /// Worker: an offer was taken from the cache; `id u32`.
    Has,
    /// Worker: an offer's weights are wanted; `id u32`.
    Wants,
    /// Worker: why this is the end; text.
    End,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [Beat, Data, Offer, Piece, Welcome, Has, Wants, End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// When the other side was last heard.
#[derive(Debug)]
pub(super) struct Heard {
    start: Instant,
    millis: AtomicU64,
    is_deaf: AtomicBool,
}

impl Heard {
    fn at(start: Instant) -> Arc<Self> {
        Arc::new(Heard { start, millis: AtomicU64::new(0), is_deaf: AtomicBool::new(false) })
    }

    fn now(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn is_long_ago(&self) -> bool {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        !self.is_deaf.load(Ordering::Relaxed) && self.start.elapsed().saturating_sub(last) > SILENCE
    }

    /// Does `work`, during which nobody listens: silence proves nothing then.
    pub(super) fn while_deaf<T>(&self, work: impl FnOnce() -> T) -> T {
        self.is_deaf.store(true, Ordering::Relaxed);
        let done = work();
        self.now();
        self.is_deaf.store(false, Ordering::Relaxed);
        done
    }
}

/// A connection on which both sides have the key.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) socket: Arc<TcpStream>,
}

impl Channel {
    pub(super) fn new(socket: TcpStream, noise: StatelessTransportState) -> Self {
        let (socket, noise) = (Arc::new(socket), Arc::new(noise));
        let heard = Heard::at(Instant::now());
        let reader = Reader {
            from: BufReader::with_capacity(
                BATCH,
                Shared { socket: socket.clone(), deadline: None },
            ),
            noise: noise.clone(),
            nonce: 0,
            cipher: Vec::new(),
            plain: vec![0; MAX_MESSAGE],
            heard: heard.clone(),
            n_bytes: 0,
        };
        let writer = Writer {
            socket: socket.clone(),
            noise,
            nonce: 0,
            plain: Vec::with_capacity(MAX_MESSAGE),
            out: Vec::with_capacity(BATCH + MAX_MESSAGE),
            is_broken: false,
            heard,
            n_bytes: 0,
        };
        Channel { reader, writer, socket }
    }

    /// Sets how long either half waits, now that the handshake's deadline is past.
    pub(super) fn patient(&mut self) -> io::Result<()> {
        self.reader.from.get_mut().deadline = None;
        self.socket.set_read_timeout(Some(SILENCE))?;
        self.socket.set_write_timeout(Some(STALL))
    }

    /// Sets by when the first frame must have come, whole.
    pub(super) fn wait_for_first(&mut self, deadline: Instant) {
        self.reader.from.get_mut().deadline = Some(deadline);
    }
}

#[derive(Debug)]
struct Shared {
    socket: Arc<TcpStream>,
    /// By when all that is read must have come; a timeout of the socket's counts anew for each byte.
    deadline: Option<Instant>,
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
        }
        (&*self.socket).read(buffer)
    }
}

/// What comes in.
#[derive(Debug)]
pub(super) struct Reader {
    from: BufReader<Shared>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    cipher: Vec<u8>,
    plain: Vec<u8>,
    pub(super) heard: Arc<Heard>,
    /// Bytes on the wire so far.
    pub(super) n_bytes: u64,
}

impl Reader {
    /// The next frame, signs of life included. `None` if the other side closed the connection between two.
    pub(super) fn next(&mut self) -> io::Result<Option<(Kind, &[u8])>> {
        let mut length = [0; 2];
        match self.from.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => self.exact(Some(&mut length))?,
            Err(error) => return Err(explained(error)),
        }
        self.cipher.resize(u16::from_be_bytes(length).into(), 0);
        self.exact(None)?;
        let n = self.noise.read_message(self.nonce, &self.cipher, &mut self.plain);
        let n = n.map_err(|_| invalid("a frame was altered on its way"))?;
        self.nonce += 1;
        self.n_bytes += 2 + self.cipher.len() as u64;
        self.heard.now();
        let (&kind, body) =
            self.plain[..n].split_first().ok_or_else(|| invalid("an empty frame"))?;
        let kind = Kind::from_byte(kind).ok_or_else(|| invalid("a frame of an unknown kind"))?;
        Ok(Some((kind, body)))
    }

    /// Ends the connection so that what was written last still arrives: bytes that nobody has read when a
    /// socket is closed make the other side forget what it has not read yet.
    pub(super) fn drain(&mut self, writer: &Writer) {
        let socket = &writer.socket;
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && matches!(self.from.read(&mut self.plain), Ok(1..)) {}
        let _ = socket.shutdown(Shutdown::Both);
    }

    /// The length's second byte, or the ciphertext.
    fn exact(&mut self, length: Option<&mut [u8; 2]>) -> io::Result<()> {
        let buffer = match length {
            Some(length) => &mut length[1..],
            None => &mut self.cipher[..],
        };
        self.from.read_exact(buffer).map_err(explained)
    }
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Writer {
    socket: Arc<TcpStream>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    plain: Vec<u8>,
    out: Vec<u8>,
    /// A write has failed, perhaps within a frame: nothing that comes after it would be understood.
    is_broken: bool,
    heard: Arc<Heard>,
    /// Bytes on the wire so far.
    pub(super) n_bytes: u64,
}

impl Writer {
    /// Sends `bytes` in as many frames as it takes, each with `head` before them.
    pub(super) fn send(&mut self, kind: Kind, head: &[u8], bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return self.frame(kind, head, bytes);
        }
        for chunk in bytes.chunks(MAX_BODY - head.len()) {
            self.frame(kind, head, chunk)?;
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, head: &[u8], chunk: &[u8]) -> io::Result<()> {
        if self.is_broken {
            return Err(broken());
        }
        self.plain.clear();
        self.plain.push(kind as u8);
        self.plain.extend_from_slice(head);
        self.plain.extend_from_slice(chunk);
        let n = self.plain.len() + TAG;
        let start = self.out.len();
        self.out.extend_from_slice(&(n as u16).to_be_bytes());
        self.out.resize(start + 2 + n, 0);
        let written = self.noise.write_message(self.nonce, &self.plain, &mut self.out[start + 2..]);
        if let Err(error) = written {
            self.give_up();
            return Err(io::Error::other(error.to_string()));
        }
        self.nonce += 1;
        if self.out.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what was gathered, once: after an error nothing is written any more.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.is_broken {
            return Err(broken());
        }
        let written = self.write_all();
        if written.is_err() {
            self.give_up();
        }
        self.n_bytes += self.out.len() as u64;
        self.out.clear();
        written
    }

    fn give_up(&mut self) {
        self.is_broken = true;
        self.out.clear();
    }

    fn write_all(&self) -> io::Result<()> {
        let mut n_done = 0;
        while n_done < self.out.len() {
            match (&*self.socket).write(&self.out[n_done..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => n_done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It may be busy, and say so.
                Err(error) if is_timeout(&error) && !self.heard.is_long_ago() => {}
                Err(error) => return Err(explained(error)),
            }
        }
        Ok(())
    }

    /// Sends a sign of life.
    pub(super) fn beat(&mut self) -> io::Result<()> {
        self.frame(Kind::Beat, &[], &[])?;
        self.flush()
    }

    /// Ends the connection, both ways.
    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn broken() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "an earlier write failed")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// What a failed read or write means here.
fn explained(error: io::Error) -> io::Error {
    let text = match error.kind() {
        _ if is_timeout(&error) => format!("nothing was heard for {} s", SILENCE.as_secs()),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            CLOSED.to_owned()
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::super::handshake::{Version, initiate, respond};
    use super::super::key::Key;
    use super::*;

    /// Both ends of a connection.
    fn pair() -> (Channel, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let key = Key::from_bytes(b"a key for the tests", "a test".to_owned()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let other = key.clone();
        let far = thread::spawn(move || {
            respond(listener.accept().unwrap().0, &other, &Version::ours(), deadline).unwrap()
        });
        let socket = TcpStream::connect(address).unwrap();
        let mut near = initiate(socket, &key, &Version::ours(), deadline).unwrap();
        let mut far = far.join().unwrap();
        near.patient().unwrap();
        far.patient().unwrap();
        (near, far)
    }

    #[test]
    fn nothing_is_sent_after_a_write_that_failed() {
        let (mut near, mut far) = pair();
        // The other end was not heard for long, so that a write that stalls fails.
        near.writer.heard = Heard::at(Instant::now().checked_sub(2 * SILENCE).unwrap());
        let body = vec![7; MAX_BODY];
        let mut n_sent = 0;
        while near.writer.send(Kind::Data, &[], &body).is_ok() {
            n_sent += 1;
        }
        // Now there is room again, and whoever cleans up may flush, or give a sign of life.
        let reading = thread::spawn(move || {
            let mut n_read = 0;
            loop {
                match far.reader.next() {
                    Ok(Some((Kind::Data, body))) if body.len() == MAX_BODY => n_read += 1,
                    Ok(Some(frame)) => panic!("{:?} came", frame.0),
                    Ok(None) => return (n_read, None),
                    Err(error) => return (n_read, Some(error.to_string())),
                }
            }
        });
        thread::sleep(Duration::from_millis(300));
        assert!(near.writer.flush().is_err());
        assert!(near.writer.send(Kind::Data, &[], &body).is_err());
        assert!(near.writer.beat().is_err());
        near.socket.shutdown(Shutdown::Write).unwrap();
        let (n_read, error) = reading.join().unwrap();
        assert!(n_read <= n_sent, "{n_read} of {n_sent} frames");
        assert!(error.is_none_or(|error| error == CLOSED), "an altered frame");
    }
}
