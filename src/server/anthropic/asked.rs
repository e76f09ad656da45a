//! What Anthropic's clients ask of a reply.
//!
//! What only their provider's machines can do is refused by name where a request asks for nothing else: a client
//! that waits for a search which nobody makes would not know why. Beside tools of the client's own it is left
//! out, and told: agents offer such tools in every request. What tunes those machines (`service_tier`,
//! `container`, caching) means nothing here and is passed over.

use crate::chat::Fields;
use crate::server::App;
use crate::server::http::ApiError;
use crate::server::request::fields::{fault, flag, object, stops, whole};
use crate::server::request::{Asked, model, note_unknown, sampling};

/// Larger ones are mistakes; those beyond the context only mean its end.
const MAX_TOKENS: u64 = (1 << 31) - 1;

/// Reads the fields beside the conversation. The budget of thinking is the conversation reader's.
pub(super) fn asked(fields: &Fields<'_>, app: &App) -> Result<Asked, ApiError> {
    note_unknown(fields, &[KNOWN], app);
    refuse_provided(fields)?;
    let single_call = match fields.get("tool_choice") {
        Some(choice) if choice.is_object() => {
            flag(&choice.fields()?, "disable_parallel_tool_use")?.unwrap_or(false)
        }
        _ => false,
    };
    Ok(Asked {
        model: model(fields, app)?,
        stream: flag(fields, "stream")?.unwrap_or(false),
        sampling: sampling(fields, app)?,
        n_max: whole(fields, "max_tokens", 1..=MAX_TOKENS)?.map(|n| n as u32),
        stop: stops(fields, "stop_sequences")?,
        single_call,
        ..Asked::default()
    })
}

/// Refuses what the provider runs itself: its servers, and its tools where there are no others.
pub(super) fn refuse_provided(fields: &Fields<'_>) -> Result<(), ApiError> {
    if let Some(servers) = fields.get("mcp_servers")
        && (!servers.is_list() || !servers.items()?.is_empty())
    {
        let problem = "no MCP servers are called from here; offer their tools in \"tools\"";
        return Err(fault("mcp_servers", problem));
    }
    let tools = match fields.get("tools") {
        Some(tools) => tools.items()?,
        None => Vec::new(),
    };
    let mut refused = None;
    for (k, tool) in tools.iter().enumerate() {
        // What is no tool at all is the conversation reader's to refuse.
        let Some(tool) = tool.is_object().then(|| tool.fields()).transpose()? else { continue };
        let kind = tool.kind()?;
        let is_described =
            tool.get("input_schema").is_some() || object(&tool, "function")?.is_some();
        if is_described || matches!(kind.as_str(), "" | "custom" | "function") {
            return Ok(());
        }
        if refused.is_none() {
            let name = tool.text("name")?.unwrap_or_else(|| kind.clone());
            let problem = format!(
                "the tool {name:?} ({kind}) is Anthropic's own and does not exist here; leave it out, or \
                 describe a tool of your own with \"input_schema\""
            );
            refused = Some(fault(&format!("tools[{k}]"), &problem));
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Fields that are read here or by the conversation's reader, and those that are accepted without effect.
/// Sampling has more fields than Anthropic's, for clients that send them beside its own.
const KNOWN: &[&str] = &[
    "cache_control",
    "container",
    "context_management",
    "diagnostics",
    "frequency_penalty",
    "inference_geo",
    "logit_bias",
    "max_tokens",
    "mcp_servers",
    "messages",
    "metadata",
    "min_p",
    "model",
    "output_config",
    "output_format",
    "presence_penalty",
    "random_seed",
    "repetition_penalty",
    "seed",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Config;
    use crate::server::request::Document;

    fn read(body: &str) -> Result<Asked, ApiError> {
        let app = App::for_tests(Config { n_slots: 4, ..Config::default() });
        asked(&Document::parse(body.as_bytes().to_vec())?.fields()?, &app)
    }

    /// The fault's field and a word of its message.
    #[track_caller]
    fn refuses(body: &str, param: &str, word: &str) {
        let error = read(body).expect_err(body);
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        assert!(error.message.contains(word), "{}", error.message);
    }

    #[test]
    fn wishes_are_read() {
        let asked = read(
            r#"{"model": "mistral-medium-3.5", "max_tokens": 64, "stop_sequences": ["END"],
            "stream": true, "temperature": 0.5, "top_k": 40, "metadata": {"user_id": "u"},
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}, "mcp_servers": [],
            "tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g"}]}"#,
        )
        .unwrap();
        assert_eq!((asked.model.as_str(), asked.n_max), ("mistral-medium-3.5", Some(64)));
        assert_eq!(asked.stop, ["END"]);
        assert!(asked.stream && asked.single_call && asked.n == 1);
        assert_eq!((asked.sampling.temperature, asked.sampling.top_k), (Some(0.5), Some(40)));
        let plain = read("{}").unwrap();
        assert!(!plain.stream && !plain.single_call && plain.n_max.is_none());
    }

    #[test]
    fn what_does_not_exist_here_is_refused_by_name() {
        refuses(
            r#"{"tools": [{"type": "web_search_20250305", "name": "web_search"},
            {"type": "bash_20250124", "name": "bash"}]}"#,
            "tools[0]",
            "\"web_search\" (web_search_20250305)",
        );
        let beside = r#"{"tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "f"}]}"#;
        assert!(read(beside).is_ok());
        refuses(r#"{"mcp_servers": [{"type": "url"}]}"#, "mcp_servers", "MCP");
        refuses(r#"{"max_tokens": 0}"#, "max_tokens", "expected");
        refuses(r#"{"max_tokens": 4294967297}"#, "max_tokens", "expected");
        refuses(r#"{"stop_sequences": [""]}"#, "stop_sequences", "empty");
    }
}
