//! Streams of events: headers at once, a comment when nothing else comes, nothing held back.
//!
//! The comment keeps proxies and clients with idle timers patient while a long prompt is computed, and makes
//! the socket tell when nobody reads any more. There is no buffer: hyper asks for the next event when it has
//! room for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep};

/// Silence after which a comment is sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer that is a stream of events. Each item is one or several whole events with their blank lines.
pub(crate) fn sse(events: impl Stream<Item = String> + Send + 'static) -> Response {
    let events =
        Pinged { events: Box::pin(events), silence: Box::pin(sleep(PATIENCE)), is_over: false };
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Keeps nginx from collecting events.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Events with comments between them.
struct Pinged<S> {
    events: Pin<Box<S>>,
    silence: Pin<Box<Sleep>>,
    is_over: bool,
}

impl<S: Stream<Item = String>> Stream for Pinged<S> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let bytes = match self.events.as_mut().poll_next(cx) {
            Poll::Ready(Some(event)) => Bytes::from(event),
            Poll::Ready(None) => {
                self.is_over = true;
                return Poll::Ready(None);
            }
            Poll::Pending if self.silence.as_mut().poll(cx).is_ready() => {
                Bytes::from_static(b": ping\n\n")
            }
            Poll::Pending => return Poll::Pending,
        };
        self.silence.as_mut().reset(Instant::now() + PATIENCE);
        Poll::Ready(Some(Ok(bytes)))
    }
}
