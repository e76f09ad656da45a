//! The parts that chat completions and plain completions share on the wire: what is around the choices, usage,
//! timings, probabilities of tokens, and the frame of an event.

use serde::Serialize;

use crate::chat::FinishReason;
use crate::scheduler::Spent;
use crate::server::http::{ApiError, RequestId};
use crate::server::logprobs::WireToken;
use crate::server::request::{ScoredToken, Usage};
use crate::tokenizer::Tokenizer;

/// Tells answers of different builds apart.
pub(super) const FINGERPRINT: &str = concat!("gust-", env!("CARGO_PKG_VERSION"));

/// The last event of a stream that went well.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// What is the same in all pieces of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The answer's name.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model's name as the client wrote it.
    pub(super) model: String,
}

impl Head {
    /// A new answer's; its name is `prefix` and digits.
    pub(super) fn new(prefix: &str, created: u64, model: String) -> Self {
        Head { id: format!("{prefix}{}", RequestId::new().as_str()), created, model }
    }

    /// A piece of the answer, or all of it.
    pub(super) fn piece<'a, C>(
        &'a self,
        object: &'static str,
        choices: &'a [C],
        usage: Option<&Usage>,
    ) -> Piece<'a, C> {
        Piece {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: usage.map(WireUsage::new),
            timings: usage.map(Timings::new),
        }
    }
}

/// What answers and their chunks have around the choices.
#[derive(Debug, Serialize)]
pub(super) struct Piece<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<WireUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

/// Appends an event. Clients need the space after the colon.
pub(super) fn push_event<T: Serialize + ?Sized>(data: &T, out: &mut String) {
    let json = serde_json::to_string(data).expect("our answers have string keys only");
    out.reserve(json.len() + 8);
    out.push_str("data: ");
    out.push_str(&json);
    out.push_str("\n\n");
}

/// Appends the event that ends a stream which cannot go on. Clients that count need the usage all the same.
pub(super) fn push_failure(error: &ApiError, usage: &Usage, out: &mut String) {
    let mut body = error.body();
    let usage = serde_json::to_value(WireUsage::new(usage)).expect("usage is an object of numbers");
    body.insert("usage".to_owned(), usage);
    push_event(&body, out);
}

/// OpenAI's and Mistral's word for why a reply ended.
pub(super) fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// Tokens, under all the names by which clients look for them.
#[derive(Debug, Serialize)]
pub(super) struct WireUsage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
    prompt_cache_hit_tokens: usize,
    prompt_cache_miss_tokens: usize,
    cache_read_input_tokens: usize,
}

#[derive(Debug, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
    image_tokens: usize,
}

#[derive(Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

impl WireUsage {
    /// Writes it.
    pub(super) fn new(usage: &Usage) -> Self {
        let &Usage { n_prompt, n_cached, n_image, n_completion, n_reasoning, .. } = usage;
        WireUsage {
            prompt_tokens: n_prompt,
            completion_tokens: n_completion,
            total_tokens: n_prompt + n_completion,
            prompt_tokens_details: PromptDetails { cached_tokens: n_cached, image_tokens: n_image },
            completion_tokens_details: CompletionDetails { reasoning_tokens: n_reasoning },
            prompt_cache_hit_tokens: n_cached,
            prompt_cache_miss_tokens: n_prompt.saturating_sub(n_cached),
            cache_read_input_tokens: n_cached,
        }
    }
}

/// Times, as llama.cpp's server tells them; its user interfaces show them.
#[derive(Debug, Serialize)]
pub(super) struct Timings {
    cache_n: usize,
    prompt_n: usize,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

impl Timings {
    /// Writes them.
    pub(super) fn new(usage: &Usage) -> Self {
        let Spent { n_prefilled, n_generated, prefill_s, decode_s, .. } = usage.spent;
        let per = |a: f64, b: f64| if b > 0.0 { thousandths(a / b) } else { 0.0 };
        let (prompt_n, predicted_n) = (n_prefilled as f64, n_generated as f64);
        // The first token comes out of the prompt's forward pass.
        let n_decoded = (predicted_n - 1.0).max(0.0);
        Timings {
            cache_n: usage.n_cached,
            prompt_n: n_prefilled,
            prompt_ms: thousandths(prefill_s * 1e3),
            prompt_per_token_ms: per(prefill_s * 1e3, prompt_n),
            prompt_per_second: per(prompt_n, prefill_s),
            predicted_n: n_generated,
            predicted_ms: thousandths(decode_s * 1e3),
            predicted_per_token_ms: per(decode_s * 1e3, n_decoded),
            predicted_per_second: per(n_decoded, decode_s),
        }
    }
}

fn thousandths(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

/// Probabilities of a choice's tokens, as chat completions have them.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<WireToken<'a>>,
    refusal: Option<()>,
}

impl<'a> ChatLogprobs<'a> {
    /// Writes them; `None` if there are none, which is `null`.
    pub(super) fn new(tokens: &[ScoredToken], tokenizer: &'a Tokenizer) -> Option<Self> {
        let content = || tokens.iter().map(|scored| WireToken::new(scored, tokenizer)).collect();
        (!tokens.is_empty()).then(|| ChatLogprobs { content: content(), refusal: None })
    }
}
