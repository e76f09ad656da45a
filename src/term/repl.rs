//! The chat loop: a line is a command or a question, a question gets an answer.
//!
//! The REPL knows neither the engine nor the keyboard: lines come from one closure and replies from
//! another, so tests drive it from lists. A failed question leaves the conversation as it was.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::commands::{self, Command};
use super::conversation::Conversation;
use super::editor::Input;
use super::interrupt::Interrupt;
use super::meter;
use super::reply::{ReplyRenderer, StreamStyle};
use crate::chat::{AssistantMessage, ChatRequest, FinishReason, ReplyCollector, ReplyEvent, Usage};

/// Takes a reply's events; `Break` asks for no more.
pub type Sink<'a> = dyn FnMut(ReplyEvent) -> ControlFlow<()> + 'a;

/// One question to the model.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The whole conversation up to the question.
    pub request: &'a ChatRequest,
    /// Temperature set in the chat, over the command line's.
    pub temperature: Option<f32>,
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
        // A closed stderr is nobody's loss.
        let _ = match self.err_style.colors {
            true => writeln!(self.err, "\x1b[2m{text}\x1b[0m"),
            false => writeln!(self.err, "{text}"),
        };
        let _ = self.err.flush();
    }

    fn renderer(&self) -> ReplyRenderer {
        let aside = if self.is_interactive { self.out_style } else { self.err_style };
        ReplyRenderer::new(self.out_style, aside, self.show_reasoning)
    }

    fn show(&mut self, renderer: &mut ReplyRenderer, event: &ReplyEvent) -> io::Result<()> {
        let rendered = renderer.render(event);
        let aside = if self.is_interactive { &mut self.out } else { &mut self.err };
        // An aside ends before the answer goes on.
        aside.write_all(rendered.aside.as_bytes())?;
        aside.flush()?;
        self.out.write_all(rendered.answer.as_bytes())?;
        self.out.flush()
    }
}

