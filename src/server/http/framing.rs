//! Where each request of a connection begins and ends, looked at before hyper sees it.
//!
//! hyper takes all that a server may take: a length beside chunks, one length twice, lines that end in a line
//! feed alone. A proxy in front may cut such a stream elsewhere, and then somebody gets an answer to what
//! somebody else has sent. So every head is first read here, by the parser that hyper has as well, and what
//! could be cut in two ways ends the connection.
//!
//! hyper answers what it cannot read with a status and no body. It never gets that far: in the place of a head
//! at fault it is given a request that says nothing, and the gate answers that with the fault.

use std::io;

use axum::http::Uri;
use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Status, parse_chunk_size};

use super::{ApiError, ErrorKind};

/// Most bytes of a head, and most fields.
pub(super) const MAX_HEAD: usize = 16 << 10;
pub(super) const MAX_FIELDS: usize = 64;
/// Most bytes of an address with its query.
pub(super) const MAX_URI: usize = 8 << 10;
/// What hyper gets in the place of a head at fault.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// The bytes of one connection, cut into requests.
#[derive(Debug)]
pub(super) struct Framing {
    /// What was read and not yet handed on.
    bytes: BytesMut,
    /// Bytes that may be handed on before something has to be looked at.
    n_open: u64,
    /// What begins then.
    next: Part,
    /// Bytes of it that were looked at and are too few.
    n_seen: usize,
    /// Most bytes of a body.
    n_max: u64,
    fault: Option<ApiError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// The line before a chunk, or before the end.
    Chunk,
    /// The empty line after the last chunk.
    End,
}

impl Framing {
    /// A connection whose requests have bodies of at most `n_max` bytes.
    pub(super) fn new(n_max: usize) -> Self {
        let n_max = u64::try_from(n_max).unwrap_or(u64::MAX);
        Self { bytes: BytesMut::new(), n_open: 0, next: Part::Head, n_seen: 0, n_max, fault: None }
    }

    /// Takes what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next bytes to hand on, at most `n_max` and never of two requests; none where more have to come
    /// first. A body at fault is an error, a head at fault is [`Framing::fault`].
    pub(super) fn pop(&mut self, n_max: usize) -> io::Result<BytesMut> {
        if self.n_open == 0 && self.fault.is_none() && !self.bytes.is_empty() {
            self.look()?;
        }
        let n_open = usize::try_from(self.n_open).unwrap_or(usize::MAX);
        let n = n_open.min(n_max).min(self.bytes.len());
        self.n_open -= n as u64;
        Ok(self.bytes.split_to(n))
    }

    /// What is wrong with the head whose stand-in was handed on. Nothing follows that.
    pub(super) fn fault(&self) -> Option<&ApiError> {
        self.fault.as_ref()
    }

    /// Looks at what begins here, and opens it if all of it is there.
    fn look(&mut self) -> io::Result<()> {
        let n_seen = std::mem::replace(&mut self.n_seen, self.bytes.len());
        let is_long = self.bytes.len() > MAX_HEAD;
        // A head that comes byte by byte is not read again with each.
        if n_seen > 0 && !is_long && !self.bytes[n_seen..].contains(&b'\n') {
            return Ok(());
        }
        let found = match self.next {
            Part::Head => match head(&self.bytes) {
                Ok(found) => found,
                Err(fault) => {
                    self.fault = Some(fault);
                    self.bytes = BytesMut::from(STAND_IN);
                    Some((STAND_IN.len() as u64, Part::Head))
                }
            },
            Part::Chunk => self.chunk()?,
            Part::End => self.end()?,
        };
        match found {
            Some((n_open, next)) => {
                (self.n_open, self.next, self.n_seen) = (n_open, next, 0);
                Ok(())
            }
            None if is_long => Err(io::Error::new(io::ErrorKind::InvalidData, "a line has no end")),
            None => Ok(()),
        }
    }

    fn chunk(&self) -> io::Result<Option<(u64, Part)>> {
        let refused = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        match parse_chunk_size(&self.bytes) {
            Ok(Status::Partial) => Ok(None),
            Ok(Status::Complete((n_line, _))) if !is_plain(&self.bytes[..n_line]) => {
                refused("a chunk has no size, or a line feed alone".into())
            }
            Ok(Status::Complete((n_line, 0))) => Ok(Some((n_line as u64, Part::End))),
            // Whoever announces more than is taken need not be waited for.
            Ok(Status::Complete((_, n))) if n > self.n_max => {
                Err(io::Error::new(io::ErrorKind::FileTooLarge, "a chunk is too large"))
            }
            Ok(Status::Complete((n_line, n))) => Ok(Some((n_line as u64 + n + 2, Part::Chunk))),
            Err(error) => refused(error.to_string()),
        }
    }

