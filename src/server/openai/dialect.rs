//! Which of two ways of writing a chat completion a client reads.
//!
//! OpenAI's clients have the reasoning beside the content and the usage in a chunk of its own; several of
//! them fail on content that is a list. Mistral's have the reasoning as chunks of the content and the usage
//! in the last choice's chunk; several of them fail on a chunk without a choice. The request shows which it
//! is: no setting has to be made.

use crate::chat::{Fields, Node};
use crate::server::Dialect;
use crate::server::http::ApiError;
use crate::server::request::{ChatExtras, Origin};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// The dialect.
    pub(super) dialect: Dialect,
    /// Whether a tool call is sent in one piece instead of as it is generated.
    pub(super) whole_calls: bool,
}

/// Chooses: what is asked for outright, then what the client looks like.
pub(super) fn choose(origin: &Origin, extras: &ChatExtras, body: &Fields<'_>) -> Manner {
    let dialect = match origin.dialect {
        Some(dialect) => dialect,
        None if extras.stream_tool_calls => Dialect::Mistral,
        None if is_mistral_agent(&origin.user_agent) => Dialect::Mistral,
        None if has_thinking_chunks(body) => Dialect::Mistral,
        None if is_ai_sdk_mistral(&origin.user_agent, body) => Dialect::Mistral,
        None => Dialect::OpenAi,
    };
    // langchain-mistralai has no name of its own. It gives each piece of its first call that comes without
    // an id a new one, and then takes the pieces for calls of their own; so it gets no pieces.
    let is_bare = origin.user_agent.starts_with("python-httpx/");
    let whole_calls = is_bare && body.get("stream_options").is_none();
    Manner { dialect, whole_calls }
}

/// What a fault that is found in a body becomes. Mistral's own client has a type of its own for those, and looks
/// for it under a status that other clients do not expect.
pub(super) fn unread(error: ApiError, origin: &Origin) -> ApiError {
    let agent = &origin.user_agent;
    // Vibe puts its name behind the package's, and expects a 400 all the same.
    let is_vibe = agent.to_ascii_lowercase().contains("mistral-vibe");
    match origin.dialect != Some(Dialect::OpenAi) && is_mistral_client(agent) && !is_vibe {
        true => error.for_mistral(),
        false => error,
    }
}

fn is_mistral_agent(user_agent: &str) -> bool {
    let agent = user_agent.to_ascii_lowercase();
    let names = ["mistral-vibe", "ai-sdk/mistral"];
    names.iter().any(|name| agent.contains(name)) || is_mistral_client(user_agent)
}

/// Whether this is `mistralai`, in any of its languages.
fn is_mistral_client(user_agent: &str) -> bool {
    let agent = user_agent.to_ascii_lowercase();
    // Speakeasy generates clients for others too; Mistral's name their package.
    agent.contains("mistral-client-python")
        || (agent.contains("speakeasy-sdk/") && agent.contains("mistral"))
}

/// Whether this is `@ai-sdk/mistral`, whose agent is that of all providers of its family. It alone sends a text
/// of the user as a list of one, and pictures as bare strings.
fn is_ai_sdk_mistral(user_agent: &str, body: &Fields<'_>) -> bool {
    if !user_agent.contains("ai-sdk-provider-utils/") {
        return false;
    }
    let is_its_own = |message: &Node<'_>| {
        let Ok(message) = message.fields() else { return false };
        let Some(Ok(chunks)) = message.get("content").map(|content| content.items()) else {
            return false;
        };
        let is_user = message.text("role").is_ok_and(|role| role.as_deref() == Some("user"));
        let has_bare_picture = || {
            chunks
                .iter()
                .filter_map(|chunk| chunk.fields().ok())
                .any(|chunk| chunk.text("image_url").is_ok_and(|url| url.is_some()))
        };
        is_user && (chunks.len() == 1 || has_bare_picture())
    };
    let messages = body.get("messages").and_then(|messages| messages.items().ok());
    messages.is_some_and(|messages| messages.iter().any(is_its_own))
}

/// Whether the model's own words were sent back as this dialect writes them. Faults are left to the reader
/// of conversations.
fn has_thinking_chunks(body: &Fields<'_>) -> bool {
    let messages = body.get("messages").and_then(|messages| messages.items().ok());
    messages.is_some_and(|messages| messages.iter().any(has_thinking_chunk))
}

