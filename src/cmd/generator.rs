//! What `chat` and `run` share: an opened model, and the loop from tokens to reply events.
//!
//! Both commands ask for replies here and nowhere else, so flags mean the same in both.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{chat_format, open};
use crate::chat::{
    self, ChatFormat, ChatRequest, FinishReason, ReasoningEffort, ReplyEvent, ReplyParser, Usage,
};
use crate::cli::{ModelArgs, ReplyArgs, SamplingArgs};
use crate::constraint::{Constraint, Grammars};
use crate::engine::{
    End, Engine, Error, Generation, Prompt, Sampler, SamplingParams, Session, SyncStats,
};
use crate::term::{Interrupt, ModelInfo, Printer, Sink};
use crate::tokenizer::TokenId;

/// Fills what the flags leave open with the model card's values for the effort. `temperature` is
/// the chat's own and goes over the flag's.
pub fn sampling_params(
    args: &SamplingArgs,
    effort: ReasoningEffort,
    temperature: Option<f32>,
) -> SamplingParams {
    let (default_temperature, default_top_p) = match effort {
        ReasoningEffort::High => (0.7, 0.95),
        ReasoningEffort::None => (0.1, 1.0),
    };
    SamplingParams {
        temperature: temperature.or(args.temperature).unwrap_or(default_temperature),
        top_k: args.top_k.unwrap_or(0),
        top_p: args.top_p.unwrap_or(default_top_p),
        min_p: args.min_p.unwrap_or(0.0),
        repetition_penalty: args.repetition_penalty.unwrap_or(1.0),
        frequency_penalty: args.frequency_penalty.unwrap_or(0.0),
        presence_penalty: args.presence_penalty.unwrap_or(0.0),
        logit_bias: args.logit_bias.clone(),
        late_end: None,
        seed: args.seed,
    }
}

/// An opened model with one timeline, which keeps what neighbouring requests have in common.
#[derive(Debug)]
pub struct Generator {
    session: Session,
    grammars: Grammars,
    /// Chosen with the first reply, or before.
    format: Option<ChatFormat>,
    info: ModelInfo,
    /// What was last told of the constraint's limits; a chat need not hear it with every answer.
    told: Vec<String>,
}

/// Everything about one generation but its prompt.
#[derive(Debug)]
pub struct Settings<'a> {
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Limit and stop strings.
    pub reply: &'a ReplyArgs,
    /// Tokens after which reasoning is to end.
    pub reasoning_budget: Option<u32>,
    /// Ends the generation when raised.
    pub interrupt: &'a Interrupt,
    /// Shows how far a long prompt has come.
    pub printer: &'a Printer,
}

impl Generator {
    /// Opens the model that the flags name, with a progress bar. Without a `format` it has the model's own.
    pub fn open(
        args: &ModelArgs,
        format: Option<ChatFormat>,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let engine = open::engine(args, 1, printer)?;
        let gguf = engine.gguf();
        let name = match gguf.metadata().str("general.name")? {
            Some(name) => name.to_owned(),
            None => gguf.label().to_string(),
        };
        let n_ctx = u32::try_from(engine.n_ctx()).context("the context is too long")?;
        let info = ModelInfo { name, n_ctx, patches: engine.patch_config() };
        let grammars = Grammars::new(engine.tokenizer());
        Ok(Self { session: Session::new(&engine), grammars, format, info, told: Vec::new() })
    }

    /// What the model is called and how much it holds.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Lets Ctrl-C end also the forward pass that is running, which may take long.
    pub fn obey(&self, interrupt: &Interrupt) {
        let engine = Arc::clone(self.session.engine());
        interrupt.on_raise(move || engine.cancel());
    }

    /// How this model's conversations are written. A chat asks before the first question, so that a
    /// faulty template is told at once.
    pub fn format(&mut self) -> anyhow::Result<ChatFormat> {
        if let Some(format) = &self.format {
            return Ok(format.clone());
        }
        let engine = self.session.engine();
        let template = engine.gguf().metadata().str("tokenizer.chat_template")?;
        let format = chat_format::of_model(engine.tokenizer(), template)?;
        Ok(self.format.insert(format).clone())
    }

