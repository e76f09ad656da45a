//! Who may talk: versions in clear, then Noise with the shared key.
//!
//! The pattern is `NNpsk0`: both sides prove that they have the key, each connection has new keys of its own,
//! so that a key that leaks later opens no recording, and the first message is checked before the worker
//! computes or says anything. The versions are the handshake's prologue: whoever alters them on the way makes
//! it fail. snow implements Noise, with ring's ciphers (TLS would want certificates for what is one secret).
//!
//! A worker tells strangers its version at most, and that only after they said the magic word.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use snow::{Builder, HandshakeState};

use super::channel::Channel;
use super::key::Key;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// First bytes of either side.
pub(super) const MAGIC: [u8; 8] = *b"gust-rpc";
/// Counts changes of what follows the handshake, and of the graphs that ggml's server keeps.
const PROTOCOL: u16 = 2;
/// Most bytes of a hello after the magic word and its length.
const MAX_HELLO: usize = 256;
/// Bytes of either message of the handshake: a public key and a tag.
const MESSAGE: usize = 32 + 16;

/// Kinds of messages in clear.
const NOISE: u8 = 0;
const REFUSED: u8 = 1;
/// Why, in clear.
const WRONG_KEY: u8 = 1;
const TOO_MANY: u8 = 2;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The host's name means nothing.
    #[error("the address cannot be resolved: {0}")]
    Resolve(String),
    /// TCP fails.
    #[error(
        "cannot connect: {0}; is `gust worker` running there, and does a firewall let its port through?"
    )]
    Connect(#[source] io::Error),
    /// Listed more than once.
    #[error("named twice; a worker serves one client")]
    Twice,
    /// No answer in time.
    #[error("no answer in time, during the handshake")]
    Silent,
    /// The other side hung up.
    #[error("the connection was closed during the handshake")]
    Closed,
    /// Something else fails.
    #[error("the handshake failed: {0}")]
    Io(#[source] io::Error),
    /// Another protocol is spoken there.
    #[error("{0}, not gust")]
    Stranger(&'static str),
    /// Versions that would misunderstand each other.
    #[error("version mismatch: here {ours}, there {theirs}; use the same gust on both machines")]
    Version {
        /// This side's.
        ours: Box<Version>,
        /// The other side's.
        theirs: Box<Version>,
    },
    /// The keys differ.
    #[error("wrong key: both machines need the same one (--worker-key FILE or GUST_WORKER_KEY)")]
    WrongKey,
    /// The worker has no room for further handshakes.
    #[error("too many connections at once")]
    TooMany,
    /// Somebody else is being served.
    #[error("busy with {0}; a worker serves one client at a time")]
    Busy(String),
    /// What came is not what should come.
    #[error("the other side does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// ggml's part fails.
    #[error("{0}")]
    Devices(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::*;
        match error.kind() {
            WouldBlock | TimedOut => Refusal::Silent,
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Refusal::Closed,
            _ => Refusal::Io(error),
        }
    }
}

/// What has to be the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    protocol: u16,
    ggml: String,
    gust: String,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "gust {} with ggml {}, protocol {}", self.gust, self.ggml, self.protocol)
    }
}

impl Version {
    /// This program's.
    pub fn ours() -> Self {
        // What follows the commit tells of backends, which is nobody's business yet.
        let gust = env!("GUST_VERSION").split(',').next().unwrap_or_default();
        let ggml = crate::ggml::version();
        Version { protocol: PROTOCOL, ggml: ggml.to_owned(), gust: gust.to_owned() }
    }

    /// Whether the two understand each other: commits of one version do.
    fn fits(&self, other: &Version) -> bool {
        let number = |version: &Version| version.gust.split(' ').next().map(str::to_owned);
        self.protocol == other.protocol && self.ggml == other.ggml && number(self) == number(other)
    }

    /// `magic | length u16 | protocol u16 | ggml's length u8 | ggml | gust`
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let n = 2 + 1 + self.ggml.len() + self.gust.len();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((n as u16).to_be_bytes());
        bytes.extend(self.protocol.to_be_bytes());
        bytes.push(self.ggml.len() as u8);
        bytes.extend(self.ggml.as_bytes());
        bytes.extend(self.gust.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (protocol, rest) = bytes.split_first_chunk::<2>()?;
        let (&n, rest) = rest.split_first()?;
        let (ggml, gust) = rest.split_at_checked(n.into())?;
        let text = |bytes: &[u8]| super::plain(&String::from_utf8_lossy(bytes));
        Some(Version {
            protocol: u16::from_be_bytes(*protocol),
            ggml: text(ggml),
            gust: text(gust),
        })
    }
}

/// A socket that must be done by a point in time, whatever it waits for.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    fn new(socket: &'a TcpStream, deadline: Instant) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Timed { socket, deadline })
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client's half: a channel to a worker that has the key.
pub(super) fn initiate(
    socket: TcpStream,
    key: &Key,
    version: &Version,
    deadline: Instant,
) -> Result<Channel, Refusal> {
    let mut timed = Timed::new(&socket, deadline)?;
    let ours = version.to_bytes();
    timed.write_all(&ours)?;
    let (theirs, hello) = read_hello(&mut timed)?;
    check(version, theirs)?;
    let prologue = [&ours[..], &hello].concat();
    let mut noise = builder(key, &prologue)?.build_initiator().map_err(ours_failed)?;
    send(&mut timed, &mut noise)?;
    receive(&mut timed, &mut noise)?;
    channel(socket, noise)
}

