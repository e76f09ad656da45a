//! Any legal history becomes one that the model's format can hold.
//!
//! Clients send consecutive roles, results without calls, calls without results, empty answers and
//! instructions in the middle. Whatever mistral-common accepts passes through as it is. The rest is
//! altered as little as keeps every word: things move or change their role before anything is left
//! out. Every alteration is listed.

mod names;
mod results;
#[cfg(test)]
mod tests;

use std::mem;

use super::version::{CallIds, Rules};
use super::{
    AssistantMessage, Change, ChatRequest, ContentChunk, Message, ReasoningEffort, Version,
    python_json, validate,
};

/// What stands for the result of a call that never got one.
const NO_RESULT: &str = "no result";
/// What stands for a picture that has no place to go.
const NO_IMAGE: &str = "[image]";

/// The conversation as `validate` accepts it, and what was altered. Only an empty one stays refused.
pub fn normalise(mut request: ChatRequest, version: Version) -> (ChatRequest, Vec<Change>) {
    if request.messages.is_empty() || validate::validate(&request, version).is_ok() {
        return (request, Vec::new());
    }
    let rules = version.rules();
    let mut changes = Vec::new();
    if !rules.settings && request.reasoning_effort != ReasoningEffort::None {
        request.reasoning_effort = ReasoningEffort::None;
        let what = format!("models of {} cannot be told to reason", rules.name);
        changes.push(Change::new("reasoning_effort", what));
    }
    names::make_valid(&mut request, &mut changes);
    for tool in &mut request.tools {
        if !python_json::is_object(&tool.parameters) {
            tool.parameters = "{}".to_owned();
            let place = format!("tool {:?}", tool.name);
            changes.push(Change::new(place, "parameters that are no JSON object are left out"));
        }
    }
    let mut history = History::new(mem::take(&mut request.messages), changes);
    history.drop_silent_answers();
    let (results, orphans) = results::assign(&mut history, rules.call_ids);
    history.rebuild(results, orphans);
    history.keep_chunks_where_they_may_be(rules);
    // Answers of nothing but thinking have become silent where models know no thinking.
    history.drop_silent_answers();
    history.settle_the_ends();
    request.messages = history.messages.into_iter().map(|placed| placed.message).collect();
    (request, history.changes)
}

/// A message and its index in the history as it was sent.
struct Placed {
    index: usize,
    message: Message,
}

struct History {
    messages: Vec<Placed>,
    changes: Vec<Change>,
}

impl History {
    fn new(messages: Vec<Message>, changes: Vec<Change>) -> Self {
        let placed = |(index, message)| Placed { index, message };
        History { messages: messages.into_iter().enumerate().map(placed).collect(), changes }
    }

    fn change(&mut self, index: usize, what: impl Into<String>) {
        self.changes.push(Change::new(format!("messages[{index}]"), what));
    }

    /// Thinking stays with those who may think, pictures with those who may show some.
    fn keep_chunks_where_they_may_be(&mut self, rules: &Rules) {
        let mut carried: Vec<(usize, ContentChunk)> = Vec::new();
        for i in 0..self.messages.len() {
            let Placed { index, message } = &mut self.messages[i];
            let (index, role) = (*index, message.role());
            let may_think = rules.thinking_in.contains(&role);
            let may_show = rules.images_in.contains(&role);
            let mut what = None;
            message.content_mut().retain_mut(|chunk| match chunk {
                ContentChunk::Thinking { .. } if !may_think && role == "assistant" => {
                    what = Some("thinking, which this model does not know, is left out");
                    false
                }
                ContentChunk::Thinking { thinking, .. } if !may_think => {
                    *chunk = ContentChunk::Text(mem::take(thinking));
                    what = Some("thinking of someone else than the assistant is taken as text");
                    true
                }
                ContentChunk::Image(_) if !may_show => {
                    let text = ContentChunk::Text(NO_IMAGE.to_owned());
                    carried.push((index, mem::replace(chunk, text)));
                    true
                }
                _ => true,
            });
            let mut from = Vec::new();
            if role == "user" {
                from.extend(carried.iter().map(|(index, _)| *index));
                message.content_mut().splice(0..0, carried.drain(..).map(|(_, image)| image));
            }
            for index in from {
                self.change(index, "a picture moves to the user's next message");
            }
            if let Some(what) = what {
                self.change(index, what);
            }
        }
        for (index, _) in carried {
            self.change(index, "a picture is left out: no user message follows to hold it");
        }
    }

