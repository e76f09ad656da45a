//! A reply as one message.

use serde_json::value::{RawValue, to_raw_value};

use super::wire::{Block, Head, SIGNATURE, Stop};
use crate::chat::{FinishReason, ReplyEvent};
use crate::server::http::ApiError;
use crate::server::request::{ReplyItem, Usage};

/// Gathers a reply.
#[derive(Debug)]
pub(super) struct MessageBody {
    head: Head,
    content: Vec<Block>,
    /// The call whose arguments are being written.
    call: Option<Call>,
    end: Option<(FinishReason, Option<String>)>,
}

#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl MessageBody {
    /// An answer without a piece yet.
    pub(super) fn new(head: Head) -> Self {
        MessageBody { head, content: Vec::new(), call: None, end: None }
    }

    /// Takes a piece; gives the answer's JSON after the last one.
    pub(super) fn push(&mut self, item: ReplyItem) -> Result<Option<Box<RawValue>>, ApiError> {
        match item {
            ReplyItem::Started(_) => Ok(None),
            ReplyItem::Event { event, .. } => {
                self.event(event);
                Ok(None)
            }
            ReplyItem::Done(usage) => Ok(Some(self.finish(&usage))),
            ReplyItem::Failed(error, _) => Err(error),
        }
    }

    fn event(&mut self, event: ReplyEvent) {
        match event {
            ReplyEvent::Reasoning(_) if self.head.hides_thinking => {}
            ReplyEvent::Reasoning(more) => {
                self.end_call();
                match self.content.last_mut() {
                    Some(Block::Thinking { thinking, .. }) => thinking.push_str(&more),
                    _ => {
                        let block = Block::Thinking { thinking: more, signature: SIGNATURE };
                        self.content.push(block);
                    }
                }
            }
            ReplyEvent::Text(more) => {
                self.end_call();
                self.text(more);
            }
            ReplyEvent::ToolCallStarted { id, name } => {
                self.end_call();
                self.call = Some(Call { id, name, arguments: String::new() });
            }
            ReplyEvent::ToolCallArguments(more) => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&more);
                }
            }
            ReplyEvent::Finished { reason, stopped_by, .. } => {
                self.end_call();
                self.end = Some((reason, stopped_by));
            }
        }
    }

    fn text(&mut self, more: String) {
        match self.content.last_mut() {
            Some(Block::Text { text }) => text.push_str(&more),
            _ => self.content.push(Block::Text { text: more }),
        }
    }

    /// Arguments that are no JSON object, as those of a call that was cut off, have no place in a call;
    /// nothing of them is lost as text.
    fn end_call(&mut self) {
        let Some(Call { id, name, mut arguments }) = self.call.take() else { return };
        if arguments.is_empty() {
            arguments.push_str("{}");
        }
        match RawValue::from_string(arguments.clone()) {
            Ok(input) if input.get().starts_with('{') => {
                self.content.push(Block::ToolUse { id, name, input });
            }
            _ => self.content.push(Block::Text { text: format!("{name} {arguments}") }),
        }
    }

    fn finish(&mut self, usage: &Usage) -> Box<RawValue> {
        let (reason, stopped_by) = self.end.take().unwrap_or((FinishReason::Cancelled, None));
        let has_calls = self.content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        let reason = match reason {
            // Clients that are told of calls look for them.
            FinishReason::ToolCalls if !has_calls => FinishReason::Stop,
            reason => reason,
        };
        let stop = Stop::new(reason, stopped_by.as_deref());
        let message = self.head.message(&self.content, stop, usage);
        to_raw_value(&message).expect("our messages have string keys only")
    }
}