    /// Answers a conversation. When `sink` breaks off, the parser's last events still come.
    pub fn reply(
        &mut self,
        request: &ChatRequest,
        settings: &Settings<'_>,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<Usage> {
        let engine = Arc::clone(self.session.engine());
        let tokenizer = engine.tokenizer();
        let format = self.format()?;
        // Without a tower there are no pictures: they have been refused before.
        let patches = self.info.patches.unwrap_or_default();
        let prompt = format.encode(request, tokenizer, &patches)?;
        let budget = settings.reasoning_budget;
        let constraint = chat::constraint(request, &format, &self.grammars, tokenizer, budget)?;
        let notes = constraint.as_ref().map(Constraint::notes).unwrap_or_default();
        tell(&mut self.told, notes, settings);
        let parser = ReplyParser::new(tokenizer).continuing(request);
        self.generate(&prompt, constraint, parser, settings, sink)
    }

    /// Continues a plain text, without any chat format.
    pub fn complete(
        &mut self,
        text: &str,
        settings: &Settings<'_>,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<Usage> {
        let engine = Arc::clone(self.session.engine());
        let mut prompt = Prompt::from(&[engine.tokenizer().bos()][..]);
        engine.tokenizer().encode_into(text, &mut prompt.tokens);
        self.generate(&prompt, None, ReplyParser::raw(engine.tokenizer()), settings, sink)
    }

    fn generate(
        &mut self,
        prompt: &Prompt,
        constraint: Option<Constraint>,
        parser: ReplyParser<'_>,
        settings: &Settings<'_>,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<Usage> {
        let engine: Arc<Engine> = Arc::clone(self.session.engine());
        let parser = parser.with_stop(settings.reply.stop.iter().cloned());
        let mut sampler = Sampler::new(settings.sampling.clone(), engine.tokenizer().n_vocab())?;
        sampler.read(&prompt.tokens);
        if let Some(constraint) = constraint {
            sampler = sampler.with_constraint(constraint);
        }
        // A Ctrl-C after the last pass of an earlier answer would end the first pass of this one.
        engine.lower_cancel();
        let start = Instant::now();
        let mut logits = Vec::new();
        let n_reused = match self.read(prompt, &mut logits, settings) {
            Ok(stats) => stats.n_reused,
            Err(Error::Cancelled) => {
                let _ = send(parser.finish(FinishReason::Cancelled), sink);
                let n_prompt = self.session.tokens().len();
                return Ok(Usage { n_prompt, ..Usage::default() });
            }
            Err(error) => return Err(error.into()),
        };
        let n_max = settings.reply.max_tokens.map_or(usize::MAX, |n| n as usize);
        let mut generation = Generation::new(&mut self.session, sampler, logits, n_max);
        let mut first: Option<Duration> = None;
        let n_generated = drive(
            &mut || {
                let step = step(&mut generation)?;
                first.get_or_insert_with(|| start.elapsed());
                Ok(step)
            },
            parser,
            sink,
        )?;
        let constraint = generation.sampler().constraint();
        tell(&mut self.told, constraint.map(Constraint::notes).unwrap_or_default(), settings);
        let prefill = first.unwrap_or_default();
        let decode = start.elapsed().saturating_sub(prefill);
        Ok(Usage { n_prompt: prompt.tokens.len(), n_reused, n_generated, prefill, decode })
    }

