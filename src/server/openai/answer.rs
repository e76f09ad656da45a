//! What all pieces of one answer to a chat completion have in common, and the parts of their messages.

use serde::Serialize;

use super::dialect::Manner;
use super::wire::Head;
use crate::server::Dialect;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// What is the same in all its pieces.
    pub(super) head: Head,
    /// How it is written.
    pub(super) manner: Manner,
    /// Replies to the same prompt.
    pub(super) n: usize,
    /// Whether a stream's usage comes in a chunk of its own.
    pub(super) has_usage_chunk: bool,
    /// Whether the reasoning is kept back.
    pub(super) hides_reasoning: bool,
    /// Whether reasoning comes as OpenRouter's `reasoning_details` too.
    pub(super) has_details: bool,
}

impl Answer {
    /// Whether reasoning is part of the content.
    pub(super) fn has_chunks(&self) -> bool {
        self.manner.dialect == Dialect::Mistral
    }

    /// Reasoning as OpenRouter has it.
    pub(super) fn details<'a>(&self, text: &'a str) -> Option<[Detail<'a>; 1]> {
        let detail = Detail {
            kind: "reasoning.text",
            text,
            signature: None,
            id: None,
            format: "unknown",
            index: 0,
        };
        (self.has_details && !text.is_empty()).then_some([detail])
    }
}

/// A part of a content that is a list.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Part<'a> {
    /// Reasoning; `closed` is left out where more may follow.
    Thinking {
        thinking: [TextPart<'a>; 1],
        #[serde(skip_serializing_if = "Option::is_none")]
        closed: Option<bool>,
    },
    /// The answer.
    Text { text: &'a str },
}

impl<'a> Part<'a> {
    /// Reasoning.
    pub(super) fn thinking(text: &'a str, closed: Option<bool>) -> Self {
        Part::Thinking { thinking: [TextPart { kind: "text", text }], closed }
    }
}

/// A text within reasoning.
#[derive(Debug, Serialize)]
pub(super) struct TextPart<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

/// A part of OpenRouter's `reasoning_details`.
#[derive(Debug, Serialize)]
pub(super) struct Detail<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
    signature: Option<()>,
    id: Option<()>,
    format: &'static str,
    index: usize,
}

/// A call, or more of one.
#[derive(Debug, Serialize)]
pub(super) struct WireCall<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: WireFunction<'a>,
}

#[derive(Debug, Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> WireCall<'a> {
    /// A call as a whole, or its beginning.
    pub(super) fn new(index: usize, id: &'a str, name: &'a str, arguments: &'a str) -> Self {
        let function = WireFunction { name, arguments };
        WireCall { index, id: Some(id), kind: Some("function"), function }
    }

    /// More of its arguments. Some clients join names and ids of all pieces and some require a name in each:
    /// an empty one suits all. Mistral's repeat the id.
    pub(super) fn more(index: usize, id: Option<&'a str>, arguments: &'a str) -> Self {
        WireCall { index, id, kind: None, function: WireFunction { name: "", arguments } }
    }
}
