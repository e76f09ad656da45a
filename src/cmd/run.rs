//! `gust run`: one prompt, one answer.
//!
//! Stdout gets the answer's text as it comes and nothing else; reasoning, tool calls and messages
//! go to stderr. Ctrl-C ends the program, as it ends any filter.

use std::ops::ControlFlow;

use crate::chat::{ChatRequest, FinishReason, Message, ReplyEvent};
use crate::cli::{ModelArgs, ReplyArgs, SamplingArgs};
use crate::cmd::generator::{Generator, Settings, sampling_params};
use crate::cmd::prompt;
use crate::cmd::text::TextArgs;
use crate::term::{Interrupt, Printer, Rendered, ReplyRenderer};

/// Flags of `gust run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Continue the prompt as plain text, without chat format
    #[arg(long, conflicts_with_all = ["system", "system_file", "reasoning_effort", "think"])]
    raw: bool,
    #[command(flatten)]
    reply: ReplyArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs `gust run`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let text = prompt::read(&args.text, printer)?;
    let mut generator = Generator::open(&args.model, printer)?;
    let effort = args.reply.effort();
    let settings = Settings {
        sampling: sampling_params(&args.sampling, effort, None),
        reply: &args.reply,
        // Nobody raises it: here Ctrl-C ends the program.
        interrupt: &Interrupt::new(),
        printer,
    };
    let mut renderer = ReplyRenderer::new(
        printer.stdout_style(),
        printer.stderr_style(),
        !args.reply.hide_reasoning,
    );
    let mut written = Ok(());
    let mut is_cut_off = false;
    let mut sink = |event: ReplyEvent| {
        is_cut_off |= matches!(event, ReplyEvent::Finished { reason: FinishReason::Length, .. });
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
        let system = prompt::system(&args.reply, &generator.info().name)?;
        let request = ChatRequest {
            messages: system
                .into_iter()
                .map(Message::system)
                .chain([Message::user(text)])
                .collect(),
            reasoning_effort: effort,
            ..ChatRequest::default()
        };
        generator.reply(&request, &settings, &mut sink)
    };
    // Who closed the pipe has read enough; that goes before any error it led to.
    written?;
    done?;
    if is_cut_off && args.reply.max_tokens.is_none() {
        printer.warn("the context is full, the answer was cut off; a larger --ctx holds more");
    }
    Ok(())
}

fn show(rendered: Rendered, printer: &Printer) -> std::io::Result<()> {
    if !rendered.aside.is_empty() {
        printer.aside(&rendered.aside);
    }
    if rendered.answer.is_empty() {
        return Ok(());
    }
    printer.out(rendered.answer)
}
