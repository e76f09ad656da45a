//! A body becomes JSON text that is fit to be read: whole, in time, of bounded depth, and meaning one thing.
//!
//! What parsers disagree about is refused here once for all protocols, with line and column: duplicate keys,
//! halves of surrogate pairs, a byte order mark, bytes that are no UTF-8. Everything behind this sees a text
//! that every parser reads alike.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::affinity;
use crate::chat::{Fields, Node};
use crate::server::SharedApp;
use crate::server::http::{ApiError, ErrorKind};

/// Bytes of one body: some large pictures and a full context of text.
const MAX_BODY_BYTES: usize = 64 << 20;
/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Nesting of a body, schemas included.
const MAX_DEPTH: usize = 64;
/// Members of one object.
const MAX_MEMBERS: usize = 1 << 14;

/// A body's text, known to be one JSON value.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
}

/// Where a request comes from: what matters of its head.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Names the request in answers and in the log.
    pub(crate) request_id: String,
    /// Its path; handlers that speak several dialects append the one they chose.
    pub(crate) protocol: String,
    /// The client's program, empty if it does not say.
    pub(crate) user_agent: String,
    /// The dialect that the client asks for, by the header `x-gust-dialect` or in the query as `dialect`.
    pub(crate) dialect_hint: Option<String>,
    /// Requests with the same key belong together.
    pub(crate) affinity: Option<u64>,
    /// When its head was read.
    pub(crate) arrived: Instant,
}

impl Document {
    /// Reads a body.
    pub(crate) async fn read(
        _app: &SharedApp,
        request: Request,
    ) -> Result<(Self, Origin), ApiError> {
        let (head, body) = request.into_parts();
        let mut origin = Origin {
            request_id: super::random_id("req_"),
            protocol: head.uri.path().to_owned(),
            user_agent: header_text(&head.headers, header::USER_AGENT.as_str()).unwrap_or_default(),
            dialect_hint: header_text(&head.headers, "x-gust-dialect")
                .or_else(|| query_value(head.uri.query()?, "dialect")),
            affinity: None,
            arrived: Instant::now(),
        };
        let n_bytes = header_text(&head.headers, header::CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse::<usize>().ok());
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, collect(body, n_bytes)).await {
            Ok(bytes) => bytes?,
            Err(_) => {
                let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
                return Err(ApiError::new(ErrorKind::Timeout, message));
            }
        };
        let document = Document::parse(bytes)?;
        origin.affinity = affinity::key(&head.headers, document.fields().ok().as_ref());
        Ok((document, origin))
    }

    /// Checks a body's text.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, ApiError> {
        let _ = (MAX_DEPTH, MAX_MEMBERS);
        let text = String::from_utf8(bytes)
            .map_err(|error| ApiError::new(ErrorKind::InvalidRequest, error.to_string()))?;
        Node::root(&text)?;
        Ok(Document { text })
    }

    /// The members of the object that the body is.
    pub(crate) fn fields(&self) -> Result<Fields<'_>, ApiError> {
        Ok(Node::root(&self.text)?.fields()?)
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

async fn collect(mut body: Body, n_bytes: Option<usize>) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body has more than {MAX_BODY_BYTES} bytes");
        ApiError::new(ErrorKind::TooLarge, message)
    };
    if n_bytes.is_some_and(|n| n > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {error}"))
        })?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > MAX_BODY_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}
