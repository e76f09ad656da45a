//! `gust chat`: a conversation in the terminal, or a filter from questions to answers.
//!
//! With stdin or stdout not a terminal every line of stdin is one message, slash commands
//! included; stdout then gets the answers and nothing else, and the first error ends the program.

use std::io::{self, BufRead, IsTerminal};

use crate::chat::ToolChoice;
use crate::cli::{ModelArgs, ReplyArgs, SamplingArgs};
use crate::cmd::generator::{Generator, Settings, sampling_params};
use crate::cmd::prompt::System;
use crate::cmd::request::{RequestArgs, announce};
use crate::cmd::text::TextArgs;
use crate::cmd::{chat_format, prompt};
use crate::term::{Conversation, Input, Interrupt, LineEditor, Printer, Repl, Screen, Turn};

/// Flags of `gust chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    reply: ReplyArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Parses no flags at all, for the bare `gust`.
#[derive(Debug, clap::Parser)]
struct NoArgs {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// What `gust` without any argument means.
    pub(crate) fn default_args() -> Args {
        <NoArgs as clap::Parser>::parse_from(["gust"]).args
    }
}

/// Runs `gust chat`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    // Without -p and -f stdin is the conversation itself.
    let is_given = args.text.prompt.is_some() || args.text.file.is_some();
    let mut first = is_given.then(|| prompt::read(&args.text, printer)).transpose()?;
    let images = args.request.images()?;
    let (tools, format) = (args.request.tools(printer)?, args.request.format()?);
    args.request.check(&tools, &ToolChoice::Auto, &format)?;
    let chat_format = chat_format::of_flags(&args.reply.format)?;
    let system = System::read(&args.reply)?;
    let mut generator = Generator::open(&args.model, chat_format, printer)?;
    generator.format()?;
    let model = generator.info().clone();
    announce(&images, model.patches.as_ref(), printer)?;
    let system = system.fill(&model.name);
    let mut conversation = Conversation::new(system, args.reply.effort());
    conversation.reasoning_budget = args.reply.reasoning_budget;
    (conversation.tools, conversation.format) = (tools, format);
    let is_interactive = io::stdin().is_terminal() && printer.is_terminal();
    let interrupt = match is_interactive {
        true => Interrupt::install()?,
        false => Interrupt::new(),
    };
    if is_interactive {
        generator.obey(&interrupt);
        printer.note(format!("{} · /help lists the commands", model.name));
    }
    let (mut out, mut err) = (printer.stdout(), printer.stderr());
    let screen = Screen {
        out: &mut out,
        err: &mut err,
        out_style: printer.stdout_style(),
        err_style: printer.stderr_style(),
        is_interactive,
        show_reasoning: !args.reply.hide_reasoning,
    };
    let generate = |turn: &Turn<'_>, sink: &mut crate::term::Sink<'_>| {
        let effort = turn.request.reasoning_effort;
        let settings = Settings {
            sampling: sampling_params(&args.sampling, effort, turn.temperature),
            reply: &args.reply,
            reasoning_budget: turn.reasoning_budget,
            interrupt: turn.interrupt,
            printer,
        };
        generator.reply(turn.request, &settings, sink)
    };
    let mut repl = Repl::new(conversation, model, screen, interrupt, generate);
    repl.pending = images;
    if is_interactive {
        let mut editor = LineEditor::new()?;
        repl.run(&mut |prompt| match first.take() {
            Some(line) => Ok(Input::Line(line)),
            None => Ok(editor.read(prompt)?),
        })
    } else {
        repl.run(&mut |_| match first.take() {
            Some(line) => Ok(Input::Line(line)),
            None => Ok(read_line(&mut io::stdin().lock())?),
        })
    }
}

/// A line of a pipe, without its end; bytes that are not UTF-8 become U+FFFD.
fn read_line(stdin: &mut impl BufRead) -> io::Result<Input> {
    let mut bytes = Vec::new();
    if stdin.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(Input::End);
    }
    let line = String::from_utf8_lossy(&bytes);
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(Input::Line(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pipe() {
        let mut pipe = &b"a\r\nb\xff\n\nlast"[..];
        let mut lines = Vec::new();
        while let Input::Line(line) = read_line(&mut pipe).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["a", "b\u{fffd}", "", "last"]);
    }

    #[test]
    fn the_bare_program_chats_with_the_defaults() {
        let args = Args::default_args();
        assert!(args.model.model.is_none() && args.reply.system.is_none());
    }
}