    /// Fields after the last chunk mean nothing to anybody here, so there may be none.
    fn end(&self) -> io::Result<Option<(u64, Part)>> {
        match &self.bytes[..] {
            [b'\r', b'\n', ..] => Ok(Some((2, Part::Head))),
            [b'\r'] => Ok(None),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "there are trailers")),
        }
    }
}

/// Whether the line of a chunk begins with a digit and is one line: its parser takes more.
fn is_plain(line: &[u8]) -> bool {
    line.first().is_some_and(u8::is_ascii_hexdigit)
        && line.iter().filter(|&&byte| byte == b'\n').count() == 1
}

/// Bytes of a head and of a body of known length, and what begins behind; `None` where the head goes on.
fn head(bytes: &[u8]) -> Result<Option<(u64, Part)>, ApiError> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let n = match head.parse(bytes).map_err(unreadable)? {
        Status::Complete(n) if n <= MAX_HEAD => n,
        Status::Partial if bytes.len() <= MAX_HEAD => return Ok(None),
        _ => return Err(too_long(bytes)),
    };
    let refused = |message: String| Err(ApiError::new(ErrorKind::InvalidRequest, message));
    if bytes[..n].split_inclusive(|&byte| byte == b'\n').any(|line| !line.ends_with(b"\r\n")) {
        return refused("a line of the head ends in a line feed without a carriage return".into());
    }
    if let Err(error) = head.path.unwrap_or_default().parse::<Uri>() {
        return refused(format!("the address is no URI: {error}"));
    }
    let values = |name: &str| -> Vec<&[u8]> {
        let named = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some((n as u64, Part::Head))),
        ([length], []) => match number(length) {
            Some(n_body) => Ok(Some((n as u64 + n_body, Part::Head))),
            None => refused("Content-Length: expected one number of bytes".into()),
        },
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && head.version == Some(1) => {
            Ok(Some((n as u64, Part::Chunk)))
        }
        ([], _) => refused("Transfer-Encoding: expected \"chunked\", once, in HTTP/1.1".into()),
        (_, []) => refused("Content-Length: expected one, found several".into()),
        _ => refused("Content-Length and Transfer-Encoding: expected one of them".into()),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // Rust would take a sign as well.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten().filter(|&n| n <= u64::MAX / 2)
}

fn unreadable(error: httparse::Error) -> ApiError {
    match error {
        httparse::Error::TooManyHeaders => {
            let message = format!("the head has more than {MAX_FIELDS} fields");
            ApiError::new(ErrorKind::HeadTooLarge, message)
        }
        error => {
            let message = format!("this is no request of HTTP/1.1: {error}");
            ApiError::new(ErrorKind::InvalidRequest, message)
        }
    }
}

