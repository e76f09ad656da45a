//! What a reply consists of, as items: reasoning, a message, calls.
//!
//! Reasoning is told as a summary that is the whole of it. Summaries are what OpenAI's own models stream, so
//! all clients read them (Vibe, Codex and LangChain read nothing else), and a text told on two channels is
//! shown twice by those who read both.

use serde_json::{Value, json};

use crate::chat::ClientTool;
use crate::server::logprobs::WireToken;
use crate::server::request::ScoredToken;
use crate::tokenizer::Tokenizer;

/// Stands for the encrypted reasoning that stateless clients ask for: several give reasoning back only if it
/// has some. Nothing is in it, because the summary is the reasoning.
const NOTHING_ENCRYPTED: &str = "c3VtbWFyeQ==";

/// An item that is being written or is complete.
#[derive(Debug)]
pub(super) struct Item {
    /// Its name.
    pub(super) id: String,
    /// Its text so far: reasoning, answer or arguments.
    pub(super) text: String,
    /// The rest.
    pub(super) kind: ItemKind,
}

#[derive(Debug)]
pub(super) enum ItemKind {
    /// Reasoning.
    Reasoning {
        /// Whether the client wants it to be encrypted.
        is_encrypted: bool,
    },
    /// Text, with the probabilities of its tokens.
    Message(Vec<Value>),
    /// A call.
    Call {
        /// Joins it to its result.
        call_id: String,
        /// What it calls.
        tool: ClientTool,
    },
}

impl ItemKind {
    /// How names of such items begin.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            ItemKind::Reasoning { .. } => "rs_",
            ItemKind::Message(_) => "msg_",
            ItemKind::Call { tool, .. } if tool.is_custom => "ctc_",
            ItemKind::Call { .. } => "fc_",
        }
    }
}

impl Item {
    /// The item as it is announced, before anything is in it.
    pub(super) fn announced(&self) -> Value {
        let mut item = self.json("in_progress");
        match &self.kind {
            ItemKind::Reasoning { .. } => {
                item["summary"] = json!([]);
                item["encrypted_content"] = Value::Null;
            }
            ItemKind::Message(_) => item["content"] = json!([]),
            ItemKind::Call { .. } => {}
        }
        item
    }

    /// The item with what is in it.
    pub(super) fn json(&self, status: &str) -> Value {
        let Item { id, text, kind } = self;
        match kind {
            ItemKind::Reasoning { is_encrypted } => json!({
                "id": id, "type": "reasoning", "status": status, "summary": [self.part()],
                "encrypted_content": is_encrypted.then_some(NOTHING_ENCRYPTED),
            }),
            ItemKind::Message(_) => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": [self.part()],
            }),
            ItemKind::Call { call_id, tool } => {
                let (kind, field, value) = match tool.is_custom {
                    true => ("custom_tool_call", "input", self.input()),
                    false => ("function_call", "arguments", text.clone()),
                };
                let mut item = json!({
                    "id": id, "type": kind, "status": status, "call_id": call_id, "name": tool.name,
                });
                item[field] = value.into();
                if let Some(namespace) = &tool.namespace {
                    item["namespace"] = namespace.as_str().into();
                }
                item
            }
        }
    }

    /// The only part of the content or summary.
    pub(super) fn part(&self) -> Value {
        match &self.kind {
            ItemKind::Message(logprobs) => json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs,
            }),
            _ => json!({"type": "summary_text", "text": self.text}),
        }
    }

    /// The free text that a custom tool is called with; the arguments as they are if they hold none.
    pub(super) fn input(&self) -> String {
        let arguments: Option<Value> = serde_json::from_str(&self.text).ok();
        let input = arguments.as_ref().and_then(|arguments| arguments["input"].as_str());
        input.unwrap_or(&self.text).to_owned()
    }
}

/// Probabilities of tokens.
pub(super) fn logprobs(tokens: &[ScoredToken], tokenizer: &Tokenizer) -> Vec<Value> {
    tokens.iter().map(|token| json!(WireToken::new(token, tokenizer))).collect()
}
