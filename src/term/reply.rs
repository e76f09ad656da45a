//! Reply events become what a person, or the next program in a pipe, reads.
//!
//! The answer goes to one stream; reasoning and tool calls, the asides, go to stderr or, in a chat
//! on a terminal, to the same stream in dimmed letters. Nothing is written here: `render` gives the
//! text for each stream, so that tests see every byte.

use super::escape::escape_controls;
use crate::chat::ReplyEvent;

/// How one stream shows text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStyle {
    /// Steering characters are shown escaped: a person reads.
    pub is_terminal: bool,
    /// Asides are dimmed.
    pub colors: bool,
}

/// Text for the two streams.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The answer's stream.
    pub answer: String,
    /// The stream of reasoning and tool calls.
    pub aside: String,
}

/// Shows one reply.
#[derive(Debug)]
pub struct ReplyRenderer {
    answer: StreamStyle,
    aside: StreamStyle,
    show_reasoning: bool,
    section: Section,
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

impl ReplyRenderer {
    /// A renderer for one reply.
    pub fn new(answer: StreamStyle, aside: StreamStyle, show_reasoning: bool) -> Self {
        Self {
            answer,
            aside,
            show_reasoning,
            section: Section::None,
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
            ReplyEvent::ToolCallStarted { name, .. } => {
                // Two calls in a row get a line each.
                self.enter(Section::None, &mut out);
                self.enter(Section::ToolCall, &mut out);
                self.push_aside(&format!("→ {name} "), &mut out);
            }
            ReplyEvent::ToolCallArguments(text) => self.push_aside(text, &mut out),
            ReplyEvent::Finished { .. } => self.enter(Section::None, &mut out),
        }
        out
    }

    /// Ends the section before; a blank line sets reasoning apart from what follows it.
    fn enter(&mut self, section: Section, out: &mut Rendered) {
        if section == self.section {
            return;
        }
        match self.section {
            Section::None => {}
            Section::Answer => {
                if !self.answer_at_line_start {
                    out.answer.push('\n');
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
    use crate::chat::FinishReason;

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
            ReplyEvent::Finished { reason: FinishReason::ToolCalls, malformed: false },
        ]
    }

    #[track_caller]
    fn check(style: StreamStyle, show_reasoning: bool, answer: &str, aside: &str) {
        let mut renderer = ReplyRenderer::new(style, style, show_reasoning);
        let mut all = Rendered::default();
        for event in &events() {
            let rendered = renderer.render(event);
            all.answer.push_str(&rendered.answer);
            all.aside.push_str(&rendered.aside);
        }
        assert_eq!(all.answer, answer);
        assert_eq!(all.aside, aside);
    }

    #[test]
    fn a_pipe_gets_raw_text() {
        let calls = "→ f {\"x\": 1}\n→ g {}\n";
        check(PIPE, true, "It is \x1b4\n", &format!("2+2 is 4\x1b[0m\n\n{calls}"));
        check(PIPE, false, "It is \x1b4\n", calls);
    }

    #[test]
    fn a_screen_gets_escaped_text_and_dimmed_asides() {
        let mut renderer = ReplyRenderer::new(SCREEN, SCREEN, true);
        let shown: Vec<Rendered> = events().iter().map(|event| renderer.render(event)).collect();
        assert_eq!(shown[1].aside, "\x1b[2m is 4\\x1b[0m\x1b[0m");
        assert_eq!(shown[2], Rendered { answer: "It is".to_owned(), aside: "\n\n".to_owned() });
        assert_eq!(shown[3].answer, " \\x1b4");
        assert_eq!(shown[4].answer, "\n");
    }
}
