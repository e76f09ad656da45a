//! From a running generation to a response, the same for all of this protocol's endpoints.

use std::future::ready;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures_util::{Stream, StreamExt, stream};

use crate::server::http;
use crate::server::request::{Generation, ReplyItem};

/// The pieces of a generation.
pub(super) fn items(generation: Generation) -> impl Stream<Item = ReplyItem> + Send {
    stream::unfold(generation, async |mut generation| {
        let item = generation.next().await?;
        Some((item, generation))
    })
}

/// A response that is a stream: `write` appends the events of each item.
pub(super) fn streamed<T: Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
    mut write: impl FnMut(T, &mut String) + Send + 'static,
) -> Response {
    let events = items.filter_map(move |item| {
        let mut events = String::new();
        write(item, &mut events);
        ready((!events.is_empty()).then_some(events))
    });
    http::sse(events)
}

/// A response that is one JSON text.
pub(super) fn whole(json: String) -> Response {
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
