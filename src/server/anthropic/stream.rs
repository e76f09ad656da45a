//! A reply as Anthropic's events: parts that are begun, added to and ended one after the other.
//!
//! Arguments of calls go out as the model writes them. Where they turn out to be no JSON, the client finds
//! out as it does with Anthropic's own fine-grained streams.

use serde_json::value::RawValue;

use super::error;
use super::wire::{Block, Delta, Event, Head, SIGNATURE, Stop, WireUsage, push_event};
use crate::chat::{FinishReason, ReplyEvent};
use crate::server::request::{ReplyItem, Usage};

/// The state between two pieces of a reply.
#[derive(Debug)]
pub(super) struct MessageStream {
    head: Head,
    /// The part that is open.
    open: Option<Part>,
    /// Parts before the one that is open or comes next.
    index: usize,
    end: Option<(FinishReason, Option<String>)>,
    is_over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Thinking,
    Text,
    ToolUse,
}

impl MessageStream {
    /// An answer that begins.
    pub(super) fn new(head: Head) -> Self {
        MessageStream { head, open: None, index: 0, end: None, is_over: false }
    }

    /// Whether its last event was given.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The events that a piece becomes; empty if it has nothing for the client.
    pub(super) fn push(&mut self, item: ReplyItem) -> String {
        let mut out = String::new();
        self.is_over |= matches!(item, ReplyItem::Done(_) | ReplyItem::Failed(..));
        match item {
            ReplyItem::Started(start) => {
                let usage = Usage {
                    n_prompt: start.n_prompt,
                    n_cached: start.n_reused,
                    ..Usage::default()
                };
                self.start(&usage, &mut out);
            }
            ReplyItem::Event { event, .. } => self.event(event, &mut out),
            ReplyItem::Done(usage) => {
                let (reason, stopped_by) =
                    self.end.take().unwrap_or((FinishReason::Cancelled, None));
                let delta = Stop::new(reason, stopped_by.as_deref());
                Event::MessageDelta { delta, usage: WireUsage::new(&usage) }.write(&mut out);
                Event::MessageStop {}.write(&mut out);
            }
            ReplyItem::Failed(error, _) => {
                push_event("error", &error::body(&error, &self.head.request_id), &mut out);
            }
        }
        out
    }

    fn start(&self, usage: &Usage, out: &mut String) {
        let message = self.head.message(&[], Stop::default(), usage);
        Event::MessageStart { message }.write(out);
        Event::Ping {}.write(out);
    }

    fn event(&mut self, event: ReplyEvent, out: &mut String) {
        match event {
            ReplyEvent::Reasoning(_) if self.head.hides_thinking => {}
            ReplyEvent::Reasoning(thinking) => {
                self.enter(Part::Thinking, out);
                self.delta(Delta::Thinking { thinking: &thinking }, out);
            }
            ReplyEvent::Text(text) => {
                self.enter(Part::Text, out);
                self.delta(Delta::Text { text: &text }, out);
            }
            ReplyEvent::ToolCallStarted { id, name } => {
                self.close(out);
                let input = RawValue::from_string("{}".to_owned()).expect("it is JSON");
                self.begin(Part::ToolUse, Block::ToolUse { id, name, input }, out);
            }
            ReplyEvent::ToolCallArguments(partial_json) => {
                self.delta(Delta::InputJson { partial_json: &partial_json }, out);
            }
            ReplyEvent::Finished { reason, stopped_by, .. } => {
                self.close(out);
                self.end = Some((reason, stopped_by));
            }
        }
    }

    /// Goes on with a part of text or thinking, or begins one.
    fn enter(&mut self, part: Part, out: &mut String) {
        if self.open == Some(part) {
            return;
        }
        self.close(out);
        let block = match part {
            Part::Thinking => Block::Thinking { thinking: String::new(), signature: "" },
            _ => Block::Text { text: String::new() },
        };
        self.begin(part, block, out);
    }

    fn begin(&mut self, part: Part, content_block: Block, out: &mut String) {
        self.open = Some(part);
        Event::ContentBlockStart { index: self.index, content_block }.write(out);
    }

    fn delta(&self, delta: Delta<'_>, out: &mut String) {
        Event::ContentBlockDelta { index: self.index, delta }.write(out);
    }

    fn close(&mut self, out: &mut String) {
        let Some(part) = self.open.take() else { return };
        if part == Part::Thinking {
            self.delta(Delta::Signature { signature: SIGNATURE }, out);
        }
        Event::ContentBlockStop { index: self.index }.write(out);
        self.index += 1;
    }
}
