//! A body becomes JSON text that is fit to be read: of bounded depth, and meaning one thing. (`http` has
//! bounded its size and its time.)
//!
//! What parsers disagree about is refused here once for all protocols, with line and column: duplicate keys,
//! halves of surrogate pairs, a byte order mark, bytes that are no UTF-8. Everything behind this sees a text
//! that every parser reads alike.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::affinity;
use super::fields::shown;
use super::queue::Place;
use crate::chat::{Fields, Node};
use crate::server::http::{ApiError, ErrorKind, RequestId};
use crate::server::{Dialect, SharedApp};

/// Nesting of a body, schemas included.
const MAX_DEPTH: usize = 64;
/// Members of one object.
const MAX_MEMBERS: usize = 1 << 14;

/// A body's text, known to be a JSON object.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
}

/// Where a request comes from: what matters of its head.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Names the request in answers and in the log: 24 hexadecimal digits.
    pub(crate) request_id: String,
    /// Its path, for the log; handlers that speak several dialects append the one they chose.
    pub(crate) protocol: String,
    /// The client's program, empty if it does not say.
    pub(crate) user_agent: String,
    /// The dialect that is asked for: by the header `x-gust-dialect`, in the query as `dialect`, or by a flag.
    pub(crate) dialect: Option<Dialect>,
    /// Requests with the same key belong together.
    pub(crate) affinity: Option<u64>,
    /// When its head was read.
    pub(crate) arrived: Instant,
    /// What its pictures have of the memory for pictures, until the last reply is written.
    pub(crate) pictures: Arc<OnceLock<OwnedSemaphorePermit>>,
    /// Its place in the queue, until its first replies take it.
    pub(crate) place: Arc<Mutex<Option<Place>>>,
}

impl Origin {
    pub(super) fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Document {
    /// Reads a body.
    pub(crate) async fn read(
        app: &SharedApp,
        request: Request,
    ) -> Result<(Self, Origin), ApiError> {
        Self::take(app, request, false).await
    }

    /// Reads the body of a request that wants replies. It has a place in the queue, or is refused, before
    /// anything is done with the body's bytes.
    pub(crate) async fn queued(
        app: &SharedApp,
        request: Request,
    ) -> Result<(Self, Origin), ApiError> {
        Self::take(app, request, true).await
    }

    async fn take(
        app: &SharedApp,
        request: Request,
        wants_replies: bool,
    ) -> Result<(Self, Origin), ApiError> {
        let (head, body) = request.into_parts();
        let id = head.extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::new);
        let mut origin = Origin {
            request_id: id.as_str().to_owned(),
            protocol: head.uri.path().to_owned(),
            user_agent: header_text(&head.headers, header::USER_AGENT.as_str()).unwrap_or_default(),
            dialect: header_text(&head.headers, "x-gust-dialect")
                .or_else(|| query_value(head.uri.query()?, "dialect"))
                .and_then(|name| dialect(&name))
                .or(app.config.dialect),
            affinity: None,
            arrived: Instant::now(),
            pictures: Arc::default(),
            place: Arc::default(),
        };
        let body = body.collect().await.map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {error}"))
        })?;
        if wants_replies {
            *origin.place() = Some(app.queue.enter(1)?);
        }
        // One piece, which this is the only one to hold, becomes a `Vec` as it is.
        let bytes = Vec::from(body.to_bytes());
        let document = Document::parse(bytes)?;
        origin.affinity = affinity::key(&head.headers, document.fields().ok().as_ref());
        Ok((document, origin))
    }

    /// Checks a body's text.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, ApiError> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
            refused(&before, at, "is not UTF-8")
        })?;
        let Some(start) = text.find(|c: char| !c.is_ascii_whitespace()) else {
            return Err(refused(&text, 0, "is empty; expected a JSON object"));
        };
        if text.starts_with('\u{feff}') {
            return Err(refused(&text, 0, "begins with a byte order mark; leave it out"));
        }
        if let Err(error) = serde_json::from_str::<&RawValue>(&text) {
            let message = format!("the body is not JSON: {error}");
            return Err(ApiError::new(ErrorKind::InvalidRequest, message));
        }
        Scan::new(&text).run()?;
        if !text[start..].starts_with('{') {
            return Err(refused(&text, start, "is no JSON object"));
        }
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

