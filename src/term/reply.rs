//! Reply events become what a person, or the next program in a pipe, reads.
//!
//! The answer goes to one stream; the asides, reasoning and calls for people, go to stderr or, in a chat
//! on a terminal, to the same stream in dimmed letters. Calls for programs are lines of the answer's
//! stream. Nothing is written here: `render` gives the text for each stream, so that tests see every byte.

use std::mem;

use super::calls::{json_line, pretty_arguments};
use super::escape::escape_controls;
use crate::chat::{FinishReason, ReplyEvent};

/// How one stream shows text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStyle {
    /// Steering characters are shown escaped: a person reads.
    pub is_terminal: bool,
    /// Asides are dimmed.
    pub colors: bool,
}

/// Who reads tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStyle {
    /// A person, among the asides.
    Readable,
    /// A program, in the answer's stream: one JSON object a line.
    Json,
}

/// Text for the two streams.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The answer's stream.
    pub answer: String,
    /// The stream of reasoning and tool calls.
    pub aside: String,
    /// Where both streams are one, the answer's text goes before the aside.
    pub is_answer_first: bool,
}

/// Shows one reply.
#[derive(Debug)]
pub struct ReplyRenderer {
    answer: StreamStyle,
    aside: StreamStyle,
    calls: CallStyle,
    show_reasoning: bool,
    section: Section,
    /// The call that is being made; its arguments are shown when they are complete.
    call: Call,
    /// Whether the stream's last character was a line feed, or there was none.
    answer_at_line_start: bool,
    aside_at_line_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Reasoning,
    Answer,
    ToolCall,
}

#[derive(Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl ReplyRenderer {
    /// A renderer for one reply.
    pub fn new(
        answer: StreamStyle,
        aside: StreamStyle,
        calls: CallStyle,
        show_reasoning: bool,
    ) -> Self {
        Self {
            answer,
            aside,
            calls,
            show_reasoning,
            section: Section::None,
            call: Call::default(),
            answer_at_line_start: true,
            aside_at_line_start: true,
        }
    }

    /// What the event adds to each stream.
    pub fn render(&mut self, event: &ReplyEvent) -> Rendered {
        let mut out = Rendered::default();
        match event {
            ReplyEvent::Reasoning(text) if self.show_reasoning => {
                self.enter(Section::Reasoning, &mut out);
                self.push_aside(text, &mut out);
            }
            ReplyEvent::Reasoning(_) => {}
            ReplyEvent::Text(text) => {
                self.enter(Section::Answer, &mut out);
                let shown = shown(text, self.answer);
                self.answer_at_line_start = shown.ends_with('\n');
                out.answer.push_str(&shown);
            }
            ReplyEvent::ToolCallStarted { id, name } => {
                // Two calls in a row get a line each.
                self.enter(Section::None, &mut out);
                self.enter(Section::ToolCall, &mut out);
                let (id, name) = (id.clone(), name.clone());
                if self.calls == CallStyle::Readable {
                    self.push_aside(&format!("→ {name}"), &mut out);
                }
                self.call = Call { id, name, arguments: String::new() };
            }
            ReplyEvent::ToolCallArguments(text) => self.call.arguments.push_str(text),
            ReplyEvent::Finished { reason, .. } => {
                if matches!(reason, FinishReason::Length | FinishReason::Cancelled) {
                    self.break_call_off(&mut out);
                }
                self.enter(Section::None, &mut out);
            }
        }
        out
    }

    /// A call that was cut off is none for a program; a person sees what there is.
    fn break_call_off(&mut self, out: &mut Rendered) {
        if self.section != Section::ToolCall {
            return;
        }
        let call = mem::take(&mut self.call);
        match self.calls {
            CallStyle::Json => self.section = Section::None,
            CallStyle::Readable => self.push_aside(&format!(" {}…", call.arguments), out),
        }
    }

    fn end_call(&mut self, out: &mut Rendered) {
        let Call { id, name, arguments } = mem::take(&mut self.call);
        if name.is_empty() {
            return;
        }
        match self.calls {
            CallStyle::Json => {
                out.answer.push_str(&shown(&json_line(&id, &name, &arguments), self.answer));
            }
            CallStyle::Readable => {
                let pretty = pretty_arguments(&arguments);
                let blank = if pretty.starts_with('\n') { "" } else { " " };
                self.push_aside(&format!("{blank}{pretty}"), out);
            }
        }
    }

    /// Ends the section before; a blank line sets reasoning apart from what follows it.
    fn enter(&mut self, section: Section, out: &mut Rendered) {
        if section == self.section {
            return;
        }
        if self.section == Section::ToolCall {
            self.end_call(out);
        }
        match self.section {
            Section::None => {}
            Section::Answer => {
                if !self.answer_at_line_start {
                    out.answer.push('\n');
                    out.is_answer_first = true;
                    self.answer_at_line_start = true;
                }
            }
            Section::Reasoning | Section::ToolCall => {
                if !self.aside_at_line_start {
                    out.aside.push('\n');
                    self.aside_at_line_start = true;
                }
                if self.section == Section::Reasoning && section != Section::None {
                    out.aside.push('\n');
                }
            }
        }
        self.section = section;
    }

    fn push_aside(&mut self, text: &str, out: &mut Rendered) {
        let shown = shown(text, self.aside);
        self.aside_at_line_start = shown.ends_with('\n');
        match self.aside.colors {
            true => out.aside.push_str(&format!("\x1b[2m{shown}\x1b[0m")),
            false => out.aside.push_str(&shown),
        }
    }
}