    /// Puts each call's results behind it and gives a valid place to everything else.
    fn rebuild(&mut self, mut results: results::Results, orphans: Vec<usize>) {
        let n_messages = self.messages.len();
        let last_assistant =
            self.messages.iter().rposition(|p| matches!(p.message, Message::Assistant(_)));
        let old = mem::take(&mut self.messages);
        for (i, Placed { index, message }) in old.into_iter().enumerate() {
            match message {
                Message::Tool(_) if orphans.binary_search(&i).is_err() => {}
                Message::Tool(tool) => {
                    self.change(index, "a result without a call becomes a user message");
                    let mut content = vec![ContentChunk::Text("Tool result:\n".to_owned())];
                    content.extend(tool.content);
                    self.messages.push(Placed { index, message: Message::User(content) });
                }
                Message::System(content) => {
                    let is_allowed = self.messages.last().is_none_or(|previous| {
                        matches!(previous.message, Message::System(_) | Message::User(_))
                    });
                    let message = if is_allowed {
                        Message::System(content)
                    } else {
                        self.change(index, "instructions after an answer become a user message");
                        Message::User(content)
                    };
                    self.messages.push(Placed { index, message });
                }
                Message::User(_) => self.messages.push(Placed { index, message }),
                Message::Assistant(mut assistant) => {
                    if assistant.prefix && i + 1 < n_messages {
                        assistant.prefix = false;
                        self.change(index, "only the last message can be continued");
                    }
                    // Calls at the very end may stay open: a user may speak instead.
                    let is_last = i + 1 == n_messages && !assistant.prefix;
                    let must_be_complete = last_assistant != Some(i) || is_last;
                    let answers =
                        results.take(i, &assistant, must_be_complete, index, &mut self.changes);
                    self.messages.push(Placed { index, message: Message::Assistant(assistant) });
                    self.messages.extend(answers);
                }
            }
        }
    }

    /// Takes out answers that neither say nor call anything, as far as no neighbour speaks for them.
    fn drop_silent_answers(&mut self) {
        let is_assistant = |placed: &Placed| matches!(placed.message, Message::Assistant(_));
        let mut kept: Vec<Placed> = Vec::with_capacity(self.messages.len());
        let mut dropped = Vec::new();
        let mut old = mem::take(&mut self.messages).into_iter().peekable();
        while let Some(first) = old.next() {
            if !is_assistant(&first) {
                kept.push(first);
                continue;
            }
            let mut group = vec![first];
            while let Some(next) = old.next_if(is_assistant) {
                group.push(next);
            }
            match group.iter().all(|placed| validate::is_silent(&placed.message)) {
                true => dropped.extend(group.iter().map(|placed| placed.index)),
                false => kept.extend(group),
            }
        }
        self.messages = kept;
        for index in dropped {
            self.change(index, "an answer without content and calls is left out");
        }
    }

    /// The first message is something to answer, the last one something to go on from.
    fn settle_the_ends(&mut self) {
        let n = self.messages.len();
        if let Some(Placed { index, message: Message::Assistant(last) }) = self.messages.last_mut()
            && !last.prefix
        {
            last.prefix = true;
            let index = *index;
            self.change(index, "the last message is the assistant's: it is to be continued");
        }
        let needs_user = match self.messages.first() {
            None => true,
            Some(first) => match &first.message {
                // The first message's calls are not looked at when results are paired with calls.
                Message::Assistant(first) => n == 1 || !first.tool_calls.is_empty(),
                Message::Tool(_) => true,
                Message::System(_) | Message::User(_) => false,
            },
        };
        if needs_user {
            self.messages.insert(0, Placed { index: 0, message: Message::User(Vec::new()) });
            self.change(0, "an empty user message is put in front");
        }
    }
}

/// Calls of a message that may have several.
fn calls(message: &Message) -> &[super::ToolCall] {
    match message {
        Message::Assistant(AssistantMessage { tool_calls, .. }) => tool_calls,
        _ => &[],
    }
}
