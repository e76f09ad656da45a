//! `gust run`: one prompt, one answer.
//!
//! Stdout gets the answer's text as it comes, and each tool call as one line of JSON; reasoning and
//! messages go to stderr. Nobody runs the tools: a script that wants to go on calls them itself. Ctrl-C ends
//! the program, as it ends any filter.

use std::ops::ControlFlow;

use crate::chat::{
    ChatRequest, ContentChunk, FinishReason, Message, ReasoningEffort, ReplyEvent, ResponseFormat,
    ToolChoice,
};
use crate::cli::{ModelArgs, ReplyArgs, SamplingArgs};
use crate::cmd::generator::{Generator, Settings, sampling_params};
use crate::cmd::prompt::System;
use crate::cmd::request::{RequestArgs, announce, locate, tool_choice};
use crate::cmd::text::TextArgs;
use crate::cmd::{chat_format, prompt};
use crate::term::{CallStyle, Interrupt, Printer, Rendered, ReplyRenderer};

/// Flags of `gust run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Continue the prompt as plain text, without chat format
    #[arg(long, conflicts_with_all = [
        "system", "system_file", "reasoning_effort", "think", "reasoning_budget", "chat_template",
        "chat_version", "image", "tools", "tool_choice", "format",
    ])]
    raw: bool,
    #[command(flatten)]
    request: RequestArgs,
    /// Whether the model may (auto), must not (none) or must (required, or a tool's NAME) call tools
    /// [default: auto]
    #[arg(long, value_name = "CHOICE", requires = "tools")]
    tool_choice: Option<String>,
    #[command(flatten)]
    reply: ReplyArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs `gust run`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    if args.reply.reasoning_budget.is_some() && args.reply.effort() == ReasoningEffort::None {
        printer.warn("--reasoning-budget does nothing without --think");
    }
    let text = prompt::read(&args.text, printer)?;
    let images = args.request.images()?;
    let tools = args.request.tools(printer)?;
    let choice = tool_choice(args.tool_choice.as_deref(), &tools)?;
    let response_format = args.request.format()?;
    args.request.check(&tools, &choice, &response_format)?;
    let format = chat_format::of_flags(&args.reply.format)?;
    let system = System::read(&args.reply)?;
    let mut generator = Generator::open(&args.model, format, printer)?;
    announce(&images, generator.info().patches.as_ref(), printer)?;
    let effort = args.reply.effort();
    let is_held = response_format != ResponseFormat::Text
        || matches!(choice, ToolChoice::Required | ToolChoice::Named(_));
    let settings = Settings {
        sampling: sampling_params(&args.sampling, effort, None),
        reply: &args.reply,
        reasoning_budget: args.reply.reasoning_budget,
        // Nobody raises it: here Ctrl-C ends the program.
        interrupt: &Interrupt::new(),
        printer,
    };
    let mut renderer = ReplyRenderer::new(
        printer.stdout_style(),
        printer.stderr_style(),
        CallStyle::Json,
        !args.reply.hide_reasoning,
    );
    let mut written = Ok(());
    let mut end = End::default();
    let mut sink = |event: ReplyEvent| {
        end.watch(&event);
        if written.is_ok() {
            written = show(renderer.render(&event), printer);
        }
        match written.is_ok() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let done = if args.raw {
        generator.complete(&text, &settings, &mut sink)
    } else {
        let system = system.fill(&generator.info().name);
        let images = images.into_iter().map(|attached| ContentChunk::Image(attached.image));
        let question = images.chain([ContentChunk::Text(text)]).collect();
        let request = ChatRequest {
            messages: system
                .map(Message::system)
                .into_iter()
                .chain([Message::User(question)])
                .collect(),
            tools: tools.tools().to_vec(),
            tool_choice: choice,
            response_format,
            reasoning_effort: effort,
        };
        generator.reply(&request, &settings, &mut sink)
    };
    // Who closed the pipe has read enough; that goes before any error it led to.
    written?;
    done.map_err(|error| locate(&args.request, error))?;
    if let Some(told) = end.told(is_held, args.reply.max_tokens) {
        printer.warn(told);
    }
    Ok(())
}

/// How an answer ended.
#[derive(Debug, Default)]
struct End {
    has_open_call: bool,
    is_cut_off: bool,
}

impl End {
    fn watch(&mut self, event: &ReplyEvent) {
        match event {
            ReplyEvent::Reasoning(_) | ReplyEvent::Text(_) => self.has_open_call = false,
            ReplyEvent::ToolCallStarted { .. } | ReplyEvent::ToolCallArguments(_) => {
                self.has_open_call = true;
            }
            ReplyEvent::Finished { reason, .. } => {
                self.is_cut_off = *reason == FinishReason::Length;
            }
        }
    }

    /// What a reader of the answer would not know: that it was cut off without having been asked for, or so
    /// that a call or a form (`is_held`) is not whole.
    fn told(&self, is_held: bool, max_tokens: Option<u32>) -> Option<String> {
        if !self.is_cut_off {
            return None;
        }
        let what = match (self.has_open_call, is_held) {
            (true, _) => "; its last call is not whole and is left out",
            (_, true) => "; it may not have the form that was asked for",
            _ => "",
        };
        match max_tokens {
            Some(_) if what.is_empty() => None,
            Some(n) => Some(format!("the answer was cut off after {n} tokens (-n){what}")),
            None => Some(format!(
                "the context is full, the answer was cut off{what}; a larger --ctx holds more"
            )),
        }
    }
}

fn show(rendered: Rendered, printer: &Printer) -> std::io::Result<()> {
    if rendered.is_answer_first {
        printer.out(&rendered.answer)?;
    }
    if !rendered.aside.is_empty() {
        printer.aside(&rendered.aside);
    }
    match rendered.answer.is_empty() || rendered.is_answer_first {
        true => Ok(()),
        false => printer.out(rendered.answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(events: &[ReplyEvent], is_held: bool, max_tokens: Option<u32>, expected: &str) {
        let mut end = End::default();
        events.iter().for_each(|event| end.watch(event));
        let told = end.told(is_held, max_tokens).unwrap_or_default();
        let fits = if expected.is_empty() { told.is_empty() } else { told.contains(expected) };
        assert!(fits, "{told:?}, expected {expected:?}");
    }

    #[test]
    fn what_was_cut_off_is_told_unless_it_was_asked_for() {
        let call = ReplyEvent::ToolCallStarted { id: "abcdefgh1".into(), name: "f".into() };
        let arguments = ReplyEvent::ToolCallArguments("{".into());
        let text = ReplyEvent::Text("a".into());
        let end = |reason| ReplyEvent::Finished { reason, malformed: false, stopped_by: None };
        let cut = end(FinishReason::Length);
        check(&[call.clone(), arguments.clone(), cut.clone()], false, Some(9), "last call");
        check(&[call.clone(), cut.clone()], false, None, "context is full");
        check(&[text.clone(), cut.clone()], true, Some(9), "after 9 tokens");
        check(&[text.clone(), cut.clone()], false, Some(9), "");
        check(&[text.clone(), cut], false, None, "context is full");
        check(&[call, arguments, end(FinishReason::ToolCalls)], true, Some(9), "");
        check(&[text, end(FinishReason::Stop)], true, Some(9), "");
    }
}
