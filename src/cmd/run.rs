//! `gust run`: one prompt, one answer.
//!
//! Stdout gets the answer's text as it comes, and each tool call as one line of JSON; reasoning and
//! messages go to stderr. Nobody runs the tools: a script that wants to go on calls them itself. Ctrl-C ends
//! the program, as it ends any filter.

use std::ops::ControlFlow;

use crate::chat::{ChatRequest, ContentChunk, FinishReason, Message, ReplyEvent};
use crate::cli::{ModelArgs, ReplyArgs, SamplingArgs};
use crate::cmd::generator::{Generator, Settings, sampling_params};
use crate::cmd::prompt;
use crate::cmd::request::{RequestArgs, announce, locate, tool_choice};
use crate::cmd::text::TextArgs;
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
        "chat_version", "image", "tools", "format",
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
    let text = prompt::read(&args.text, printer)?;
    let images = args.request.images()?;
    let tools = args.request.tools()?;
    let choice = tool_choice(args.tool_choice.as_deref(), &tools)?;
    let response_format = args.request.format()?;
    let mut generator = Generator::open(&args.model, printer)?;
    announce(&images, generator.info().patches.as_ref(), printer)?;
    let effort = args.reply.effort();
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
    if is_cut_off && args.reply.max_tokens.is_none() {
        printer.warn("the context is full, the answer was cut off; a larger --ctx holds more");
    }
    Ok(())
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