    /// Brings the timeline up to the prompt's end, with a bar if that takes a while.
    fn read(
        &mut self,
        prompt: &Prompt,
        logits: &mut Vec<f32>,
        settings: &Settings<'_>,
    ) -> Result<SyncStats, Error> {
        let mut bar = None;
        let n_batch = self.session.engine().n_batch();
        let synced = self.session.sync(prompt, logits, &mut |n_done, n_total| {
            // Beyond the tokens count the pictures that have to be looked at.
            let has_new_images = n_total > prompt.tokens.len();
            if n_total - n_done > n_batch || (has_new_images && n_done < n_total) {
                let label = if has_new_images { "looking and reading" } else { "reading" };
                bar.get_or_insert_with(|| settings.printer.progress(n_total as u64, label));
            }
            if let Some(bar) = &bar {
                bar.set_position(n_done as u64);
            }
            match settings.interrupt.is_raised() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        synced
    }
}

/// Tells what was not told before.
fn tell(told: &mut Vec<String>, notes: &[String], settings: &Settings<'_>) {
    for note in notes {
        if !told.contains(note) {
            settings.printer.warn(note);
            told.push(note.clone());
        }
    }
}

fn step(generation: &mut Generation<'_>) -> anyhow::Result<Step> {
    match generation.next() {
        Some(Ok(token)) => Ok(Step::Token(token)),
        Some(Err(Error::Cancelled)) => Ok(Step::End(FinishReason::Cancelled)),
        Some(Err(error)) => Err(error.into()),
        None => Ok(Step::End(match generation.end() {
            Some(End::Eos) => FinishReason::Stop,
            _ => FinishReason::Length,
        })),
    }
}

/// One step of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next token.
    Token(TokenId),
    /// There is no other: the model ended its turn, or a limit came.
    End(FinishReason),
}

/// Hands the tokens of one generation to the parser and its events to `sink`, until the tokens
/// end, a stop string comes or `sink` breaks off. Gives the number of tokens taken.
pub fn drive(
    next: &mut dyn FnMut() -> anyhow::Result<Step>,
    mut parser: ReplyParser<'_>,
    sink: &mut Sink<'_>,
) -> anyhow::Result<usize> {
    let mut n_generated = 0;
    let reason = loop {
        let token = match next()? {
            Step::Token(token) => token,
            Step::End(reason) => break reason,
        };
        n_generated += 1;
        let events = parser.push(token);
        if send(events, sink).is_break() {
            break FinishReason::Cancelled;
        }
        if parser.is_stopped() {
            break FinishReason::Stop;
        }
    };
    // The reply is over; nobody can break off any more.
    let _ = send(parser.finish(reason), sink);
    Ok(n_generated)
}

/// Every event is handed over, also after a break: the text was said.
fn send(events: Vec<ReplyEvent>, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    for event in events {
        if sink(event).is_break() {
            flow = ControlFlow::Break(());
        }
    }
    flow
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    /// Drives the tokens of `text`; `sink` breaks off at the event that contains `break_at`.
    fn run(text: &str, stop: Option<&str>, break_at: &str) -> (String, FinishReason, usize) {
        let tokenizer = Tokenizer::from_gguf(&crate::model::builtin()).unwrap();
        let mut tokens = tokenizer.encode(text).into_iter();
        let parser = ReplyParser::raw(&tokenizer).with_stop(stop.map(str::to_owned));
        let (mut said, mut finish) = (String::new(), None);
        let n = drive(
            &mut || Ok(tokens.next().map_or(Step::End(FinishReason::Length), Step::Token)),
            parser,
            &mut |event| match event {
                ReplyEvent::Text(text) => {
                    said.push_str(&text);
                    match said.contains(break_at) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                }
                ReplyEvent::Finished { reason, .. } => {
                    finish = Some(reason);
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Continue(()),
            },
        );
        (said, finish.unwrap(), n.unwrap())
    }

    #[test]
    fn a_generation_ends_at_its_end_at_a_stop_string_or_at_a_break() {
        let text = "one two three four";
        let (said, finish, n_all) = run(text, None, "never");
        assert_eq!((said.as_str(), finish), (text, FinishReason::Length));
        let (said, finish, n) = run(text, Some(" three"), "never");
        assert_eq!((said.as_str(), finish), ("one two", FinishReason::Stop));
        assert!(n < n_all);
        let (said, finish, n) = run(text, None, "two");
        assert!(said.starts_with("one two") && n < n_all);
        assert_eq!(finish, FinishReason::Cancelled);
    }

    #[test]
    fn the_effort_sets_what_the_flags_leave_open() {
        let args = SamplingArgs { top_p: Some(0.5), ..SamplingArgs::default() };
        let params = sampling_params(&args, ReasoningEffort::High, None);
        assert_eq!((params.temperature, params.top_p), (0.7, 0.5));
        let params = sampling_params(&SamplingArgs::default(), ReasoningEffort::None, None);
        assert_eq!((params.temperature, params.top_p), (0.1, 1.0));
        let args = SamplingArgs { temperature: Some(0.2), ..SamplingArgs::default() };
        assert_eq!(sampling_params(&args, ReasoningEffort::None, Some(0.9)).temperature, 0.9);
    }
}
