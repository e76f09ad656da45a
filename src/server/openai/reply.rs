//! From a running generation to a response, the same for all of this protocol's endpoints.

use std::future::ready;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::{Stream, StreamExt, stream};

use crate::server::http;
use crate::server::request::{Generation, ReplyItem};

/// Bytes of the header that lists changes.
const MAX_CHANGES: usize = 1024;

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

/// Lists in a header what was altered in the request, as far as there is room.
pub(super) fn tell_changes(response: &mut Response, changes: &[String]) {
    let mut text = String::new();
    for change in changes {
        let separator = if text.is_empty() { "" } else { "; " };
        let change: String = change.chars().flat_map(printable).collect();
        if text.len() + separator.len() + change.len() > MAX_CHANGES {
            break;
        }
        text.push_str(separator);
        text.push_str(&change);
    }
    if let Ok(value) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        response.headers_mut().insert(HeaderName::from_static("x-gust-changes"), value);
    }
}

/// A character, spelt out where a header cannot have it.
fn printable(c: char) -> impl Iterator<Item = char> {
    let is_plain = c == ' ' || c.is_ascii_graphic();
    let (plain, spelt) = match is_plain {
        true => (Some(c), None),
        false => (None, Some(c.escape_unicode())),
    };
    plain.into_iter().chain(spelt.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_fit_into_a_header() {
        let told = |changes: &[&str]| {
            let mut response = Response::new(Body::empty());
            let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
            tell_changes(&mut response, &changes);
            response.headers().get("x-gust-changes").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["a: b", "c\r\nd: é"]).as_deref(), Some("a: b; c\\u{d}\\u{a}d: \\u{e9}"));
        let long = "x".repeat(600);
        assert_eq!(told(&[&long, &long]).unwrap().len(), 600);
    }
}
