//! Conversations: what a request is, how it becomes token ids, and what a reply's ids mean.
//!
//! The names are mistral-common's. `json` reads and writes requests, `validate` refuses what
//! mistral-common refuses, `merge` joins neighbouring messages, `encode` writes the token ids,
//! `grammar` says what a reply may be, `reply` turns its ids into events and `stop` ends a text at a stop
//! string.
//! Nothing here knows of a terminal, a server or a forward pass.

mod call_list;
mod change;
mod collect;
mod draft7;
mod encode;
mod error;
mod format;
mod grammar;
mod json;
mod merge;
mod normalise;
mod probe;
mod python_json;
mod reply;
mod stop;
mod template;
mod validate;
mod version;

#[cfg(test)]
mod tests;

pub use change::Change;
pub use collect::ReplyCollector;
pub use draft7::validate_schemas;
pub use error::EncodeError;
pub use format::ChatFormat;
pub use grammar::{ReplyLimits, constraint, reply_rules, text_rules};
pub use json::{
    ClientTool, Fields, ImageSource, Node, Reading, RequestError, RequestOptions,
    format_from_fields, read_request, request_from_json, request_to_json, responses_from_json,
    tools_from_json,
};
pub use normalise::normalise;
pub use probe::{Difference, Probe, TemplateReport};
pub use reply::{FinishReason, ReplyEvent, ReplyParser};
pub use stop::StopMatcher;
pub use template::{MAX_TEMPLATE_BYTES, Template, TemplateError};
pub use validate::validate;
pub use version::Version;

use std::sync::Arc;
use std::time::Duration;

use crate::vision::Image;

/// Most tools of one request, as with the protocol's inventor.
pub const MAX_TOOLS: usize = 128;

/// Everything the model is told before it answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatRequest {
    /// The conversation, oldest message first.
    pub messages: Vec<Message>,
    /// Functions the model may call.
    pub tools: Vec<Tool>,
    /// Whether it may or must call one.
    pub tool_choice: ToolChoice,
    /// What its text must look like.
    pub response_format: ResponseFormat,
    /// Whether the model thinks before it answers.
    pub reasoning_effort: ReasoningEffort,
}

/// Whether the model may or must call functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it sees fit.
    #[default]
    Auto,
    /// It may not.
    None,
    /// It must call at least one.
    Required,
    /// It must call this one.
    Named(String),
}

/// What the text of an answer must look like. Reasoning is free, and so is the choice to call a function
/// instead, where the request allows that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that obeys this schema, itself JSON text.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// A text of the language that this Lark grammar describes.
    Lark(String),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Instructions; several are allowed and are kept apart.
    System(Vec<ContentChunk>),
    /// What the user said.
    User(Vec<ContentChunk>),
    /// What the model said.
    Assistant(AssistantMessage),
    /// What a tool answered.
    Tool(ToolMessage),
}

impl Message {
    /// A system message of plain text.
    pub fn system(text: impl Into<String>) -> Self {
        Message::System(vec![ContentChunk::Text(text.into())])
    }

    /// A user message of plain text.
    pub fn user(text: impl Into<String>) -> Self {
        Message::User(vec![ContentChunk::Text(text.into())])
    }

    /// The role's name as the protocol spells it.
    pub fn role(&self) -> &'static str {
        match self {
            Message::System(_) => "system",
            Message::User(_) => "user",
            Message::Assistant(_) => "assistant",
            Message::Tool(_) => "tool",
        }
    }

    /// What was said, whoever said it.
    pub fn content(&self) -> &[ContentChunk] {
        match self {
            Message::System(content) | Message::User(content) => content,
            Message::Assistant(assistant) => &assistant.content,
            Message::Tool(tool) => &tool.content,
        }
    }

    /// What was said, to be altered.
    pub fn content_mut(&mut self) -> &mut Vec<ContentChunk> {
        match self {
            Message::System(content) | Message::User(content) => content,
            Message::Assistant(assistant) => &mut assistant.content,
            Message::Tool(tool) => &mut tool.content,
        }
    }
}

/// A message of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssistantMessage {
    /// Text and thinking, in the order they were said.
    pub content: Vec<ContentChunk>,
    /// Calls, which always follow the content.
    pub tool_calls: Vec<ToolCall>,
    /// The model is to continue this message; only the last message may say so.
    pub prefix: bool,
}

/// The result of one tool call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolMessage {
    /// What the tool gave back.
    pub content: Vec<ContentChunk>,
    /// The call this answers; the model never sees it, it only restores the calls' order.
    pub tool_call_id: String,
}

/// A part of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub enum ContentChunk {
    /// Plain text.
    Text(String),
    /// Reasoning of the model.
    Thinking {
        /// The reasoning.
        thinking: String,
        /// Whether the reasoning is complete; an open one gets no `[/THINK]`.
        closed: bool,
    },
    /// A picture, in what a user says or a tool gives back.
    Image(Arc<Image>),
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// The function's name, 1 to 64 of `a-z A-Z 0-9 _ -`.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// JSON schema of its arguments, as JSON text: key order and number spelling reach the model.
    pub parameters: String,
    /// Whether every keyword of the schema must be enforced; one that can't be is an error then. The
    /// model is not told.
    pub strict: bool,
}

/// A call of a function by the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Joins the call to its result.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The arguments as JSON text; text that is no JSON reaches the model as a JSON string.
    pub arguments: String,
}

/// How much the model reasons before it answers. The model was trained on these two only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReasoningEffort {
    /// Answer at once.
    #[default]
    None,
    /// Think first.
    High,
}

impl ReasoningEffort {
    /// The name that the protocol and the model use.
    pub fn name(self) -> &'static str {
        match self {
            ReasoningEffort::None => "none",
            ReasoningEffort::High => "high",
        }
    }

    /// The effort of that name, in any letter case.
    pub fn from_name(name: &str) -> Option<Self> {
        [ReasoningEffort::None, ReasoningEffort::High]
            .into_iter()
            .find(|effort| effort.name().eq_ignore_ascii_case(name))
    }
}

/// What one reply took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, tokens whose KV was still there and was not computed again.
    pub n_reused: usize,
    /// Tokens the model wrote, the one that ended the reply included.
    pub n_generated: usize,
    /// Time from the request to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
}
