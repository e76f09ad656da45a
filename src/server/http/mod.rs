//! Sockets, limits and bytes: everything about HTTP that is the same for all protocols.
//!
//! ```text
//! listen   sockets: how many, how long they may dawdle, how they end
//!   gate     hosts, origins, keys, methods, types, sizes: what is refused before anybody reads a body
//!     routes   which handler answers
//! ```

mod changes;
mod error;
mod id;
mod routes;
mod sse;

pub(crate) use changes::tell_changes;
pub(crate) use error::{ApiError, ErrorKind};
pub(crate) use id::RequestId;
pub(crate) use sse::sse;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::Serialize;

/// An answer of JSON, status 200.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Response {
    let bytes = serde_json::to_vec(value).expect("our answers have string keys only");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