fn shown(text: &str, style: StreamStyle) -> std::borrow::Cow<'_, str> {
    match style.is_terminal {
        true => escape_controls(text),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: StreamStyle = StreamStyle { is_terminal: false, colors: false };
    const SCREEN: StreamStyle = StreamStyle { is_terminal: true, colors: true };

    fn events() -> Vec<ReplyEvent> {
        vec![
            ReplyEvent::Reasoning("2+2".to_owned()),
            ReplyEvent::Reasoning(" is 4\x1b[0m".to_owned()),
            ReplyEvent::Text("It is".to_owned()),
            ReplyEvent::Text(" \x1b4".to_owned()),
            ReplyEvent::ToolCallStarted { id: "abcdefgh1".to_owned(), name: "f".to_owned() },
            ReplyEvent::ToolCallArguments("{\"x\"".to_owned()),
            ReplyEvent::ToolCallArguments(": 1}".to_owned()),
            ReplyEvent::ToolCallStarted { id: "abcdefgh2".to_owned(), name: "g".to_owned() },
            ReplyEvent::ToolCallArguments("{}".to_owned()),
            ReplyEvent::Finished {
                reason: FinishReason::ToolCalls,
                malformed: false,
                stopped_by: None,
            },
        ]
    }

    fn render(renderer: &mut ReplyRenderer, events: &[ReplyEvent]) -> Rendered {
        let mut all = Rendered::default();
        for event in events {
            let rendered = renderer.render(event);
            all.answer.push_str(&rendered.answer);
            all.aside.push_str(&rendered.aside);
        }
        all
    }

    #[track_caller]
    fn check(calls: CallStyle, show_reasoning: bool, answer: &str, aside: &str) {
        let mut renderer = ReplyRenderer::new(PIPE, PIPE, calls, show_reasoning);
        let all = render(&mut renderer, &events());
        assert_eq!(all.answer, answer);
        assert_eq!(all.aside, aside);
    }

    #[test]
    fn a_pipe_gets_raw_text() {
        let calls = "→ f {\"x\": 1}\n→ g {}\n";
        let readable = CallStyle::Readable;
        check(readable, true, "It is \x1b4\n", &format!("2+2 is 4\x1b[0m\n\n{calls}"));
        check(readable, false, "It is \x1b4\n", calls);
    }

    #[test]
    fn programs_get_calls_as_lines_of_the_answer() {
        let calls = concat!(
            "{\"id\":\"abcdefgh1\",\"name\":\"f\",\"arguments\":{\"x\": 1}}\n",
            "{\"id\":\"abcdefgh2\",\"name\":\"g\",\"arguments\":{}}\n"
        );
        check(CallStyle::Json, false, &format!("It is \x1b4\n{calls}"), "");
    }

    #[test]
    fn a_call_that_was_cut_off_is_none_for_a_program() {
        let mut events = events();
        events.truncate(9);
        events.push(ReplyEvent::Finished {
            reason: FinishReason::Length,
            malformed: false,
            stopped_by: None,
        });
        let mut renderer = ReplyRenderer::new(PIPE, PIPE, CallStyle::Json, false);
        let all = render(&mut renderer, &events[4..]);
        assert_eq!(all.answer.lines().count(), 1);
        let mut renderer = ReplyRenderer::new(PIPE, PIPE, CallStyle::Readable, false);
        assert_eq!(render(&mut renderer, &events[4..]).aside, "→ f {\"x\": 1}\n→ g {}…\n");
    }

    #[test]
    fn a_screen_gets_escaped_text_and_dimmed_asides() {
        let mut renderer = ReplyRenderer::new(SCREEN, SCREEN, CallStyle::Readable, true);
        let shown: Vec<Rendered> = events().iter().map(|event| renderer.render(event)).collect();
        assert_eq!(shown[1].aside, "\x1b[2m is 4\\x1b[0m\x1b[0m");
        assert_eq!((shown[2].answer.as_str(), shown[2].aside.as_str()), ("It is", "\n\n"));
        assert_eq!(shown[3].answer, " \\x1b4");
        assert_eq!((shown[4].answer.as_str(), shown[4].is_answer_first), ("\n", true));
    }
}
