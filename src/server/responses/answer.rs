//! A reply as OpenAI's Responses have it: one state machine writes the events and gathers the object, so that
//! the stream's end and the answer without a stream are the same.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::items::{Item, ItemKind, logprobs};
use crate::chat::{ClientTool, FinishReason, ReplyEvent};
use crate::server::http::{ApiError, ErrorKind};
use crate::server::request::{ReplyItem, Usage};
use crate::tokenizer::Tokenizer;

/// What is known of an answer before it begins.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// 24 hexadecimal digits of its own, from which its name and those of its items are made.
    pub(super) digits: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model as the client calls it.
    pub(super) model: String,
    /// Fields of the request that the answer repeats.
    pub(super) echo: Map<String, Value>,
    /// What the client calls its tools.
    pub(super) tools: HashMap<String, ClientTool>,
    /// Whether reasoning is left out of the answer.
    pub(super) hides_reasoning: bool,
    /// Whether reasoning is to be encrypted.
    pub(super) encrypts_reasoning: bool,
}

/// An answer that is being written.
#[derive(Debug)]
pub(super) struct Answer {
    head: Head,
    /// Items that are complete.
    done: Vec<Value>,
    open: Option<Item>,
    finish: Option<FinishReason>,
    outcome: Option<Outcome>,
    n_events: usize,
}

#[derive(Debug)]
struct Outcome {
    usage: Usage,
    error: Option<ApiError>,
}