fn too_long(bytes: &[u8]) -> ApiError {
    let n_line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    match n_line > MAX_URI {
        true => {
            let message = format!("the address is too long: at most {MAX_URI} bytes are taken");
            ApiError::new(ErrorKind::UriTooLong, message)
        }
        false => {
            let message = format!("the head is too large: at most {MAX_HEAD} bytes are taken");
            ApiError::new(ErrorKind::HeadTooLarge, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is handed on of `bytes` that come in pieces of `n` bytes, as the requests and what is at fault.
    fn cut(bytes: &[u8], n: usize) -> (Vec<Vec<u8>>, Option<u16>, bool) {
        let mut framing = Framing::new(1000);
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut begins = true;
        for piece in bytes.chunks(n) {
            framing.push(piece);
            loop {
                match framing.pop(7) {
                    Ok(popped) if popped.is_empty() => break,
                    Ok(popped) if std::mem::take(&mut begins) => pieces.push(popped.to_vec()),
                    Ok(popped) => pieces.last_mut().unwrap().extend(popped),
                    Err(_) => return (pieces, None, true),
                }
                begins = framing.n_open == 0 && framing.next == Part::Head;
            }
        }
        (pieces, framing.fault().map(|fault| fault.status().as_u16()), false)
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[test]
    fn requests_are_cut_as_they_were_meant() {
        let posts = [
            "POST / HTTP/1.1\r\ncontent-length: 21\r\n\r\nGET / HTTP/1.1\r\nx: \r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked\r\n\r\n5;x=y\r\n\r\n\r\n0\r\n0A \r\n0123456789\r\n0\r\n\r\n",
            "\r\nPOST / HTTP/1.0\r\nCONTENT-LENGTH: 0\r\n\r\n",
        ];
        let sent = [GET, posts[0], GET, posts[1], posts[1], posts[2], GET];
        for n in [1, 2, 3, 10, 1000] {
            let (requests, fault, is_broken) = cut(sent.concat().as_bytes(), n);
            assert_eq!((fault, is_broken), (None, false), "{n}");
            assert_eq!(requests, sent.map(|request| request.as_bytes().to_vec()), "{n}");
        }
    }

    #[test]
    fn heads_at_fault_are_answered_in_their_turn() {
        let long = |name: &str, n: usize| format!("{name}: {}\r\n", "x".repeat(n));
        for (fields, status) in [
            ("content-length: 1\r\ncontent-length: 1\r\n", 400),
            ("content-length: 1, 1\r\n", 400),
            ("content-length: +1\r\n", 400),
            ("content-length: \r\n", 400),
            ("content-length: 99999999999999999999\r\n", 400),
            ("content-length: 18446744073709551615\r\n", 400),
            ("content-length: 0\r\ntransfer-encoding: chunked\r\n", 400),
            ("transfer-encoding: chunked\r\ncontent-length: 0\r\n", 400),
            ("transfer-encoding: chunked, chunked\r\n", 400),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
            ("transfer-encoding: gzip, chunked\r\n", 400),
            ("transfer-encoding: xchunked\r\n", 400),
            ("transfer-encoding:\r\n", 400),
            ("x: 1\n", 400),
            ("x: 1\r\n folded\r\n", 400),
            ("x : 1\r\n", 400),
            (&long("x", MAX_HEAD), 431),
            (&"x: 1\r\n".repeat(MAX_FIELDS + 1), 431),
        ] {
            let sent = format!("{GET}POST / HTTP/1.1\r\n{fields}\r\n{GET}");
            for n in [1, 100, 100_000] {
                let (requests, fault, is_broken) = cut(sent.as_bytes(), n);
                assert_eq!((fault, is_broken), (Some(status), false), "{fields:?}");
                assert_eq!(requests, [GET.as_bytes(), STAND_IN], "{fields:?}");
            }
        }
        for (line, status) in [
            ("GET / HTTP/1.1\n", 400),
            ("GET /\r\n", 400),
            ("GET a/b HTTP/1.1\r\n", 400),
            ("\x16\x03\x01", 400),
            (&"\r\n".repeat(MAX_HEAD), 431),
            (&format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD)), 414),
        ] {
            let (requests, fault, _) = cut(format!("{line}\r\n").as_bytes(), 1);
            assert_eq!((requests.as_slice(), fault), (&[STAND_IN.to_vec()][..], Some(status)));
        }
        assert_eq!(cut(format!("{}\r\n", "x".repeat(64)).as_bytes(), 1).1, Some(400));
    }

    #[test]
    fn chunks_at_fault_break_the_body_off() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for chunks in [
            "-2\r\n",
            "x\r\n",
            "3e9\r\n",
            "ffffffffffffffff\r\n",
            "fffffffffffffffff\r\n",
            "1\r\nx\r\n0\r\nx: 1\r\n\r\n",
            &format!("1;{}", "x".repeat(MAX_HEAD)),
        ] {
            let (requests, fault, is_broken) = cut(format!("{head}{chunks}").as_bytes(), 5);
            assert_eq!((requests.len(), fault, is_broken), (1, None, true), "{chunks:?}");
        }
        let (_, fault, is_broken) = cut(format!("{head}3e8\r\n").as_bytes(), 5);
        assert_eq!((fault, is_broken), (None, false));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_same(
            text in r"((GET|POST) / HTTP/1.1\r\n|content-length: [0-9]\r\n|transfer-encoding: chunked\r\n|\r\n|[0-9a]|.){0,20}",
            n in 1usize..9,
        ) {
            // Without the line's end a fault may be seen earlier where more of the line comes at once.
            let text = format!("{text}\r\n");
            prop_assert_eq!(cut(text.as_bytes(), n), cut(text.as_bytes(), usize::MAX));
        }
    }
}