fn has_thinking_chunk(message: &Node<'_>) -> bool {
    // Most messages are texts, and histories are long.
    if !message.raw().contains("thinking") {
        return false;
    }
    let Ok(message) = message.fields() else { return false };
    let chunks = message.get("content").and_then(|content| content.items().ok());
    let is_thinking = |chunk: &Node<'_>| {
        chunk.fields().and_then(|chunk| chunk.kind()).is_ok_and(|kind| kind == "thinking")
    };
    chunks.is_some_and(|chunks| chunks.iter().any(is_thinking))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(user_agent: &str) -> Origin {
        let mut origin = Origin::for_tests("chat");
        origin.user_agent = user_agent.to_owned();
        origin
    }

    fn manner(origin: &Origin, body: &str) -> Manner {
        let fields = Node::root(body).unwrap().fields().unwrap();
        choose(origin, &ChatExtras::of(&fields).unwrap(), &fields)
    }

    #[test]
    fn the_dialect_follows_from_the_request() {
        const VIBE: &str =
            r#"{"stream_options": {"include_usage": true, "stream_tool_calls": true}}"#;
        const USAGE: &str = r#"{"stream_options": {"include_usage": true}}"#;
        const THOUGHT: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant",
            "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}]}]}"#;
        const NO_THOUGHT: &str = r#"{"messages": [{"role": "user", "content": "thinking"},
            {"role": "assistant", "content": "", "reasoning_content": "thinking"}]}"#;
        const LISTED: &str =
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}"#;
        const BARE: &str = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
            {"type": "image_url", "image_url": "data:"}]}]}"#;
        const PICTURE: &str = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "data:"}}]}]}"#;
        let ai_sdk = "ai/7.0.173 ai-sdk-provider-utils/5.0.81 node.js/v20.20.2";
        let mistralai = "speakeasy-sdk/python 3.7.0 2.935.1 1.0.0 mistralai";
        for (agent, body, dialect, whole_calls) in [
            ("", "{}", Dialect::OpenAi, false),
            ("OpenAI/Python 3.51.0", USAGE, Dialect::OpenAi, false),
            ("python-httpx/0.28.1", VIBE, Dialect::Mistral, false),
            ("python-httpx/0.28.1", USAGE, Dialect::OpenAi, false),
            ("python-httpx/0.28.1", "{}", Dialect::OpenAi, true),
            ("Mistral-Vibe/3.0.3", USAGE, Dialect::Mistral, false),
            ("mistral-client-python/1.9.1", "{}", Dialect::Mistral, false),
            (mistralai, "{}", Dialect::Mistral, false),
            ("speakeasy-sdk/typescript 1.0 @openrouter/sdk", "{}", Dialect::OpenAi, false),
            ("ai/6.0 ai-sdk/mistral/4.0.87 runtime/node", "{}", Dialect::Mistral, false),
            ("ai/6.0 ai-sdk/openai-compatible/3.0.92", USAGE, Dialect::OpenAi, false),
            (ai_sdk, NO_THOUGHT, Dialect::OpenAi, false),
            (ai_sdk, PICTURE, Dialect::OpenAi, false),
            (ai_sdk, LISTED, Dialect::Mistral, false),
            (ai_sdk, BARE, Dialect::Mistral, false),
            ("curl/8", LISTED, Dialect::OpenAi, false),
            ("curl/8", THOUGHT, Dialect::Mistral, false),
            ("curl/8", NO_THOUGHT, Dialect::OpenAi, false),
            ("curl/8", r#"{"messages": 5}"#, Dialect::OpenAi, false),
        ] {
            let origin = origin(agent);
            assert_eq!(manner(&origin, body), Manner { dialect, whole_calls }, "{agent} {body}");
        }
    }

    #[test]
    fn what_is_said_outright_outranks_what_the_client_looks_like() {
        let mut origin = origin("Mistral-Vibe/3.0.3");
        origin.dialect = Some(Dialect::OpenAi);
        assert_eq!(manner(&origin, "{}").dialect, Dialect::OpenAi);
    }

    #[test]
    fn only_mistral_s_own_client_has_a_status_of_its_own_for_fields() {
        let status = |origin: &Origin| {
            unread(ApiError::invalid("top_p", "top_p: no"), origin).status().as_u16()
        };
        let mut client = origin("speakeasy-sdk/python 3.7.0 2.935.1 1.0.0 mistralai");
        assert_eq!(status(&client), 422);
        client.dialect = Some(Dialect::OpenAi);
        assert_eq!(status(&client), 400);
        for agent in ["mistral-client-python/Mistral-Vibe/3.0.3", "OpenAI/Python 3.51.0", ""] {
            assert_eq!(status(&origin(agent)), 400);
        }
    }
}