impl Origin {
    /// One that says nothing of itself.
    #[cfg(test)]
    pub(crate) fn for_tests(protocol: &str) -> Self {
        Origin {
            request_id: RequestId::new().as_str().to_owned(),
            protocol: protocol.to_owned(),
            user_agent: String::new(),
            dialect: None,
            affinity: None,
            arrived: Instant::now(),
            pictures: Arc::default(),
            place: Arc::default(),
        }
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn dialect(name: &str) -> Option<Dialect> {
    match name.to_ascii_lowercase().as_str() {
        "openai" => Some(Dialect::OpenAi),
        "mistral" => Some(Dialect::Mistral),
        _ => None,
    }
}

/// What is wrong at byte `at` of a body.
fn refused(text: &str, at: usize, problem: &str) -> ApiError {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = format!("the body {problem}, at line {line} column {column}");
    ApiError::new(ErrorKind::InvalidRequest, message)
}

/// One walk over a text that is JSON, without taking it apart.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// For each open bracket, whether it is an object's, and how many keys were open before it.
    open: Vec<(bool, usize)>,
    /// Hash and place of each key of the open objects.
    keys: Vec<(u64, usize)>,
    expects_key: bool,
    hasher: RandomState,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        let (open, keys) = (Vec::new(), Vec::new());
        Scan { text, at: 0, open, keys, expects_key: false, hasher: RandomState::new() }
    }

