//! Sockets, limits and bytes: everything about HTTP that is the same for all protocols.
//!
//! ```text
//! listen   sockets: how many, how long they may dawdle, how they end
//!   framing  where each request begins and ends
//!   gate     hosts, origins, keys, methods, types, sizes: what is refused before anybody reads a body
//!     routes   which handler answers
//! ```

mod access;
mod body;
mod changes;
mod error;
mod framing;
mod gate;
mod id;
mod listen;
mod models;
mod routes;
mod socket;
mod sse;
mod status;
mod tokens;

pub(crate) use access::{Access, Keys};
pub(crate) use changes::tell_changes;
pub(crate) use error::{ApiError, ErrorKind};
pub(crate) use id::RequestId;
pub(crate) use listen::{bind, most_connections, serve};
pub(crate) use sse::sse;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::Serialize;

/// What stands between the sockets and the handlers.
#[derive(Debug)]
pub(crate) struct Front {
    /// Who may ask.
    access: Access,
    /// Room for bodies.
    bodies: body::BodyRoom,
    /// Connections that are open.
    pub(crate) connections: listen::Connections,
    /// Answers by route and status.
    requests: status::Requests,
}

impl Front {
    /// A front for at most so many connections, and bodies of at most so many bytes.
    pub(crate) fn new(access: Access, n_connections: usize, n_body: usize) -> Self {
        Self {
            access,
            bodies: body::BodyRoom::new(n_body),
            connections: listen::Connections::new(n_connections),
            requests: status::Requests::default(),
        }
    }
}

/// An answer of JSON, status 200.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Response {
    let bytes = serde_json::to_vec(value).expect("our answers have string keys only");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The status of the answer to a body that the gate has let through, and the answer.
#[cfg(fuzzing)]
pub(crate) async fn answer_to_body(
    app: super::SharedApp,
    path: &str,
    body: &[u8],
) -> Option<(u16, Vec<u8>)> {
    use http_body_util::BodyExt;

    let route = routes::Route::of(path).filter(|route| route.takes_body())?;
    let request = axum::http::Request::post(path).body(Body::from(body.to_vec())).ok()?;
    let (head, body) = routes::answer(route, app, request).await.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((head.status.as_u16(), body.to_vec()))
}