/// The worker's half: a channel to a client that has the key.
pub(super) fn respond(
    socket: TcpStream,
    key: &Key,
    version: &Version,
    deadline: Instant,
) -> Result<Channel, Refusal> {
    let mut timed = Timed::new(&socket, deadline)?;
    let (theirs, hello) = read_hello(&mut timed)?;
    let ours = version.to_bytes();
    timed.write_all(&ours)?;
    check(version, theirs)?;
    let prologue = [&hello[..], &ours].concat();
    let mut noise = builder(key, &prologue)?.build_responder().map_err(ours_failed)?;
    if let Err(refusal) = receive(&mut timed, &mut noise) {
        if matches!(refusal, Refusal::WrongKey) {
            let _ = timed.write_all(&[REFUSED, 0, 1, WRONG_KEY]);
        }
        return Err(refusal);
    }
    send(&mut timed, &mut noise)?;
    channel(socket, noise)
}

/// Tells a client that there are too many, hardly hearing it.
pub(super) fn turn_away(mut socket: TcpStream, version: &Version) {
    let _ = socket.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = socket.write_all(&[&version.to_bytes()[..], &[REFUSED, 0, 1, TOO_MANY]].concat());
    // Bytes that nobody has read when a socket is closed make the other side forget the answer.
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = socket.read(&mut [0; 1024]);
}

fn builder<'a>(key: &'a Key, prologue: &'a [u8]) -> Result<Builder<'a>, Refusal> {
    let params = PATTERN.parse().map_err(ours_failed)?;
    Builder::new(params).psk(0, &key.0).and_then(|b| b.prologue(prologue)).map_err(ours_failed)
}

/// Errors of snow's that no byte of the other side causes.
fn ours_failed(error: snow::Error) -> Refusal {
    Refusal::Io(io::Error::other(error.to_string()))
}

fn channel(socket: TcpStream, noise: HandshakeState) -> Result<Channel, Refusal> {
    let noise = noise.into_stateless_transport_mode().map_err(ours_failed)?;
    Ok(Channel::new(socket, noise))
}

fn check(ours: &Version, theirs: Version) -> Result<(), Refusal> {
    match ours.fits(&theirs) {
        true => Ok(()),
        false => Err(Refusal::Version { ours: ours.clone().into(), theirs: theirs.into() }),
    }
}

/// The other side's versions, as values and as bytes.
fn read_hello(from: &mut Timed<'_>) -> Result<(Version, Vec<u8>), Refusal> {
    let mut bytes = vec![0; MAGIC.len()];
    let mut n_read = 0;
    // Stops at the first byte that is wrong: a stranger may send fewer than eight.
    while n_read < MAGIC.len() {
        match from.read(&mut bytes[n_read..])? {
            0 if n_read == 0 => return Err(Refusal::Closed),
            0 => return Err(Refusal::Stranger(spoken(&bytes[..n_read]))),
            n => n_read += n,
        }
        if bytes[..n_read] != MAGIC[..n_read] {
            return Err(Refusal::Stranger(spoken(&bytes[..n_read])));
        }
    }
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let n = usize::from(u16::from_be_bytes(length));
    if n > MAX_HELLO {
        return Err(Refusal::Protocol("an overlong hello"));
    }
    let mut body = vec![0; n];
    from.read_exact(&mut body)?;
    let version = Version::from_bytes(&body).ok_or(Refusal::Protocol("a broken hello"))?;
    bytes.extend(length);
    bytes.extend(body);
    Ok((version, bytes))
}

/// What somebody speaks who does not say the magic word.
fn spoken(bytes: &[u8]) -> &'static str {
    match bytes {
        [14, ..] => "it speaks plain ggml RPC",
        [0x16, 3, ..] => "it speaks TLS",
        [b'S', b'S', b'H', ..] => "it speaks SSH",
        [b'A'..=b'Z', b'A'..=b'Z', ..] => "it speaks HTTP or the like",
        _ => "it speaks something",
    }
}

fn send(to: &mut Timed<'_>, noise: &mut HandshakeState) -> Result<(), Refusal> {
    let mut message = [0; 3 + MESSAGE];
    let n = noise.write_message(&[], &mut message[3..]).map_err(ours_failed)?;
    message[0] = NOISE;
    message[1..3].copy_from_slice(&(n as u16).to_be_bytes());
    Ok(to.write_all(&message[..3 + n])?)
}

fn receive(from: &mut Timed<'_>, noise: &mut HandshakeState) -> Result<(), Refusal> {
    let mut head = [0; 3];
    from.read_exact(&mut head)?;
    let n = usize::from(u16::from_be_bytes([head[1], head[2]]));
    let mut message = [0; MESSAGE];
    let message = message.get_mut(..n).ok_or(Refusal::Protocol("an overlong message"))?;
    from.read_exact(message)?;
    match (head[0], &message) {
        (NOISE, message) if message.len() == MESSAGE => {
            noise.read_message(message, &mut []).map_err(|_| Refusal::WrongKey)?;
            Ok(())
        }
        (REFUSED, [WRONG_KEY]) => Err(Refusal::WrongKey),
        (REFUSED, [TOO_MANY]) => Err(Refusal::TooMany),
        _ => Err(Refusal::Protocol("an unknown message")),
    }
}
