//! Bodies, read whole before anybody looks at them, within bounds of size, time and memory.
//!
//! Memory is bounded over all requests together: a body's bytes are reserved before they are read and given
//! back when its request is answered.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, ErrorKind};

/// From the end of a head to the end of its body.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What reservations are counted in, in bytes.
const UNIT: usize = 4096;
/// Bodies of full size for which there is room at once.
const N_FULL: usize = 8;

/// Room for bodies.
#[derive(Debug)]
pub(crate) struct BodyRoom {
    units: Arc<Semaphore>,
    /// Most bytes of one body.
    n_max: usize,
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Room(Option<OwnedSemaphorePermit>);

impl BodyRoom {
    /// Room for some bodies of `n_max` bytes, and many that are smaller.
    pub(crate) fn new(n_max: usize) -> Self {
        let units = n_max.div_ceil(UNIT).max(1).saturating_mul(N_FULL);
        Self { units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))), n_max }
    }

    /// Refuses by its head what need not be read.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let fault = |message: &str| Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(content_type), None) = (types.next(), types.next()) else {
            return fault("expected one header Content-Type: application/json");
        };
        if !is_json(content_type.to_str().unwrap_or_default()) {
            return fault("expected Content-Type: application/json in UTF-8");
        }
        for encoding in headers.get_all(CONTENT_ENCODING) {
            if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
                return fault("compressed bodies are not taken: expected no Content-Encoding");
            }
        }
        match content_length(headers) {
            Some(n) if n > self.n_max as u64 => Err(self.too_large()),
            _ => Ok(()),
        }
    }

    /// Reads a body whose head was checked. Room is made for what has come, not for what is announced:
    /// announcing costs nothing.
    pub(super) async fn read(&self, body: Incoming) -> Result<(Bytes, Room), ApiError> {
        match tokio::time::timeout(TIMEOUT, self.collect(body)).await {
            Ok(read) => read,
            Err(_) => {
                let message = format!("the body did not come within {} s", TIMEOUT.as_secs());
                Err(ApiError::new(ErrorKind::Timeout, message))
            }
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<(Bytes, Room), ApiError> {
        let mut room = Room(None);
        let mut n_reserved = 0;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > self.n_max - bytes.len() {
                return Err(self.too_large());
            }
            self.reserve(&mut room, &mut n_reserved, bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.freeze(), room))
    }

    /// Makes room for `n` bytes altogether.
    fn reserve(&self, room: &mut Room, n_reserved: &mut usize, n: usize) -> Result<(), ApiError> {
        let n_units = n.div_ceil(UNIT);
        let more = n_units.saturating_sub(*n_reserved);
        let more_units = u32::try_from(more).map_err(|_| self.too_large())?;
        if more == 0 {
            return Ok(());
        }
        let permit = self.units.clone().try_acquire_many_owned(more_units).map_err(|_| {
            let kind = ErrorKind::Overloaded { retry_after_s: 1 };
            ApiError::new(kind, "too many large requests at once; try again")
        })?;
        match &mut room.0 {
            Some(held) => held.merge(permit),
            held => *held = Some(permit),
        }
        *n_reserved = n_units;
        Ok(())
    }

    fn broken(&self, error: &hyper::Error) -> ApiError {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        let message = match cause {
            Some(cause) if cause.kind() == io::ErrorKind::FileTooLarge => return self.too_large(),
            Some(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => {
                format!("the body is badly framed: {cause}")
            }
            _ => "the body is cut off".to_owned(),
        };
        ApiError::new(ErrorKind::InvalidRequest, message)
    }

    fn too_large(&self) -> ApiError {
        let message =
            format!("the body is too large: at most {} bytes are taken (--max-body)", self.n_max);
        ApiError::new(ErrorKind::TooLarge, message)
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a content type is JSON in UTF-8.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                matches!(value.trim_matches('"').to_ascii_lowercase().as_str(), "utf-8" | "utf8")
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn heads_tell_what_need_not_be_read() {
        let room = BodyRoom::new(1000);
        let json = ("content-type", "application/json");
        for (headers, expected) in [
            (vec![json], 200),
            (vec![("content-type", "Application/JSON; charset=\"UTF-8\"")], 200),
            (vec![json, ("content-encoding", "identity"), ("content-length", "1000")], 200),
            (vec![], 415),
            (vec![json, json], 415),
            (vec![("content-type", "text/plain")], 415),
            (vec![("content-type", "application/json, text/plain")], 415),
            (vec![("content-type", "application/jsonl")], 415),
            (vec![("content-type", "application/json; charset=utf-16")], 415),
            (vec![("content-type", "multipart/form-data; boundary=x")], 415),
            (vec![json, ("content-encoding", "gzip")], 415),
            (vec![json, ("content-encoding", "identity"), ("content-encoding", "br")], 415),
            (vec![json, ("content-length", "1001")], 413),
            (vec![json, ("content-length", "1000000000000000000")], 413),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let found = room.check(&map).map_or_else(|error| error.status().as_u16(), |()| 200);
            assert_eq!(found, expected, "{headers:?}");
        }
    }

    #[test]
    fn room_is_reserved_and_given_back() {
        let room = BodyRoom::new(10 * UNIT);
        let mut held = Vec::new();
        for _ in 0..N_FULL {
            let (mut one, mut n) = (Room(None), 0);
            room.reserve(&mut one, &mut n, 3 * UNIT).unwrap();
            room.reserve(&mut one, &mut n, 10 * UNIT).unwrap();
            held.push(one);
        }
        let (mut late, mut n) = (Room(None), 0);
        let refused = room.reserve(&mut late, &mut n, 1).unwrap_err();
        assert_eq!(refused.status().as_u16(), 429);
        held.pop();
        room.reserve(&mut late, &mut n, 1).unwrap();
    }
}
