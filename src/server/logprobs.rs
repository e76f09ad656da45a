//! Tokens and their probabilities, as all of OpenAI's protocols have them.

use std::borrow::Cow;

use serde::Serialize;

use super::request::ScoredToken;
use crate::tokenizer::{TokenId, Tokenizer};

/// What JSON has instead of minus infinity, as with OpenAI.
const LEAST_LOGPROB: f32 = -9999.0;

/// A token that was chosen, and the likeliest in its place.
#[derive(Debug, Serialize)]
pub(super) struct WireToken<'a> {
    #[serde(flatten)]
    chosen: OneToken<'a>,
    top_logprobs: Vec<OneToken<'a>>,
}

#[derive(Debug, Serialize)]
struct OneToken<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> WireToken<'a> {
    /// Writes it.
    pub(super) fn new(scored: &ScoredToken, tokenizer: &'a Tokenizer) -> Self {
        let token = |id: TokenId, logprob: f32| OneToken {
            token: token_text(id, tokenizer),
            logprob: finite(logprob),
            bytes: tokenizer.token_bytes(id),
        };
        WireToken {
            chosen: token(scored.id, scored.logprobs.chosen),
            top_logprobs: scored.logprobs.top.iter().map(|&(id, p)| token(id, p)).collect(),
        }
    }
}

/// A token's text. Pieces of characters are U+FFFD: whoever needs them has the bytes.
pub(super) fn token_text(id: TokenId, tokenizer: &Tokenizer) -> Cow<'_, str> {
    String::from_utf8_lossy(tokenizer.token_bytes(id))
}

/// A log-probability that JSON can hold.
pub(super) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST_LOGPROB }
}
