//! From a body to a running generation, whichever protocol it came by.

mod affinity;
mod asked;
mod conversation;
mod document;
mod fetch;
pub(crate) mod fields;
mod generation;
mod plan;
mod queue;
mod record;
mod relay;

pub(crate) use asked::{ChatExtras, model, note_unknown, sampling};
pub(crate) use conversation::{read_chat, read_responses, work};
pub(crate) use document::{Document, Origin};
pub(crate) use generation::{Generation, count, start};
pub(crate) use queue::Queue;
pub(crate) use record::refused;

use crate::chat::{ChatRequest, ReplyEvent, ResponseFormat};
use crate::scheduler::{Logprobs, Spent, Start};
use crate::tokenizer::TokenId;

use super::http::ApiError;

/// What a request asks of the reply beside the conversation. What is absent has the server's default, which
/// depends on the reasoning effort.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// The model's name as the client wrote it; checked already.
    pub(crate) model: String,
    /// Whether the answer is a stream of events.
    pub(crate) stream: bool,
    /// How tokens are drawn.
    pub(crate) sampling: SamplingWishes,
    /// Most tokens of the reply.
    pub(crate) n_max: Option<u32>,
    /// Tokens before which the model may not end the reply; a stop string may.
    pub(crate) n_min: u32,
    /// Strings before which the reply ends.
    pub(crate) stop: Vec<String>,
    /// Replies to the same prompt, at least 1.
    pub(crate) n: usize,
    /// Log-probabilities, with so many of the likeliest tokens.
    pub(crate) n_logprobs: Option<usize>,
    /// At most one tool call.
    pub(crate) single_call: bool,
    /// Most tokens of reasoning.
    pub(crate) reasoning_budget: Option<u32>,
}

/// Sampling parameters, each if it was given.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // The names are those of `SamplingParams`.
pub(crate) struct SamplingWishes {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    pub(crate) seed: Option<u64>,
}

/// What the model is to go on from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// A conversation, not yet normalised.
    Chat(Box<ChatRequest>),
    /// Token ids, starting with `<s>`: plain text, or text with a gap to fill; and the form of what is written.
    Text(Vec<TokenId>, ResponseFormat),
}

/// A token that was chosen, with its probabilities.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScoredToken {
    /// The token.
    pub(crate) id: TokenId,
    /// Its log-probability, and the likeliest.
    pub(crate) logprobs: Logprobs,
}

/// What comes out of a generation, in order. After `Done` or `Failed` nothing follows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ReplyItem {
    /// The prompt has a slot. Comes first, once.
    Started(Start),
    /// A piece of reply `choice`; its last one is [`ReplyEvent::Finished`]. `tokens` are those that went
    /// into it since the last piece, where log-probabilities were asked for.
    Event { choice: usize, event: ReplyEvent, tokens: Vec<ScoredToken> },
    /// All replies are finished.
    Done(Usage),
    /// The reply cannot be completed; what was said stays said.
    Failed(ApiError, Usage),
}

/// What a request took, all its replies together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// Tokens of the prompt, pictures included.
    pub(crate) n_prompt: usize,
    /// Of these, tokens that were not computed again.
    pub(crate) n_cached: usize,
    /// Tokens of the pictures.
    pub(crate) n_image: usize,
    /// Tokens written, reasoning included.
    pub(crate) n_completion: usize,
    /// Tokens of reasoning.
    pub(crate) n_reasoning: usize,
    /// Times and counts, as the runner tells them.
    pub(crate) spent: Spent,
}
