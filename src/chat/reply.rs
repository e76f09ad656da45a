//! Generated token ids become events: reasoning, text, tool calls.
//!
//! The model writes `([THINK]…[/THINK])? text? ([TOOL_CALLS]name[ARGS]{json})* </s>`, where the
//! bracketed words are control tokens. Models of v11 write `name[CALL_ID]id[ARGS]{json}` and older
//! ones a JSON list of calls; which it is shows by itself. The parser looks at ids only: the same
//! characters spelt out as text are text. Whatever the model writes is accepted; what breaks the
//! grammar comes out as text, or not at all if it is a lone control token, and sets `malformed` in
//! the last event.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::mem;

use super::call_list::{self, WrittenCall};
use super::validate::{is_call_id, is_function_name};
use super::{ChatRequest, ContentChunk, StopMatcher, Version, merge, python_json};
use crate::tokenizer::{TokenId, Tokenizer, Utf8Stream};

/// A piece of a reply. Texts are never empty and never end within a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEvent {
    /// More of the reasoning.
    Reasoning(String),
    /// More of the answer.
    Text(String),
    /// The model begins to call a function; the argument events up to the next event that is none
    /// belong to this call.
    ToolCallStarted {
        /// Nine letters and digits, unlike those of the other calls: the model's own where it writes
        /// ids.
        id: String,
        /// The function's name.
        name: String,
    },
    /// More of the arguments' JSON text.
    ToolCallArguments(String),
    /// The last event.
    Finished {
        /// Why the reply ended.
        reason: FinishReason,
        /// Whether the output broke the grammar of replies.
        malformed: bool,
        /// The stop string that ended it.
        stopped_by: Option<String>,
    },
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// The token limit or the end of the context came first.
    Length,
    /// The model ended its turn with tool calls.
    ToolCalls,
    /// The caller did not want more.
    Cancelled,
}

/// The state machine; one for each reply.
#[derive(Debug)]
pub struct ReplyParser<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlIds,
    state: State,
    utf8: Utf8Stream,
    stop: StopMatcher,
    malformed: bool,
    /// Ids of the calls so far.
    call_ids: Vec<String>,
    random: RandomState,
    is_raw: bool,
}

#[derive(Debug, Default)]
struct ControlIds {
    think: Option<TokenId>,
    end_think: Option<TokenId>,
    tool_calls: Option<TokenId>,
    call_id: Option<TokenId>,
    args: Option<TokenId>,
}

#[derive(Debug)]
enum State {
    Text,
    Reasoning,
    /// After `[TOOL_CALLS]`: the name so far, or a list of calls.
    Name(String),
    /// After `[CALL_ID]`: the id so far.
    CallId {
        name: String,
        id: String,
    },
    /// After `[ARGS]`: the arguments so far, without the white space around them.
    Arguments {
        json: String,
        /// White space that only counts if more arguments follow.
        space: String,
    },
}

