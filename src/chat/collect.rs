//! Events of one reply, gathered into the message that the conversation keeps.

use super::{AssistantMessage, ContentChunk, FinishReason, ReplyEvent, ToolCall};

/// Gathers a reply.
#[derive(Debug, Clone, Default)]
pub struct ReplyCollector {
    message: AssistantMessage,
    finish: Option<FinishReason>,
    malformed: bool,
}

impl ReplyCollector {
    /// Takes the next event.
    pub fn push(&mut self, event: &ReplyEvent) {
        let content = &mut self.message.content;
        match event {
            ReplyEvent::Reasoning(more) => match content.last_mut() {
                Some(ContentChunk::Thinking { thinking, .. }) => thinking.push_str(more),
                _ => content.push(ContentChunk::Thinking { thinking: more.clone(), closed: false }),
            },
            ReplyEvent::Text(more) => {
                self.close_thought();
                match self.message.content.last_mut() {
                    Some(ContentChunk::Text(text)) => text.push_str(more),
                    _ => self.message.content.push(ContentChunk::Text(more.clone())),
                }
            }
            ReplyEvent::ToolCallStarted { id, name } => {
                self.close_thought();
                let (id, name) = (id.clone(), name.clone());
                self.message.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            ReplyEvent::ToolCallArguments(more) => {
                if let Some(call) = self.message.tool_calls.last_mut() {
                    call.arguments.push_str(more);
                }
            }
            ReplyEvent::Finished { reason, malformed, .. } => {
                if matches!(reason, FinishReason::Stop | FinishReason::ToolCalls) {
                    self.close_thought();
                }
                self.finish = Some(*reason);
                self.malformed = *malformed;
            }
        }
    }

    /// The message so far. A thought that was cut off stays open.
    pub fn into_message(self) -> AssistantMessage {
        self.message
    }

    /// Why the reply ended; `None` while it has not.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Whether the model broke the grammar of replies.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    fn close_thought(&mut self) {
        if let Some(ContentChunk::Thinking { closed, .. }) = self.message.content.last_mut() {
            *closed = true;
        }
    }
}
