//! `POST /v1/fim/completions`: what goes between two texts. The answer is a chat completion, as with Mistral.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::answer::Answer;
use super::chat;
use super::dialect::{self, Manner};
use super::wire::Head;
use crate::chat::format_from_fields;
use crate::server::http::ApiError;
use crate::server::request::{Asked, Document, Source, fields, start, work};
use crate::server::{Dialect, SharedApp};
use crate::tokenizer::{TokenId, Tokenizer};

/// `POST /v1/fim/completions`.
pub(crate) async fn fim_completions(State(app): State<SharedApp>, request: Request) -> Response {
    complete(app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn complete(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::queued(&app, request).await?;
    let reader = app.clone();
    let read = move |_| {
        let fields = document.fields()?;
        let prompt = fields.need("prompt")?.text()?;
        let suffix = fields::text(&fields, "suffix")?.unwrap_or_default();
        let tokens = encode(&reader.tokenizer, &prompt, &suffix)?;
        let source = Source::Text(tokens, format_from_fields(&fields)?);
        Ok((Asked::openai_fim(&fields, &reader)?, source))
    };
    let read = work(&origin.request_id, read).await;
    let (asked, source) = read.map_err(|error| dialect::unread(error, &origin))?;
    let generation = start(&app, &origin, source, &asked).await?;
    let answer = Answer {
        head: Head::new("chatcmpl-", generation.created, asked.model),
        manner: Manner { dialect: Dialect::Mistral, whole_calls: false },
        n: asked.n,
        has_usage_chunk: false,
        hides_reasoning: false,
        has_details: false,
    };
    chat::respond(&app, answer, asked.stream, generation).await
}

/// The prompt with a gap between `prefix` and `suffix`, as mistral-common writes it.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    prefix: &str,
    suffix: &str,
) -> Result<Vec<TokenId>, ApiError> {
    let (Some(suffix_mark), Some(prefix_mark)) =
        (tokenizer.control_token("[SUFFIX]"), tokenizer.control_token("[PREFIX]"))
    else {
        let message = "suffix: the model has no fill-in-the-middle tokens ([SUFFIX], [PREFIX]); send the \
                       prompt alone to /v1/completions";
        return Err(ApiError::invalid("suffix", message));
    };
    let mut tokens = vec![tokenizer.bos(), suffix_mark];
    tokens.extend(suffix_tokens(tokenizer, suffix));
    tokens.push(prefix_mark);
    tokenizer.encode_into(prefix, &mut tokens);
    Ok(tokens)
}

/// mistral-common puts a `☺` before the suffix and takes its two tokens off again, so that the suffix is cut
/// as the middle of a text. Where the vocabulary has other tokens for it, the suffix is taken by itself:
/// two tokens off would be a part of the text.
fn suffix_tokens(tokenizer: &Tokenizer, suffix: &str) -> Vec<TokenId> {
    const SMILE: &str = "☺";
    if suffix.is_empty() {
        return Vec::new();
    }
    let tokens = tokenizer.encode(&format!("{SMILE}{suffix}"));
    match tokens.split_at_checked(2) {
        Some((smile, rest)) if tokenizer.decode(smile) == SMILE.as_bytes() => rest.to_vec(),
        _ => tokenizer.encode(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_written_as_mistral_common_writes_it() {
        let tokenizer = Tokenizer::from_gguf(&crate::model::builtin()).unwrap();
        let id = |name| tokenizer.control_token(name).unwrap();
        for (prefix, suffix) in
            [("def f(", "):\n    pass"), ("", "x"), ("x = ", ""), ("[SUFFIX]", "[PREFIX] é")]
        {
            let tokens = encode(&tokenizer, prefix, suffix).unwrap();
            let middle = tokens.iter().position(|&token| token == id("[PREFIX]")).unwrap();
            assert_eq!(tokens[..2], [tokenizer.bos(), id("[SUFFIX]")]);
            assert_eq!(tokenizer.decode(&tokens[2..middle]), suffix.as_bytes());
            assert_eq!(tokens[middle + 1..], tokenizer.encode(prefix));
        }
    }
}