impl<'a> ReplyParser<'a> {
    /// A parser for the reply to a prompt that ends with a user's or a tool's message.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            control: ControlIds {
                think: tokenizer.control_token("[THINK]"),
                end_think: tokenizer.control_token("[/THINK]"),
                tool_calls: tokenizer.control_token("[TOOL_CALLS]"),
                call_id: tokenizer.control_token("[CALL_ID]"),
                args: tokenizer.control_token("[ARGS]"),
            },
            state: State::Text,
            utf8: Utf8Stream::new(),
            stop: StopMatcher::default(),
            malformed: false,
            call_ids: Vec::new(),
            random: RandomState::new(),
            is_raw: false,
        }
    }

    /// A parser for plain completion: everything is text, control tokens are left out.
    pub fn raw(tokenizer: &'a Tokenizer) -> Self {
        Self { control: ControlIds::default(), is_raw: true, ..Self::new(tokenizer) }
    }

    /// Ends the answer's text at any of these strings. Reasoning and arguments are not searched.
    pub fn with_stop(mut self, stops: impl IntoIterator<Item = String>) -> Self {
        self.stop = StopMatcher::new(stops);
        self
    }

    /// Starts within the reasoning if the request ends with a thought to be continued.
    pub fn continuing(mut self, request: &ChatRequest) -> Self {
        // Versions join texts in ways of their own, but never a thought.
        if let Some(last) = merge::last_assistant(&request.messages, Version::V15) {
            let open =
                matches!(last.content.last(), Some(ContentChunk::Thinking { closed: false, .. }));
            if last.prefix && open && last.tool_calls.is_empty() {
                self.state = State::Reasoning;
            }
        }
        self
    }

    /// Whether a stop string ended the reply; what is pushed after it is ignored.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// Whether what comes next belongs to the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Takes the next generated id.
    pub fn push(&mut self, id: TokenId) -> Vec<ReplyEvent> {
        let mut events = Vec::new();
        if self.is_stopped() {
            return events;
        }
        if self.tokenizer.is_control(id) {
            let unfinished = self.utf8.finish();
            self.take_text(unfinished, &mut events);
            self.take_control(id, &mut events);
        } else {
            let text = self.utf8.push(self.tokenizer.token_bytes(id));
            self.take_text(text, &mut events);
        }
        events
    }

    /// Ends the reply: everything held back, then `Finished`.
    pub fn finish(mut self, reason: FinishReason) -> Vec<ReplyEvent> {
        let mut events = Vec::new();
        if !self.is_stopped() {
            let unfinished = self.utf8.finish();
            self.take_text(unfinished, &mut events);
        }
        let stopped = self.is_stopped();
        let complete = stopped || reason == FinishReason::Stop;
        if complete {
            self.malformed |= matches!(self.state, State::Reasoning);
            self.enter(State::Text, &mut events);
        } else if matches!(self.state, State::Text) {
            // Only text is of use when cut off; half a call is neither a mistake nor a call.
            push_text(self.stop.finish(), &mut events);
        } else if let State::Name(written) = &self.state
            && let Some(calls) = call_list::parse(written)
        {
            self.push_calls(calls, &mut events);
        }
        let reason = match complete {
            true if !self.call_ids.is_empty() && !stopped => FinishReason::ToolCalls,
            true => FinishReason::Stop,
            false => reason,
        };
        let stopped_by = self.stop.stopped_by().map(str::to_owned);
        events.push(ReplyEvent::Finished { reason, malformed: self.malformed, stopped_by });
        events
    }

    fn take_control(&mut self, id: TokenId, events: &mut Vec<ReplyEvent>) {
        let id = Some(id);
        if id == Some(self.tokenizer.eos()) {
            return;
        }
        let thinking = matches!(self.state, State::Reasoning);
        if id == self.control.think && !thinking {
            self.enter(State::Reasoning, events);
        } else if id == self.control.end_think && thinking {
            self.enter(State::Text, events);
        } else if id == self.control.tool_calls {
            self.malformed |= thinking;
            self.enter(State::Name(String::new()), events);
        } else if id == self.control.call_id
            && let State::Name(name) = &mut self.state
        {
            self.state = State::CallId { name: mem::take(name), id: String::new() };
        } else if id == self.control.args
            && let State::Name(name) = &mut self.state
        {
            let name = mem::take(name);
            self.begin_call(name, None, events);
        } else if id == self.control.args
            && let State::CallId { name, id } = &mut self.state
        {
            let (name, id) = (mem::take(name), mem::take(id));
            self.begin_call(name, Some(id), events);
        } else {
            self.malformed |= !self.is_raw;
        }
    }

    fn begin_call(&mut self, name: String, id: Option<String>, events: &mut Vec<ReplyEvent>) {
        let name = name.trim();
        if !is_function_name(name) {
            self.malformed = true;
            self.state = State::Text;
            return self.take_text(name.to_owned(), events);
        }
        let id = self.call_id(id);
        events.push(ReplyEvent::ToolCallStarted { id, name: name.to_owned() });
        self.state = State::Arguments { json: String::new(), space: String::new() };
    }

    fn push_calls(&mut self, calls: Vec<WrittenCall>, events: &mut Vec<ReplyEvent>) {
        for WrittenCall { id, name, arguments } in calls {
            let id = self.call_id(id);
            self.malformed |= !python_json::is_object(&arguments);
            events.push(ReplyEvent::ToolCallStarted { id, name });
            if !arguments.is_empty() {
                events.push(ReplyEvent::ToolCallArguments(arguments));
            }
        }
    }

    fn take_text(&mut self, text: String, events: &mut Vec<ReplyEvent>) {
        if text.is_empty() {
            return;
        }
        match &mut self.state {
            State::Text => push_text(self.stop.push(&text), events),
            State::Reasoning => events.push(ReplyEvent::Reasoning(text)),
            State::Name(name) => name.push_str(&text),
            State::CallId { id, .. } => id.push_str(&text),
            State::Arguments { json, space } => {
                let mut more = mem::take(space);
                more.push_str(&text);
                let start = if json.is_empty() { more.len() - more.trim_start().len() } else { 0 };
                let end = more.trim_end().len().max(start);
                *space = more[end..].to_owned();
                if end > start {
                    json.push_str(&more[start..end]);
                    events.push(ReplyEvent::ToolCallArguments(more[start..end].to_owned()));
                }
            }
        }
    }

    /// Leaves the present state and takes up another.
    fn enter(&mut self, next: State, events: &mut Vec<ReplyEvent>) {
        match mem::replace(&mut self.state, next) {
            State::Text => push_text(self.stop.finish(), events),
            State::Reasoning => {}
            State::Name(written) => match call_list::parse(&written) {
                Some(calls) => self.push_calls(calls, events),
                None => {
                    self.malformed = true;
                    push_text(written.trim().to_owned(), events);
                }
            },
            State::CallId { name, id } => {
                self.malformed = true;
                push_text(format!("{}{}", name.trim(), id.trim()), events);
            }
            State::Arguments { json, .. } => self.malformed |= !python_json::is_object(&json),
        }
    }

    /// The id that the model wrote if it is one, else a new one.
    fn call_id(&mut self, written: Option<String>) -> String {
        let id = match written.as_deref().map(str::trim) {
            Some(id) if is_call_id(id) && !self.call_ids.iter().any(|other| other == id) => {
                id.to_owned()
            }
            written => {
                self.malformed |= written.is_some();
                self.new_call_id()
            }
        };
        self.call_ids.push(id.clone());
        id
    }

    fn new_call_id(&self) -> String {
        const ALPHABET: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut random = self.random.hash_one(self.call_ids.len());
        (0..9)
            .map(|_| {
                let letter = ALPHABET[(random % 62) as usize];
                random /= 62;
                char::from(letter)
            })
            .collect()
    }
}

fn push_text(text: String, events: &mut Vec<ReplyEvent>) {
    if !text.is_empty() {
        events.push(ReplyEvent::Text(text));
    }
}
