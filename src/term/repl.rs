//! The chat loop: a line is a command or a question, a question gets an answer.
//!
//! The REPL knows neither the engine nor the keyboard: lines come from one closure and replies from
//! another, so tests drive it from lists. A failed question leaves the conversation as it was. `settings`
//! obeys the commands, `answer` asks and keeps, `rounds` gets the results of tool calls.

mod answer;
mod rounds;
mod settings;

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::commands::{self, Command};
use super::conversation::Conversation;
use super::editor::Input;
use super::escape::escape_controls;
use super::files::Attachment;
use super::interrupt::Interrupt;
use super::reply::{CallStyle, ReplyRenderer, StreamStyle};
use crate::chat::{ChatRequest, ReplyEvent, Usage};
use crate::vision::PatchConfig;

/// Reads a line; it is told the prompt to show.
type Read<'a> = dyn FnMut(&str) -> anyhow::Result<Input> + 'a;

/// Takes a reply's events; `Break` asks for no more.
pub type Sink<'a> = dyn FnMut(ReplyEvent) -> ControlFlow<()> + 'a;

/// One question to the model.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The whole conversation up to the question.
    pub request: &'a ChatRequest,
    /// Temperature set in the chat, over the command line's.
    pub temperature: Option<f32>,
    /// Tokens after which reasoning is to end.
    pub reasoning_budget: Option<u32>,
    /// To be polled while no event comes: prefill should end soon after it is raised.
    pub interrupt: &'a Interrupt,
}

/// What the REPL tells of the model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Name as the file gives it.
    pub name: String,
    /// Context length in tokens.
    pub n_ctx: u32,
    /// How it cuts pictures; `None` if it cannot see.
    pub patches: Option<PatchConfig>,
}

/// Where the REPL writes.
pub struct Screen<'a> {
    /// Answers, and reasoning if a person chats.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// How `out` shows text.
    pub out_style: StreamStyle,
    /// How `err` shows text.
    pub err_style: StreamStyle,
    /// A person chats; otherwise the program is a filter that writes answers only.
    pub is_interactive: bool,
    /// Whether reasoning is shown.
    pub show_reasoning: bool,
}

impl Screen<'_> {
    /// Writes a line that is no part of an answer.
    fn note(&mut self, text: &str) {
        let text = escape_controls(text);
        // A closed stderr is nobody's loss.
        let _ = match self.err_style.colors {
            true => writeln!(self.err, "\x1b[2m{text}\x1b[0m"),
            false => writeln!(self.err, "{text}"),
        };
        let _ = self.err.flush();
    }

    fn renderer(&self) -> ReplyRenderer {
        let (aside, calls) = match self.is_interactive {
            true => (self.out_style, CallStyle::Readable),
            false => (self.err_style, CallStyle::Json),
        };
        ReplyRenderer::new(self.out_style, aside, calls, self.show_reasoning)
    }

    fn show(&mut self, renderer: &mut ReplyRenderer, event: &ReplyEvent) -> io::Result<()> {
        let rendered = renderer.render(event);
        if rendered.is_answer_first {
            self.out.write_all(rendered.answer.as_bytes())?;
            self.out.flush()?;
        }
        let aside = if self.is_interactive { &mut self.out } else { &mut self.err };
        aside.write_all(rendered.aside.as_bytes())?;
        aside.flush()?;
        if !rendered.is_answer_first {
            self.out.write_all(rendered.answer.as_bytes())?;
        }
        self.out.flush()
    }
}

/// A chat in progress.
pub struct Repl<'a, G> {
    /// What was said and set.
    pub conversation: Conversation,
    /// Pictures that go with the next message.
    pub pending: Vec<Attachment>,
    model: ModelInfo,
    generate: G,
    interrupt: Interrupt,
    screen: Screen<'a>,
    last: Option<Usage>,
    n_generated: usize,
}

impl<'a, G> Repl<'a, G>
where
    G: FnMut(&Turn<'_>, &mut Sink<'_>) -> anyhow::Result<Usage>,
{
    /// A chat that asks `generate` for replies. After a `Break`, `generate` still hands over the
    /// parser's last events.
    pub fn new(
        conversation: Conversation,
        model: ModelInfo,
        screen: Screen<'a>,
        interrupt: Interrupt,
        generate: G,
    ) -> Self {
        Self {
            conversation,
            pending: Vec::new(),
            model,
            generate,
            interrupt,
            screen,
            last: None,
            n_generated: 0,
        }
    }

    /// Reads and answers until the input ends or `/quit`. A filter ends with the first error. `read` is
    /// told the prompt to show.
    pub fn run(&mut self, read: &mut Read<'_>) -> anyhow::Result<()> {
        loop {
            match read(&self.prompt())? {
                Input::End => return Ok(()),
                Input::Interrupt => {
                    self.interrupt.second_ends();
                    self.screen.note("Ctrl-D or /quit leaves");
                }
                Input::Line(line) => {
                    if self.take(&line, read)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The prompt says how many pictures wait.
    fn prompt(&self) -> String {
        match self.pending.len() {
            0 => "> ".to_owned(),
            1 => "[1 image] > ".to_owned(),
            n => format!("[{n} images] > "),
        }
    }

    fn take(&mut self, line: &str, read: &mut Read<'_>) -> anyhow::Result<ControlFlow<()>> {
        if line.trim().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        match commands::parse(line) {
            Some(Ok(Command::Quit)) => return Ok(ControlFlow::Break(())),
            Some(Ok(Command::Retry)) => self.retry(read)?,
            Some(Ok(command)) => self.obey(command),
            Some(Err(problem)) => self.screen.note(&problem),
            None => match unknown_command(line) {
                Some(name) => {
                    self.screen.note(&format!("there is no command {name}; /help lists them"));
                }
                None => self.ask(line, read)?,
            },
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// `/word`, alone or before other words on one line; a path or a pasted text is none.
fn unknown_command(line: &str) -> Option<&str> {
    let line = line.trim();
    let name = line.split(' ').next()?;
    let letters = name.strip_prefix('/')?;
    let is_name = !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_alphabetic());
    (is_name && !line.contains('\n')).then_some(name)
}

#[cfg(test)]
#[path = "repl_tests.rs"]
mod tests;
