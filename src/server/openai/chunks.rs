//! A chat completion as a stream of chunks, each written when its piece of the reply comes.
//!
//! No chunk has two kinds of content, because some clients look for one only; none but a choice's first has
//! a role. A choice's last chunk waits until it is known whether the usage goes into it.

use serde::Serialize;

use super::answer::{Answer, Detail, Part, WireCall};
use super::wire::{ChatLogprobs, DONE, finish_name, push_event, push_failure};
use crate::chat::{FinishReason, ReplyEvent};
use crate::server::request::{ReplyItem, ScoredToken, Usage};
use crate::tokenizer::Tokenizer;

/// The writer of one stream.
#[derive(Debug)]
pub(super) struct ChatStream {
    answer: Answer,
    tokenizer: Tokenizer,
    choices: Vec<Choice>,
    /// The end of the choice that ended last, not yet written.
    held: Option<Held>,
}

#[derive(Debug, Clone, Default)]
struct Choice {
    has_begun: bool,
    /// Calls so far.
    n_calls: usize,
    /// The last call.
    call: Call,
    /// Probabilities of what is not written yet.
    tokens: Vec<ScoredToken>,
}

#[derive(Debug, Clone, Default)]
struct Call {
    id: String,
    name: String,
    /// Arguments that wait until the call is complete.
    arguments: String,
    is_waiting: bool,
}

#[derive(Debug)]
struct Held {
    index: usize,
    reason: FinishReason,
}

#[derive(Serialize)]
struct WireChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Delta<'a> {
    Role {
        role: &'static str,
        content: &'static str,
    },
    Text {
        content: &'a str,
    },
    Parts {
        content: [Part<'a>; 1],
    },
    Reasoning {
        reasoning_content: &'a str,
        reasoning: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning_details: Option<[Detail<'a>; 1]>,
    },
    Calls {
        tool_calls: [WireCall<'a>; 1],
    },
    Nothing {},
}

impl ChatStream {
    /// The writer of an answer.
    pub(super) fn new(answer: Answer, tokenizer: Tokenizer) -> Self {
        let choices = vec![Choice::default(); answer.n];
        ChatStream { answer, tokenizer, choices, held: None }
    }

    /// Appends the events that `item` becomes.
    pub(super) fn push(&mut self, item: ReplyItem, out: &mut String) {
        match item {
            ReplyItem::Started(_) => {}
            ReplyItem::Event { choice, event, tokens } => {
                if choice < self.choices.len() {
                    self.choices[choice].tokens.extend(tokens);
                    self.push_piece(choice, event, out);
                }
            }
            ReplyItem::Done(usage) => self.finish(&usage, out),
            ReplyItem::Failed(error, usage) => {
                self.release(None, out);
                push_failure(&error, &usage, out);
            }
        }
    }

    fn push_piece(&mut self, index: usize, event: ReplyEvent, out: &mut String) {
        if !self.choices[index].has_begun {
            self.choices[index].has_begun = true;
            let role = Delta::Role { role: "assistant", content: "" };
            self.write(&[choice(index, role, None)], None, out);
        }
        if !matches!(event, ReplyEvent::ToolCallArguments(_)) {
            self.complete_call(index, out);
        }
        match event {
            ReplyEvent::Reasoning(_) if self.answer.hides_reasoning => {
                self.choices[index].tokens.clear();
            }
            ReplyEvent::Reasoning(text) => {
                let delta = match self.answer.has_chunks() {
                    true => Delta::Parts { content: [Part::thinking(&text, None)] },
                    false => Delta::Reasoning {
                        reasoning_content: &text,
                        reasoning: &text,
                        reasoning_details: self.answer.details(&text),
                    },
                };
                self.write_delta(index, delta, out);
            }
            ReplyEvent::Text(text) => self.write_delta(index, Delta::Text { content: &text }, out),
            ReplyEvent::ToolCallStarted { id, name } => self.begin_call(index, id, name, out),
            ReplyEvent::ToolCallArguments(more) => self.push_arguments(index, &more, out),
            ReplyEvent::Finished { reason, .. } => {
                self.release(None, out);
                self.held = Some(Held { index, reason });
            }
        }
    }

    fn begin_call(&mut self, index: usize, id: String, name: String, out: &mut String) {
        let state = &mut self.choices[index];
        state.n_calls += 1;
        let (number, is_waiting) = (state.n_calls - 1, self.answer.manner.whole_calls);
        if !is_waiting {
            let call = WireCall::new(number, &id, &name, "");
            self.write_delta(index, Delta::Calls { tool_calls: [call] }, out);
        }
        self.choices[index].call = Call { id, name, arguments: String::new(), is_waiting };
    }

    fn push_arguments(&mut self, index: usize, more: &str, out: &mut String) {
        let state = &mut self.choices[index];
        if state.call.is_waiting {
            return state.call.arguments.push_str(more);
        }
        let number = state.n_calls.saturating_sub(1);
        let id = std::mem::take(&mut state.call.id);
        let call = WireCall::more(number, self.answer.has_chunks().then_some(&id), more);
        self.write_delta(index, Delta::Calls { tool_calls: [call] }, out);
        self.choices[index].call.id = id;
    }

    /// Writes the call that waits until it is complete, if there is one.
    fn complete_call(&mut self, index: usize, out: &mut String) {
        let state = &mut self.choices[index];
        if !state.call.is_waiting {
            return;
        }
        let Call { id, name, arguments, .. } = std::mem::take(&mut state.call);
        let call = WireCall::new(state.n_calls - 1, &id, &name, &arguments);
        self.write_delta(index, Delta::Calls { tool_calls: [call] }, out);
    }

    /// Writes the last chunk that was held back.
    fn release(&mut self, usage: Option<&Usage>, out: &mut String) {
        let Some(Held { index, reason }) = self.held.take() else { return };
        let tokens = std::mem::take(&mut self.choices[index].tokens);
        let mut last =
            choice(index, Delta::Nothing {}, ChatLogprobs::new(&tokens, &self.tokenizer));
        last.finish_reason = Some(finish_name(reason));
        self.write(&[last], usage, out);
    }

    fn finish(&mut self, usage: &Usage, out: &mut String) {
        if self.answer.has_usage_chunk {
            self.release(None, out);
            self.write(&[], Some(usage), out);
        } else {
            self.release(Some(usage), out);
        }
        out.push_str(DONE);
    }

    fn write_delta(&mut self, index: usize, delta: Delta<'_>, out: &mut String) {
        let tokens = std::mem::take(&mut self.choices[index].tokens);
        let logprobs = ChatLogprobs::new(&tokens, &self.tokenizer);
        self.write(&[choice(index, delta, logprobs)], None, out);
    }

    fn write(&self, choices: &[WireChoice<'_>], usage: Option<&Usage>, out: &mut String) {
        push_event(&self.answer.head.piece("chat.completion.chunk", choices, usage), out);
    }
}

fn choice<'a>(
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
) -> WireChoice<'a> {
    WireChoice { index, delta, logprobs, finish_reason: None }
}
