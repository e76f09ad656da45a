//! `/v1/models`: one card that OpenAI's, Mistral's, Anthropic's and other clients each find their fields in.
//!
//! All limits are those that are served, not those of the file: clients decide by them when to compact a
//! conversation.

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{ApiError, ErrorKind, json as answer};
use crate::runner::ModelFacts;
use crate::server::App;

/// What these addresses need; until it is known, they answer 503.
pub(super) fn facts(app: &App) -> Result<std::sync::Arc<ModelFacts>, ApiError> {
    app.facts().ok_or_else(|| {
        let kind = ErrorKind::Loading { retry_after_s: 2 };
        ApiError::new(kind, "the model is being loaded; its limits are not known yet")
    })
}

/// What `type` says: mistralai reads only cards of its own types, Anthropic's clients expect theirs.
pub(super) fn kind(headers: &HeaderMap) -> &'static str {
    if is_for_anthropic(headers) { "model" } else { "base" }
}

/// Whether a client of Anthropic's protocol asks.
pub(super) fn is_for_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// `GET /v1/models`.
pub(super) fn list(app: &App, kind: &str) -> Response {
    let card = match facts(app) {
        Ok(facts) => card(app, &facts, app.names.primary(), kind),
        Err(error) => return error.into_response(),
    };
    let id = app.names.primary();
    answer(&json!({
        "object": "list", "data": [card], "has_more": false, "first_id": id, "last_id": id,
    }))
}

/// `GET /v1/models/{id}`; answers with the name that was asked for.
pub(super) fn one(app: &App, encoded: &str, kind: &str) -> Response {
    let found = percent_decoded(encoded)
        .ok_or_else(|| ApiError::invalid("model", "the name is badly percent-encoded"))
        .and_then(|id| app.names.check(Some(&id)))
        .and_then(|id| Ok(card(app, &*facts(app)?, &id, kind)));
    match found {
        Ok(card) => answer(&card),
        Err(error) => error.into_response(),
    }
}

fn card(app: &App, facts: &ModelFacts, id: &str, kind: &str) -> Value {
    let about = &app.about;
    let has = |name| app.tokenizer.control_token(name).is_some();
    let (sees, thinks, calls) = (facts.patches.is_some(), has("[THINK]"), has("[AVAILABLE_TOOLS]"));
    let n_reply = app.config.n_max.map_or(facts.n_ctx, |n| facts.n_ctx.min(n as usize));
    let created = chrono::DateTime::from_timestamp(about.created, 0).unwrap_or_default();
    let supported = |yes: bool| json!({ "supported": yes });
    let inputs: &[&str] = if sees { &["text", "image"] } else { &["text"] };
    let aliases: Vec<&str> =
        app.names.all().filter(|name| !name.eq_ignore_ascii_case(id)).collect();
    json!({
        "id": id,
        "object": "model",
        "type": kind,
        "created": about.created,
        "created_at": created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "owned_by": "mistralai",
        "name": about.name,
        "display_name": about.name,
        "description": about.label,
        "aliases": aliases,
        "context_length": facts.n_ctx,
        "max_context_length": facts.n_ctx,
        "max_model_len": facts.n_ctx,
        "max_input_tokens": facts.n_ctx,
        "max_tokens": n_reply,
        "max_output_tokens": n_reply,
        "meta": {
            "n_ctx": facts.n_ctx,
            "n_ctx_train": facts.n_ctx_train,
            "n_vocab": app.tokenizer.n_vocab(),
        },
        "capabilities": {
            "completion_chat": true,
            "function_calling": calls,
            "reasoning": thinks,
            "completion_fim": has("[SUFFIX]") && has("[PREFIX]"),
            "vision": sees,
            "fine_tuning": false,
            "classification": false,
            "image_input": supported(sees),
            "thinking": supported(thinks),
            "structured_outputs": supported(true),
        },
        "architecture": {
            "modality": if sees { "text+image->text" } else { "text->text" },
            "input_modalities": inputs,
            "output_modalities": ["text"],
        },
        "default_model_temperature": 0.7,
        "deprecation": null,
        "root": id,
        "parent": null,
    })
}

/// Undoes `%2F` and the like.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_addresses_are_decoded() {
        for (text, expected) in [
            ("abc", Some("abc")),
            ("a%2Fb%2fc", Some("a/b/c")),
            ("%C3%A9", Some("é")),
            ("%", None),
            ("%2", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), expected, "{text}");
        }
    }
}