/// A chat in progress.
pub struct Repl<'a, G> {
    /// What was said and set.
    pub conversation: Conversation,
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
        Self { conversation, model, generate, interrupt, screen, last: None, n_generated: 0 }
    }

    /// Reads and answers until the input ends or `/quit`. A filter ends with the first error.
    pub fn run(&mut self, mut read: impl FnMut() -> anyhow::Result<Input>) -> anyhow::Result<()> {
        loop {
            match read()? {
                Input::End => return Ok(()),
                Input::Interrupt => {
                    self.interrupt.second_ends();
                    self.screen.note("Ctrl-D or /quit leaves");
                }
                Input::Line(line) => {
                    if self.take(&line)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take(&mut self, line: &str) -> anyhow::Result<ControlFlow<()>> {
        if line.trim().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        match commands::parse(line) {
            Some(Ok(Command::Quit)) => return Ok(ControlFlow::Break(())),
            Some(Ok(command)) => self.obey(command)?,
            Some(Err(problem)) => self.screen.note(&problem),
            None => match unknown_command(line) {
                Some(name) => {
                    self.screen.note(&format!("there is no command {name}; /help lists them"));
                }
                None => self.answer(line)?,
            },
        }
        Ok(ControlFlow::Continue(()))
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        let conversation = &mut self.conversation;
        let told = match command {
            Command::Help => commands::help().trim_end().to_owned(),
            Command::ShowSystem => conversation.system.clone().unwrap_or("no system prompt".into()),
            Command::SetSystem(system) => {
                conversation.system = system;
                "from the next question on".to_owned()
            }
            Command::SetThink(effort) => {
                conversation.effort = effort;
                format!("reasoning effort: {}", effort.name())
            }
            Command::ShowThink => format!("reasoning effort: {}", conversation.effort.name()),
            Command::SetTemperature(temperature) => {
                conversation.temperature = temperature;
                self.temperature()
            }
            Command::ShowTemperature => self.temperature(),
            Command::Undo => match conversation.undo() {
                Some(question) => format!("taken back: {}", first_line(&question)),
                None => "there is nothing to take back".to_owned(),
            },
            Command::Retry => return self.retry(),
            Command::Reset => {
                conversation.reset();
                self.last = None;
                "the conversation starts anew".to_owned()
            }
            Command::Save(path) => match conversation.save(&path) {
                Ok(()) => format!("saved to {}", path.display()),
                Err(error) => format!("{error:#}"),
            },
            Command::Load(path) => match conversation.load(&path) {
                Ok(()) => format!("{} messages loaded", conversation.n_messages()),
                Err(error) => format!("{error:#}; the conversation is as it was"),
            },
            Command::Stats => self.stats(),
            Command::Quit => return Ok(()),
        };
        self.screen.note(&told);
        Ok(())
    }

    fn temperature(&self) -> String {
        match self.conversation.temperature {
            Some(temperature) => format!("temperature: {temperature}"),
            None => "temperature: the default".to_owned(),
        }
    }

    fn stats(&self) -> String {
        let conversation = &self.conversation;
        let mut told = format!(
            "model: {}\nmessages: {} · reasoning effort: {} · {}\ntokens written in all: {}",
            self.model.name,
            conversation.n_messages(),
            conversation.effort.name(),
            self.temperature(),
            meter::count(self.n_generated),
        );
        match &self.last {
            Some(usage) => {
                told.push_str("\nlast answer: ");
                told.push_str(&meter::usage_line(usage, self.model.n_ctx));
            }
            None => {
                let n_ctx = meter::count(self.model.n_ctx as usize);
                told.push_str(&format!("\ncontext: {n_ctx} tokens"));
            }
        }
        told
    }

    fn retry(&mut self) -> anyhow::Result<()> {
        let before = self.conversation.clone();
        let Some(question) = self.conversation.undo() else {
            self.screen.note("there is nothing to answer again");
            return Ok(());
        };
        let n_before = before.n_messages();
        self.answer(&question)?;
        if self.conversation.n_messages() < n_before {
            self.conversation = before;
        }
        Ok(())
    }

    /// Asks, shows and keeps. An error is an `Err` in a filter and a message in a chat.
    fn answer(&mut self, question: &str) -> anyhow::Result<()> {
        let request = self.conversation.ask(question);
        let mut collector = ReplyCollector::default();
        let generated = self.generate(&request, &mut collector);
        let usage = match generated {
            Ok(usage) => usage,
            Err(error) if is_output_error(&error) || !self.screen.is_interactive => {
                return Err(error);
            }
            Err(error) => {
                self.screen.note(&format!("error: {error:#}"));
                self.screen.note("the question is taken back; /undo and /reset make room");
                return Ok(());
            }
        };
        self.n_generated += usage.n_generated;
        self.last = Some(usage);
        self.tell_finish(&collector, &usage);
        self.keep(question, collector.into_message());
        Ok(())
    }

    fn generate(
        &mut self,
        request: &ChatRequest,
        collector: &mut ReplyCollector,
    ) -> anyhow::Result<Usage> {
        let turn = Turn {
            request,
            temperature: self.conversation.temperature,
            interrupt: &self.interrupt,
        };
        let (screen, interrupt, generate) = (&mut self.screen, &self.interrupt, &mut self.generate);
        let mut renderer = screen.renderer();
        let mut written = Ok(());
        let mut sink = |event: ReplyEvent| {
            collector.push(&event);
            if written.is_ok() {
                written = screen.show(&mut renderer, &event);
            }
            match written.is_err() || interrupt.is_raised() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let usage = interrupt.during(|| generate(&turn, &mut sink));
        if collector.finish().is_none() {
            // The reply broke off: its last line is still to be ended.
            let end = ReplyEvent::Finished { reason: FinishReason::Cancelled, malformed: false };
            if written.is_ok() {
                written = screen.show(&mut renderer, &end);
            }
        }
        written?;
        usage
    }

    fn tell_finish(&mut self, collector: &ReplyCollector, usage: &Usage) {
        if !self.screen.is_interactive {
            return;
        }
        let n_ctx = self.model.n_ctx as usize;
        match collector.finish() {
            Some(FinishReason::Length) if meter::n_used(usage) >= n_ctx => {
                self.screen.note("the context is full; /undo and /reset make room");
            }
            Some(FinishReason::Length) => self.screen.note("cut off at the token limit"),
            Some(FinishReason::Cancelled) => self.screen.note("stopped"),
            _ => {}
        }
        if collector.is_malformed() {
            self.screen.note("the model broke the reply format; this is what could be read");
        }
        self.screen.note(&meter::usage_line(usage, self.model.n_ctx));
    }

    fn keep(&mut self, question: &str, mut answer: AssistantMessage) {
        if !answer.tool_calls.is_empty() {
            // Without results the next request would be refused.
            answer.tool_calls.clear();
            self.screen.note("the model calls a tool, but this chat has none; the call is dropped");
        }
        match answer.content.is_empty() {
            true => self.screen.note("there is no answer; the question is taken back"),
            false => self.conversation.keep(question, answer),
        }
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

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Whether nobody reads the answers any more.
fn is_output_error(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some()
}

#[cfg(test)]
#[path = "repl_tests.rs"]
mod tests;