impl Answer {
    /// One of which nothing is written.
    pub(super) fn new(head: Head) -> Self {
        Answer { head, done: Vec::new(), open: None, finish: None, outcome: None, n_events: 0 }
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// What went wrong, once it has.
    pub(super) fn error(&self) -> Option<&ApiError> {
        self.outcome.as_ref()?.error.as_ref()
    }

    /// The events that come before the reply.
    pub(super) fn begin(&mut self) -> String {
        let mut out = String::new();
        for kind in ["response.created", "response.in_progress"] {
            let response = self.object();
            self.event(kind, json!({"response": response}), &mut out);
        }
        out
    }

    /// The events that a piece of the reply becomes.
    pub(super) fn take(&mut self, item: ReplyItem, tokenizer: &Tokenizer) -> String {
        let mut out = String::new();
        match item {
            ReplyItem::Started(_) => {}
            ReplyItem::Event { event, tokens, .. } => {
                self.reply_event(event, logprobs(&tokens, tokenizer), &mut out);
            }
            ReplyItem::Done(usage) => {
                self.close("completed", &mut out);
                self.outcome = Some(Outcome { usage, error: None });
                let kind = format!("response.{}", self.status());
                let response = self.object();
                self.event(&kind, json!({"response": response}), &mut out);
            }
            ReplyItem::Failed(error, usage) => self.fail(error, usage, &mut out),
        }
        out
    }

    /// The object as it is now.
    pub(super) fn object(&self) -> Value {
        let status = self.status();
        let error =
            self.error().map(|error| json!({"code": code(error), "message": error.message}));
        let reason = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let mut object = json!({
            "id": format!("resp_{}", self.head.digits),
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": false,
            "error": error,
            "incomplete_details": reason,
            "model": self.head.model,
            "output": self.done,
            "previous_response_id": null,
            "store": false,
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(self.head.echo.clone());
        }
        object["usage"] = self.outcome.as_ref().map_or(Value::Null, |end| usage(&end.usage));
        object
    }

    fn status(&self) -> &'static str {
        match (&self.outcome, self.finish) {
            (None, _) => "in_progress",
            (Some(Outcome { error: Some(_), .. }), _) => "failed",
            (_, Some(FinishReason::Length | FinishReason::Cancelled)) => "incomplete",
            _ => "completed",
        }
    }

    fn reply_event(&mut self, event: ReplyEvent, scores: Vec<Value>, out: &mut String) {
        match event {
            ReplyEvent::Reasoning(_) if self.head.hides_reasoning => {}
            ReplyEvent::Reasoning(more) => {
                if !matches!(&self.open, Some(Item { kind: ItemKind::Reasoning { .. }, .. })) {
                    let is_encrypted = self.head.encrypts_reasoning;
                    self.open(ItemKind::Reasoning { is_encrypted }, out);
                }
                self.grow(&more, Vec::new(), out);
            }
            ReplyEvent::Text(more) => {
                if !matches!(&self.open, Some(Item { kind: ItemKind::Message(_), .. })) {
                    self.open(ItemKind::Message(Vec::new()), out);
                }
                self.grow(&more, scores, out);
            }
            ReplyEvent::ToolCallStarted { id, name } => {
                let plain = || ClientTool { name: name.clone(), ..ClientTool::default() };
                let tool = self.head.tools.get(&name).cloned().unwrap_or_else(plain);
                self.open(ItemKind::Call { call_id: id, tool }, out);
            }
            ReplyEvent::ToolCallArguments(more) => self.grow(&more, Vec::new(), out),
            ReplyEvent::Finished { reason, .. } => {
                self.finish = Some(reason);
                let is_whole = matches!(reason, FinishReason::Stop | FinishReason::ToolCalls);
                self.close(if is_whole { "completed" } else { "incomplete" }, out);
            }
        }
    }

    fn open(&mut self, kind: ItemKind, out: &mut String) {
        self.close("completed", out);
        let id = format!("{}{}{:02}", kind.prefix(), self.head.digits, self.done.len());
        let item = Item { id, text: String::new(), kind };
        let index = self.done.len();
        let added = json!({"output_index": index, "item": item.announced()});
        self.event("response.output_item.added", added, out);
        if let Some((kind, mut data)) = part_event(&item, index) {
            data["part"] = item.part();
            self.event(&format!("response.{kind}.added"), data, out);
        }
        self.open = Some(item);
    }

    /// Adds to the open item.
    fn grow(&mut self, more: &str, scores: Vec<Value>, out: &mut String) {
        let Some(mut item) = self.open.take() else { return };
        item.text.push_str(more);
        let (kind, mut data) = text_event(&item, self.done.len());
        if let ItemKind::Message(all) = &mut item.kind {
            data["logprobs"] = scores.iter().cloned().collect();
            all.extend(scores);
        }
        // The text of a custom tool is within a JSON string, which is read when it is complete.
        if !matches!(&item.kind, ItemKind::Call { tool, .. } if tool.is_custom) {
            data["delta"] = more.into();
            self.event(&format!("response.{kind}.delta"), data, out);
        }
        self.open = Some(item);
    }

    fn close(&mut self, status: &str, out: &mut String) {
        let Some(item) = self.open.take() else { return };
        let index = self.done.len();
        let (kind, mut data) = text_event(&item, index);
        match &item.kind {
            ItemKind::Call { tool, .. } if tool.is_custom => {
                let mut delta = data.clone();
                delta["delta"] = item.input().into();
                self.event(&format!("response.{kind}.delta"), delta, out);
                data["input"] = item.input().into();
            }
            ItemKind::Call { tool, .. } => {
                data["name"] = tool.name.as_str().into();
                data["arguments"] = item.text.as_str().into();
            }
            ItemKind::Message(scores) => {
                data["text"] = item.text.as_str().into();
                data["logprobs"] = scores.iter().cloned().collect();
            }
            ItemKind::Reasoning { .. } => data["text"] = item.text.as_str().into(),
        }
        self.event(&format!("response.{kind}.done"), data, out);
        if let Some((kind, mut data)) = part_event(&item, index) {
            data["part"] = item.part();
            self.event(&format!("response.{kind}.done"), data, out);
        }
        let item = item.json(status);
        let done = json!({"output_index": index, "item": item});
        self.event("response.output_item.done", done, out);
        self.done.push(item);
    }

    /// Two events: Codex and Vibe look for the first, and OpenAI's client raises the second.
    fn fail(&mut self, error: ApiError, usage: Usage, out: &mut String) {
        self.close("incomplete", out);
        let (code, message, param) = (code(&error), error.message.clone(), error.param.clone());
        let nested = json!({
            "type": error.type_name(), "code": code, "message": message, "param": param,
        });
        self.outcome = Some(Outcome { usage, error: Some(error) });
        let response = self.object();
        self.event("response.failed", json!({"response": response}), out);
        let data = json!({"code": code, "message": message, "param": param, "error": nested});
        self.event("error", data, out);
    }

    fn event(&mut self, kind: &str, data: Value, out: &mut String) {
        let mut event = json!({"type": kind, "sequence_number": self.n_events});
        if let (Some(event), Value::Object(data)) = (event.as_object_mut(), data) {
            event.extend(data);
        }
        self.n_events += 1;
        out.push_str(&format!("event: {kind}\ndata: {event}\n\n"));
    }
}

/// The events about an item's only part: their name, and where the part is.
fn part_event(item: &Item, index: usize) -> Option<(&'static str, Value)> {
    match item.kind {
        ItemKind::Reasoning { .. } => Some((
            "reasoning_summary_part",
            json!({"item_id": item.id, "output_index": index, "summary_index": 0}),
        )),
        ItemKind::Message(_) => Some((
            "content_part",
            json!({"item_id": item.id, "output_index": index, "content_index": 0}),
        )),
        ItemKind::Call { .. } => None,
    }
}

/// The events about an item's text: their name, and where the text is.
fn text_event(item: &Item, index: usize) -> (&'static str, Value) {
    let name = match &item.kind {
        ItemKind::Reasoning { .. } => "reasoning_summary_text",
        ItemKind::Message(_) => "output_text",
        ItemKind::Call { tool, .. } if tool.is_custom => "custom_tool_call_input",
        ItemKind::Call { .. } => "function_call_arguments",
    };
    let place = match part_event(item, index) {
        Some((_, place)) => place,
        None => json!({"item_id": item.id, "output_index": index}),
    };
    (name, place)
}

/// The word for an error, of those that clients of this protocol know.
fn code(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::ContextLength { .. } => "context_length_exceeded",
        ErrorKind::Overloaded { .. } => "rate_limit_exceeded",
        _ if error.status().is_server_error() => "server_error",
        _ => "invalid_prompt",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.n_prompt,
        "input_tokens_details": {"cached_tokens": usage.n_cached, "cache_write_tokens": 0},
        "output_tokens": usage.n_completion,
        "output_tokens_details": {"reasoning_tokens": usage.n_reasoning},
        "total_tokens": usage.n_prompt + usage.n_completion,
    })
}
