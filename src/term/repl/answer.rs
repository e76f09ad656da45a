//! From a line to the exchange that the conversation keeps: question, calls and results, answer.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::{Read, Repl, Sink, Turn};
use crate::chat::{
    AssistantMessage, ChatRequest, ContentChunk, FinishReason, Message, ReplyCollector, ReplyEvent,
    ToolChoice, Usage,
};
use crate::term::files::{Content, name, read_either};
use crate::term::mentions;
use crate::term::meter;

/// Rounds of calls after which the model has to answer.
const MAX_ROUNDS: usize = 32;
/// Largest text that `@file` puts into a question, in bytes.
pub(super) const MAX_INLINE: u64 = 256 << 10;

/// What became of a question.
#[derive(Debug)]
enum Outcome {
    /// The conversation has it, and its answer.
    Kept,
    /// There is no answer; the question as it was.
    TakenBack(Vec<ContentChunk>),
}

impl<G> Repl<'_, G>
where
    G: FnMut(&Turn<'_>, &mut Sink<'_>) -> anyhow::Result<Usage>,
{
    /// Answers a line, with the files that it names and the pictures that wait.
    pub(super) fn ask(&mut self, line: &str, read: &mut Read<'_>) -> anyhow::Result<()> {
        let text = match self.attach(line) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.screen.note(&format!("{error:#}; the question was not asked"));
                return Ok(());
            }
        };
        let images = self.pending.drain(..).map(|pending| ContentChunk::Image(pending.image));
        let question = images.chain([ContentChunk::Text(text)]).collect();
        if let Outcome::TakenBack(question) = self.answer(question, read)? {
            let told = self.give_back(question);
            self.screen.note(&format!("without an answer the question is taken back{told}"));
        }
        Ok(())
    }

    /// Answers the last question again; the old answer comes back if there is no new one.
    pub(super) fn retry(&mut self, read: &mut Read<'_>) -> anyhow::Result<()> {
        let before = self.conversation.clone();
        let Some(question) = self.conversation.undo() else {
            self.screen.note("there is nothing to answer again");
            return Ok(());
        };
        if let Outcome::TakenBack(_) = self.answer(question, read)? {
            self.conversation = before;
            self.screen.note("the answer before stays");
        }
        Ok(())
    }

    /// Attaches the pictures that a line names and puts its texts in; what is left is the question,
    /// `None` if the line was nothing but pictures. Only a person's line is searched for names: the lines
    /// of a pipe are data.
    fn attach(&mut self, line: &str) -> anyhow::Result<Option<String>> {
        if !self.screen.is_interactive {
            return Ok(Some(line.to_owned()));
        }
        let found = mentions::find(line);
        for word in &found.missing {
            self.screen.note(&format!("{word} names no file and stays as it is"));
        }
        let n_before = self.pending.len();
        let mut text = found.text;
        for path in &found.paths {
            match self.attach_file(path) {
                Ok(None) => {}
                Ok(Some(block)) if text.is_empty() => text = block,
                Ok(Some(block)) => text.push_str(&format!("\n\n{block}")),
                Err(error) => {
                    self.pending.truncate(n_before);
                    return Err(error);
                }
            }
        }
        Ok((!text.is_empty()).then_some(text))
    }

    /// Attaches a picture, or gives a text in a fence.
    fn attach_file(&mut self, path: &Path) -> anyhow::Result<Option<String>> {
        match read_either(path, MAX_INLINE)? {
            Content::Text(text) => Ok(Some(fenced(&name(path), &text))),
            Content::Image(image) => {
                self.room_for_image()?;
                self.screen.note(&image.label(self.model.patches.as_ref()));
                self.pending.push(image);
                Ok(None)
            }
        }
    }

    /// Asks, shows and keeps. An error is an `Err` in a filter and a message in a chat.
    fn answer(
        &mut self,
        question: Vec<ContentChunk>,
        read: &mut Read<'_>,
    ) -> anyhow::Result<Outcome> {
        let mut exchange = vec![Message::User(question.clone())];
        for n_rounds in 0.. {
            let mut request = self.conversation.request(&exchange);
            if n_rounds >= MAX_ROUNDS {
                self.screen.note("many rounds of calls: now the model has to answer");
                request.tool_choice = ToolChoice::None;
            }
            let mut collector = ReplyCollector::default();
            let usage = match self.generate(&request, &mut collector) {
                Ok(usage) => usage,
                Err(error) if is_output_error(&error) || !self.screen.is_interactive => {
                    return Err(error);
                }
                Err(error) => {
                    let told = format!("error: {error:#}");
                    self.screen.note(&told);
                    if told.contains("context is full") {
                        self.screen.note("/drop, /undo and /reset make room");
                    }
                    return Ok(Outcome::TakenBack(question));
                }
            };
            self.n_generated += usage.n_generated;
            self.last = Some(usage);
            self.tell_finish(&collector, &usage);
            let is_complete =
                matches!(collector.finish(), Some(FinishReason::Stop | FinishReason::ToolCalls));
            let mut message = collector.into_message();
            let calls = std::mem::take(&mut message.tool_calls);
            if calls.is_empty() || !is_complete || n_rounds >= MAX_ROUNDS {
                return Ok(self.keep(exchange, message, question));
            }
            match self.results(&calls, read)? {
                Some(results) => {
                    message.tool_calls = calls;
                    exchange.push(Message::Assistant(message));
                    exchange.extend(results.into_iter().map(Message::Tool));
                }
                None => return Ok(self.keep(exchange, message, question)),
            }
        }
        Ok(Outcome::TakenBack(question))
    }

    fn keep(
        &mut self,
        mut exchange: Vec<Message>,
        answer: AssistantMessage,
        question: Vec<ContentChunk>,
    ) -> Outcome {
        if answer.content.is_empty() {
            return Outcome::TakenBack(question);
        }
        exchange.push(Message::Assistant(answer));
        self.conversation.keep(exchange);
        Outcome::Kept
    }

    fn generate(
        &mut self,
        request: &ChatRequest,
        collector: &mut ReplyCollector,
    ) -> anyhow::Result<Usage> {
        let turn = Turn {
            request,
            temperature: self.conversation.temperature,
            reasoning_budget: self.conversation.reasoning_budget,
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
            let end = ReplyEvent::Finished {
                reason: FinishReason::Cancelled,
                malformed: false,
                stopped_by: None,
            };
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
                self.screen.note("the context is full; /drop, /undo and /reset make room");
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
}

/// A text in a fence that nothing in it can close.
fn fenced(name: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{name}:\n{fence}\n{text}{end}{fence}")
}

/// Whether nobody reads the answers any more.
fn is_output_error(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some()
}