    fn run(mut self) -> Result<(), ApiError> {
        while let Some(&byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b'{' | b'[' => {
                    if self.open.len() == MAX_DEPTH {
                        let problem = format!("is nested more than {MAX_DEPTH} levels deep");
                        return Err(self.refused(self.at, &problem));
                    }
                    self.open.push((byte == b'{', self.keys.len()));
                    self.expects_key = byte == b'{';
                }
                b'}' | b']' => self.close()?,
                b',' => {
                    self.expects_key = self.open.last().is_some_and(|&(is_object, _)| is_object)
                }
                b'"' => self.string()?,
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ApiError> {
        self.expects_key = false;
        let Some((_, start)) = self.open.pop() else { return Ok(()) };
        let keys = &mut self.keys[start..];
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let at = pair[1].1;
            let key = shown(self.text[at + 1..].split('"').next().unwrap_or_default());
            return Err(self.refused(at, &format!("has the key \"{key}\" twice in one object")));
        }
        self.keys.truncate(start);
        Ok(())
    }

    /// Goes to the closing quote of the string that begins here.
    fn string(&mut self) -> Result<(), ApiError> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let mut has_escapes = false;
        loop {
            self.at += 1;
            match bytes[self.at] {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    self.escape()?;
                }
                _ => {}
            }
        }
        if std::mem::take(&mut self.expects_key) {
            let hash = match has_escapes {
                true => {
                    let key = serde_json::from_str(&self.text[start..=self.at]);
                    self.hasher.hash_one::<String>(key.unwrap_or_default())
                }
                false => self.hasher.hash_one(&self.text[start + 1..self.at]),
            };
            self.keys.push((hash, start));
            let first = self.open.last().map_or(0, |&(_, first)| first);
            if self.keys.len() - first > MAX_MEMBERS {
                let problem = format!("has an object of more than {MAX_MEMBERS} members");
                return Err(self.refused(start, &problem));
            }
        }
        Ok(())
    }

    /// Goes to the last byte of the escape that begins here.
    fn escape(&mut self) -> Result<(), ApiError> {
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok()
        };
        let (first, second) = (unit(self.at), unit(self.at + 6));
        let is_low = |unit: Option<u16>| matches!(unit, Some(0xdc00..=0xdfff));
        self.at += match first {
            Some(0xd800..=0xdbff) if is_low(second) => 11,
            Some(0xd800..=0xdfff) => {
                return Err(self.refused(self.at, "has half of a surrogate pair"));
            }
            Some(_) => 5,
            None => 1,
        };
        Ok(())
    }

    fn refused(&self, at: usize, problem: &str) -> ApiError {
        refused(self.text, at, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> String {
        Document::parse(body.to_vec()).unwrap_err().message
    }

    #[test]
    fn bodies_that_parsers_disagree_about_are_refused_with_their_place() {
        let nested = |n: usize| format!("{}{}", "{\"a\":".repeat(n), "[".repeat(2)).into_bytes();
        let deep = format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65));
        let wide: Vec<String> = (0..=MAX_MEMBERS).map(|i| format!("\"{i}\":0")).collect();
        let wide = format!("{{{}}}", wide.join(","));
        let cases: [(&[u8], &str); 21] = [
            (b"", "is empty; expected a JSON object, at line 1 column 1"),
            (b" \r\n", "is empty"),
            (b"null", "is no JSON object, at line 1 column 1"),
            (b"\n []", "is no JSON object, at line 2 column 2"),
            (b"0", "is no JSON object"),
            (b"{", "line 1 column 1"),
            (b"{} x", "trailing characters at line 1 column 4"),
            (b"{\"a\":NaN}", "line 1 column 6"),
            (b"\xef\xbb\xbf{}", "byte order mark; leave it out, at line 1 column 1"),
            (b"{\"\xc3\xa9\":\n\"\xff\"}", "is not UTF-8, at line 2 column 2"),
            (b"{\"a\":\"\0\"}", "line 1 column"),
            (b"\0", "line 1 column 1"),
            (b"{\"a\":1,\"a\":2}", "has the key \"a\" twice in one object, at line 1 column 8"),
            (
                b"{\"a\":1,\n\"b\":{\"c\":1,\"\\u0063\":2}}",
                "twice in one object, at line 2 column 12",
            ),
            (b"{\"a\":[{\"x\":[{}],\"x\":0}]}", "has the key \"x\" twice"),
            (br#"{"a":"\ud800"}"#, "half of a surrogate pair, at line 1 column 7"),
            (br#"{"a":"\udc00"}"#, "half of a surrogate pair"),
            (br#"{"\ud83d\u0041":0}"#, "half of a surrogate pair"),
            (deep.as_bytes(), "more than 64 levels deep"),
            (&nested(1_000_000), "not JSON"),
            (wide.as_bytes(), "more than 16384 members"),
        ];
        for (body, expected) in cases {
            let message = message(body);
            assert!(message.contains(expected), "{message}, expected {expected}");
        }
    }

    #[test]
    fn what_only_looks_like_a_fault_is_read() {
        for body in [
            r#"{"a":{"k":1},"b":{"k":1},"k":[{"k":1},{"k":1}]}"#,
            r#"{"a":"\ud83d\ude00 \\ud800 \u0000","\"":1,"\\":2}"#,
            r#" {"a":"}]{[,\"","b":["x","x"]} "#,
            &format!("{}1{}", "{\"a\":".repeat(64), "}".repeat(64)),
        ] {
            let document = Document::parse(body.as_bytes().to_vec()).unwrap();
            assert_eq!(document.text(), body);
            assert!(document.fields().is_ok());
        }
    }

    #[test]
    fn the_dialect_is_a_name_in_a_query() {
        let found = |query: &str| query_value(query, "dialect").and_then(|name| dialect(&name));
        assert_eq!(found("a=b&dialect=Mistral"), Some(Dialect::Mistral));
        assert_eq!(found("dialect=openai"), Some(Dialect::OpenAi));
        assert_eq!(found("dialects=openai&dialect=x"), None);
    }
}
