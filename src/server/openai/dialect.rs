//! Which of two ways of writing a chat completion a client reads.
//!
//! OpenAI's clients have the reasoning beside the content and the usage in a chunk of its own; several of
//! them fail on content that is a list. Mistral's have the reasoning as chunks of the content and the usage
//! in the last choice's chunk; several of them fail on a chunk without a choice. The request shows which it
//! is: no setting has to be made.

use crate::chat::{Fields, Node};
use crate::server::Dialect;
use crate::server::http::ApiError;
use crate::server::request::fields;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// The dialect.
    pub(super) dialect: Dialect,
    /// Whether a tool call is sent in one piece instead of as it is generated.
    pub(super) whole_calls: bool,
}

/// What the head of a request tells of its client.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Client<'a> {
    /// `user-agent`.
    pub(super) user_agent: &'a str,
    /// `x-gust-dialect`, or `dialect` in the query.
    pub(super) hint: Option<&'a str>,
    /// `--dialect`.
    pub(super) configured: Option<Dialect>,
}

/// Chooses: what the request says outright, then what the server was told, then what the client looks like.
pub(super) fn choose(client: Client<'_>, body: &Fields<'_>) -> Result<Manner, ApiError> {
    let dialect = match client.hint {
        Some(hint) => named(hint)?,
        None => match client.configured {
            Some(dialect) => dialect,
            None if looks_mistral(client.user_agent, body)? => Dialect::Mistral,
            None => Dialect::OpenAi,
        },
    };
    // langchain-mistralai has no name of its own. It gives each piece of its first call that comes without
    // an id a new one, and then takes the pieces for calls of their own; so it gets no pieces.
    let is_bare = client.user_agent.starts_with("python-httpx/");
    let whole_calls = is_bare && dialect == Dialect::OpenAi && body.get("stream_options").is_none();
    Ok(Manner { dialect, whole_calls })
}

fn named(hint: &str) -> Result<Dialect, ApiError> {
    match hint.to_ascii_lowercase().as_str() {
        "openai" => Ok(Dialect::OpenAi),
        "mistral" => Ok(Dialect::Mistral),
        _ => {
            let shown: String = hint.chars().take(40).collect();
            let message = format!("x-gust-dialect: expected openai or mistral, found {shown:?}");
            Err(ApiError::invalid("x-gust-dialect", message))
        }
    }
}

fn looks_mistral(user_agent: &str, body: &Fields<'_>) -> Result<bool, ApiError> {
    if is_mistral_agent(user_agent) {
        return Ok(true);
    }
    if let Some(options) = fields::object(body, "stream_options")?
        && fields::flag(&options, "stream_tool_calls")? == Some(true)
    {
        return Ok(true);
    }
    let messages = body.get("messages").and_then(|messages| messages.items().ok());
    Ok(messages.is_some_and(|messages| messages.iter().any(has_thinking_chunk)))
}

fn is_mistral_agent(user_agent: &str) -> bool {
    let agent = user_agent.to_ascii_lowercase();
    let names = ["mistral-client-python", "mistral-vibe", "ai-sdk/mistral"];
    names.iter().any(|name| agent.contains(name))
        // Speakeasy generates clients for others too; Mistral's name their package.
        || (agent.contains("speakeasy-sdk/") && agent.contains("mistral"))
}

/// Whether the model's own words were sent back as this dialect writes them. Faults are left to the reader
/// of conversations.
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

    fn manner(client: Client<'_>, body: &str) -> Result<Manner, ApiError> {
        choose(client, &Node::root(body).unwrap().fields().unwrap())
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
            ("curl/8", THOUGHT, Dialect::Mistral, false),
            ("curl/8", NO_THOUGHT, Dialect::OpenAi, false),
            ("curl/8", r#"{"messages": 5}"#, Dialect::OpenAi, false),
        ] {
            let client = Client { user_agent: agent, ..Client::default() };
            assert_eq!(manner(client, body), Ok(Manner { dialect, whole_calls }), "{agent} {body}");
        }
    }

    #[test]
    fn what_is_said_outright_outranks_what_the_client_looks_like() {
        let user_agent = "Mistral-Vibe/3.0.3";
        let configured = Some(Dialect::OpenAi);
        let dialect = |client| manner(client, "{}").map(|manner| manner.dialect);
        let client = Client { user_agent, hint: None, configured };
        assert_eq!(dialect(client), Ok(Dialect::OpenAi));
        assert_eq!(dialect(Client { hint: Some("Mistral"), ..client }), Ok(Dialect::Mistral));
        let error = dialect(Client { hint: Some("french"), ..client }).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("x-gust-dialect"));
        assert!(error.message.contains("french"));
    }
}
