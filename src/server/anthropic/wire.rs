//! The objects of Anthropic's protocol that a reply is written in, with their members in its order.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat::FinishReason;
use crate::server::request::Usage;

/// What proves elsewhere that thinking was not tampered with. Nothing is checked here, but clients leave
/// thinking without a signature out of the history, and with it the beginning that could be reused.
pub(super) const SIGNATURE: &str = "Z3VzdA==";

/// What an answer has of its request.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The answer's own name.
    pub(super) id: String,
    /// The request's name.
    pub(super) request_id: String,
    /// The name by which the client asked for the model.
    pub(super) model: String,
    /// Whether the client does not want to see the thinking.
    pub(super) hides_thinking: bool,
}

impl Head {
    /// The message with these parts.
    pub(super) fn message<'a>(
        &'a self,
        content: &'a [Block],
        stop: Stop<'a>,
        usage: &Usage,
    ) -> Message<'a> {
        let usage = WireUsage::new(usage);
        Message { id: &self.id, role: "assistant", model: &self.model, content, stop, usage }
    }
}

/// An answer, whole or about to begin.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "message")]
pub(super) struct Message<'a> {
    id: &'a str,
    role: &'static str,
    model: &'a str,
    content: &'a [Block],
    #[serde(flatten)]
    stop: Stop<'a>,
    usage: WireUsage,
}

/// A part of an answer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Thinking {
        thinking: String,
        signature: &'static str,
    },
    Text {
        text: String,
    },
    /// The arguments keep the model's spelling of numbers.
    ToolUse {
        id: String,
        name: String,
        input: Box<RawValue>,
    },
}

/// What is added to a part.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub(super) enum Delta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'static str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// An event of a stream. Its type is also the event's name.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    MessageStart { message: Message<'a> },
    Ping {},
    ContentBlockStart { index: usize, content_block: Block },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop<'a>, usage: WireUsage },
    MessageStop {},
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Event::MessageStart { .. } => "message_start",
            Event::Ping {} => "ping",
            Event::ContentBlockStart { .. } => "content_block_start",
            Event::ContentBlockDelta { .. } => "content_block_delta",
            Event::ContentBlockStop { .. } => "content_block_stop",
            Event::MessageDelta { .. } => "message_delta",
            Event::MessageStop {} => "message_stop",
        }
    }

    /// Appends it.
    pub(super) fn write(&self, out: &mut String) {
        push_event(self.name(), self, out);
    }
}

/// Appends an event of this name.
pub(super) fn push_event(name: &str, data: &impl Serialize, out: &mut String) {
    let json = serde_json::to_string(data).expect("our events have string keys only");
    out.reserve(json.len() + name.len() + 16);
    for part in ["event: ", name, "\ndata: ", &json, "\n\n"] {
        out.push_str(part);
    }
}

/// Why an answer ended; both `null` while it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Stop<'a> {
    pub(super) stop_reason: Option<&'static str>,
    pub(super) stop_sequence: Option<&'a str>,
}

impl<'a> Stop<'a> {
    /// The protocol's word for it.
    pub(super) fn new(reason: FinishReason, stopped_by: Option<&'a str>) -> Self {
        let name = match reason {
            FinishReason::Stop if stopped_by.is_some() => "stop_sequence",
            FinishReason::Stop => "end_turn",
            FinishReason::ToolCalls => "tool_use",
            FinishReason::Length | FinishReason::Cancelled => "max_tokens",
        };
        Stop { stop_reason: Some(name), stop_sequence: stopped_by }
    }
}

/// Tokens. Those that come from the cache are not among `input_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct WireUsage {
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct OutputDetails {
    thinking_tokens: usize,
}

impl WireUsage {
    /// Writes it.
    pub(super) fn new(usage: &Usage) -> Self {
        WireUsage {
            input_tokens: usage.n_prompt.saturating_sub(usage.n_cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.n_cached,
            output_tokens: usage.n_completion,
            output_tokens_details: OutputDetails { thinking_tokens: usage.n_reasoning },
        }
    }
}
