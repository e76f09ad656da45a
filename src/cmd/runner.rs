//! `gust runner`: the engine behind `gust serve`, in a process of its own. Nobody types this.
//!
//! Stdin and stdout carry frames. What is opened and how is said on stderr, which is the server's.

use std::ffi::OsString;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use signal_hook::consts::{SIGBUS, SIGINT, SIGTERM};

use super::open;
use crate::cli::{CacheType, ModelArgs};
use crate::runner::{self, PATIENCE, Report, RunnerCommand};
use crate::term::Printer;
use crate::tokenizer::Tokenizer;

/// What changes with every build; front and runner must be the same.
const BUILD: &str = env!("GUST_VERSION");

/// Flags of `gust runner`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Requests that run side by side
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// The version of the program that started this one
    #[arg(long, value_name = "VERSION")]
    front: Option<String>,
}

/// Opens the model and serves requests until stdin ends.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    // Ctrl-C reaches the whole group of processes, and the front decides what it means: it lets requests
    // end, and then closes stdin.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    // Rust's own handler looks for stack overflows and lets the first SIGBUS that is sent pass. Here it ends the
    // process, as a truncated model does.
    signal_hook::flag::register_conditional_default(SIGBUS, Arc::new(AtomicBool::new(true)))?;
    let mut output = printer.raw_stdout()?;
    let engine = match opened(&args, printer) {
        Ok(engine) => engine,
        Err(error) => {
            runner::refuse(&refusal(&error), &mut output)?;
            // The front says why.
            process::exit(1);
        }
    };
    runner::serve(&engine, args.slots.into(), io::stdin(), output).context("the server's frames")
}

/// What the front is told of an error.
fn refusal(error: &anyhow::Error) -> Report {
    match error.downcast_ref::<clap::Error>() {
        Some(usage) => {
            let text = usage.to_string();
            Report::WrongUsage(text.trim_start_matches("error: ").trim_end().to_owned())
        }
        None => Report::Refused(format!("{error:#}")),
    }
}

fn opened(args: &Args, printer: &Printer) -> Result<Arc<crate::engine::Engine>> {
    if let Some(front) = args.front.as_ref().filter(|front| *front != BUILD) {
        bail!("the program was replaced while it ran: {front} became {BUILD}; restart gust");
    }
    open::engine(&args.model, args.slots.into(), printer)
}

impl RunnerCommand {
    /// The command that opens the same model as `args` in a runner; `tokenizer` is the front's.
    pub fn of(args: &ModelArgs, n_slots: usize, tokenizer: &Tokenizer) -> io::Result<Self> {
        let mut list: Vec<OsString> = vec!["runner".into()];
        let mut flag = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                // In one word, for a value may begin with a dash.
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
                list.push(word);
            }
        };
        let number = |n: Option<u32>| n.map(|n| n.to_string().into());
        let ModelArgs {
            model,
            ctx,
            threads,
            cache_type_k,
            cache_type_v,
            mmproj,
            no_repack,
            yarn_as_is,
            devices,
            workers,
        } = args;
        flag("slots", Some(n_slots.to_string().into()));
        flag("front", Some(BUILD.into()));
        flag("model", model.as_ref().map(Into::into));
        flag("ctx", number(*ctx));
        flag("threads", number(*threads));
        flag("cache-type-k", cache_type_k.map(cache_type));
        flag("cache-type-v", cache_type_v.map(cache_type));
        flag("mmproj", mmproj.as_ref().map(Into::into));
        // The key itself, if it is in the environment, is passed on with that.
        flag("worker-key", workers.worker_key.as_ref().map(Into::into));
        workers.worker.iter().for_each(|worker| flag("worker", Some(worker.into())));
        let switches = [(no_repack, "--no-repack"), (yarn_as_is, "--yarn-as-is")];
        list.extend(switches.iter().filter(|(on, _)| **on).map(|(_, name)| (*name).into()));
        list.extend(devices.words());
        Ok(RunnerCommand {
            program: std::env::current_exe()?,
            args: list,
            vocabulary: runner::vocabulary_hash(tokenizer),
            patience: PATIENCE,
        })
    }
}

/// The word for a cache type on the command line.
fn cache_type(cache: CacheType) -> OsString {
    let value = cache.to_possible_value().expect("no variant is skipped");
    value.get_name().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::model;

    #[test]
    fn the_runner_opens_what_the_server_was_told_to() {
        let lines: [&[&str]; 6] = [
            &["gust", "runner", "--slots", "4"],
            &["gust", "runner", "--slots", "1", "-m", "a b.gguf", "--ctx", "512", "--no-repack"],
            &["gust", "runner", "--slots=9", "-t", "3", "--cache-type-k", "Q8_0", "--yarn-as-is"],
            &["gust", "runner", "--slots=9", "--gpu-layers=3", "--device=A,B", "--mlock"],
            &["gust", "runner", "--slots=9", "--model=-x", "--mmproj=--ctx", "--cache-type-v=bf16"],
            &[
                "gust",
                "runner",
                "--slots=9",
                "--worker=a,b:7",
                "--worker",
                "[::1]:9",
                "--worker-key=k",
            ],
        ];
        let tokenizer = Tokenizer::from_gguf(&model::builtin()).unwrap();
        let parsed = |words: &[OsString]| match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Runner(args)) => args,
            other => panic!("{other:?}"),
        };
        for line in lines {
            let asked = parsed(&line.iter().map(Into::into).collect::<Vec<_>>());
            let command = RunnerCommand::of(&asked.model, asked.slots.into(), &tokenizer).unwrap();
            let words = [&["gust".into()], &command.args[..]].concat();
            let given = parsed(&words);
            assert_eq!(given.front.as_deref(), Some(BUILD));
            assert_eq!(given.slots, asked.slots);
            assert_eq!(format!("{:?}", given.model), format!("{:?}", asked.model));
        }
    }
}
