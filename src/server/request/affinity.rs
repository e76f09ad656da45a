//! Which requests belong together, as far as clients say so.
//!
//! A key is a hint for keeping what a conversation will need again; nobody is let in or kept out by it. It
//! is hashed with a key of this process, so that neither log nor runner learns the client's text.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use axum::http::HeaderMap;

use crate::chat::Fields;

/// Headers that name a session, the most telling first.
const HEADERS: [&str; 4] =
    ["x-affinity", "x-session-affinity", "x-session-id", "x-conversation-id"];

/// The key of a request; `None` if it names no session.
pub(super) fn key(headers: &HeaderMap, fields: Option<&Fields<'_>>) -> Option<u64> {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let header = |name: &str| {
        let value = headers.get(name)?.as_bytes();
        (!value.is_empty()).then(|| value.to_vec())
    };
    let member = |fields: Option<&Fields<'_>>, name: &str| {
        let text = fields?.get(name)?.text().ok()?;
        (!text.is_empty()).then(|| text.into_bytes())
    };
    let anthropic = || member(fields?.get("metadata")?.fields().ok().as_ref(), "user_id");
    let name = HEADERS
        .iter()
        .find_map(|name| header(name))
        .or_else(|| member(fields, "prompt_cache_key"))
        .or_else(|| header("x-openwebui-chat-id"))
        .or_else(|| member(fields, "user"))
        .or_else(anthropic)?;
    Some(HASHER.hash_one(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Node;

    fn key_of(headers: &[(&'static str, &str)], body: &str) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| {
            (axum::http::HeaderName::from_static(name), value.parse().unwrap())
        });
        key(&headers.collect(), Some(&Node::root(body).unwrap().fields().unwrap()))
    }

    #[test]
    fn the_most_telling_name_of_a_session_decides() {
        let body = r#"{"prompt_cache_key": "b", "user": "u", "metadata": {"user_id": "m"}}"#;
        let all = [
            ("x-affinity", "1"),
            ("x-session-affinity", "2"),
            ("x-session-id", "3"),
            ("x-conversation-id", "4"),
        ];
        let alone = |name: &str| key_of(&[("x-affinity", name)], "{}");
        for (i, (_, name)) in all.iter().enumerate() {
            assert_eq!(key_of(&all[i..], body), alone(name));
        }
        let chat = [("x-openwebui-chat-id", "5")];
        assert_eq!(key_of(&chat, body), alone("b"));
        assert_eq!(key_of(&chat, r#"{"user": "u"}"#), alone("5"));
        assert_eq!(key_of(&[], r#"{"user": "u", "metadata": {"user_id": "m"}}"#), alone("u"));
        assert_eq!(key_of(&[], r#"{"metadata": {"user_id": "m"}}"#), alone("m"));
        assert_eq!(key_of(&[("x-affinity", "")], r#"{"user": 5, "metadata": 7}"#), None);
    }
}
