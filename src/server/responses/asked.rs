//! What a request asks of the reply, what it asks for that does not exist here, and what the answer repeats.

use serde_json::{Map, Value, json};

use crate::chat::{Fields, Node};
use crate::server::App;
use crate::server::http::{ApiError, ErrorKind};
use crate::server::request::{Asked, fields, model, note_unknown, sampling};

/// Most of the likeliest tokens, as in OpenAI's protocol.
const MAX_TOP_LOGPROBS: u64 = 20;

/// Reads the wishes.
pub(super) fn asked(fields: &Fields<'_>, app: &App) -> Result<Asked, ApiError> {
    note_unknown(fields, &[READ, SAMPLING, ACCEPTED], app);
    refuse(fields)?;
    let whole = |name, range| fields::whole(fields, name, range);
    let top_logprobs = whole("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    let wants_logprobs = includes(fields, "message.output_text.logprobs")?;
    let n_logprobs = match top_logprobs {
        Some(n) if n > 0 || wants_logprobs => Some(n as usize),
        _ => wants_logprobs.then_some(0),
    };
    // Below 2³¹, so that it is a `u32`.
    let n_max = whole("max_output_tokens", 1..=u64::from(i32::MAX.unsigned_abs()))?;
    Ok(Asked {
        model: model(fields, app)?,
        stream: fields::flag(fields, "stream")?.unwrap_or(false),
        sampling: sampling(fields, app)?,
        stop: fields::stops(fields, "stop")?,
        n_max: n_max.map(|n| n as u32),
        n_logprobs,
        single_call: fields::flag(fields, "parallel_tool_calls")? == Some(false),
        ..Asked::default()
    })
}

/// Whether `include` names something.
pub(super) fn includes(fields: &Fields<'_>, what: &str) -> Result<bool, ApiError> {
    let Some(list) = fields.get("include") else { return Ok(false) };
    let names = list.items()?.iter().map(Node::text).collect::<Result<Vec<_>, _>>()?;
    Ok(names.iter().any(|name| name == what))
}

/// What only a server that keeps conversations can do.
fn refuse(fields: &Fields<'_>) -> Result<(), ApiError> {
    const KEPT: [(&str, &str); 3] = [
        ("previous_response_id", "no answers are kept here: send the whole input each time"),
        ("conversation", "no conversations are kept here: send the whole input each time"),
        ("prompt", "no prompts are kept here: send instructions and input"),
    ];
    let unsupported = |name: &str, problem: &str| {
        let message = format!("{name}: {problem}");
        ApiError::new(ErrorKind::Unsupported, message).about(Some(name.to_owned()))
    };
    for (name, problem) in KEPT {
        if fields.get(name).is_some() {
            return Err(unsupported(name, problem));
        }
    }
    if fields::flag(fields, "background")? == Some(true) {
        let problem = "answers cannot be fetched later: leave it out, and stream";
        return Err(unsupported("background", problem));
    }
    match fields::text(fields, "truncation")?.as_deref() {
        // Nothing is ever left out of the input; what does not fit is an error.
        None | Some("auto" | "disabled") => Ok(()),
        Some(found) => {
            let problem = format!("expected \"auto\" or \"disabled\", found {found:?}");
            Err(fields::fault("truncation", &problem))
        }
    }
}

/// The fields that the answer repeats, and what stands there where the request has none.
pub(super) fn echo(fields: &Fields<'_>) -> Map<String, Value> {
    let echoed = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("max_tool_calls", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("prompt_cache_key", Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("safety_identifier", Value::Null),
        ("service_tier", json!("default")),
        ("temperature", Value::Null),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_logprobs", json!(0)),
        ("top_p", Value::Null),
        ("truncation", json!("disabled")),
        ("user", Value::Null),
    ];
    let mut echo = Map::new();
    for (name, default) in echoed {
        // Numbers that no float holds are JSON all the same; they are not worth an error here.
        let sent = fields.get(name).and_then(|node| serde_json::from_str(node.raw()).ok());
        echo.insert(name.to_owned(), sent.unwrap_or(default));
    }
    if let Some(Value::Object(text)) = echo.get_mut("text") {
        text.entry("format").or_insert_with(|| json!({"type": "text"}));
    }
    echo
}

/// What is read here or by the conversation's reader.
const READ: &[&str] = &[
    "background",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "reasoning",
    "stop",
    "stream",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
];

/// What `sampling` reads; OpenAI has only the first two here.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "frequency_penalty",
    "logit_bias",
    "min_p",
    "presence_penalty",
    "random_seed",
    "repetition_penalty",
    "seed",
    "top_k",
];

/// What is accepted and changes nothing.
const ACCEPTED: &[&str] = &[
    "client_metadata",
    "context_management",
    "max_tool_calls",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
];
