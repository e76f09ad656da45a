//! One file per command: its flags and a `run` that joins the layers below. Nothing here is reused.

pub mod bench;
pub mod chat;
mod chat_format;
pub mod convert;
pub mod detokenize;
mod devices;
pub mod doctor;
pub mod generator;
pub mod imatrix;
pub mod inspect;
pub mod merge;
mod mmproj;
mod open;
pub mod perplexity;
pub mod plan;
pub mod plan_table;
mod prompt;
pub mod quantize;
pub mod recipe;
mod request;
pub mod run;
pub mod runner;
pub mod serve;
pub mod split;
mod text;
pub mod tokenize;
pub mod worker;
mod workers;
pub mod write;

use crate::cli::Command;
use crate::term::Printer;

/// Runs one command; `None` means `chat` with its defaults.
pub fn run(command: Option<Command>, printer: &Printer) -> anyhow::Result<()> {
    match command {
        None => chat::run(chat::Args::default_args(), printer),
        Some(Command::Chat(args)) => chat::run(args, printer),
        Some(Command::Run(args)) => run::run(args, printer),
        Some(Command::Serve(args)) => serve::run(args, printer),
        Some(Command::Bench(args)) => bench::run(args, printer),
        Some(Command::Perplexity(args)) => perplexity::run(args, printer),
        Some(Command::Convert(args)) => convert::run(args, printer),
        Some(Command::Imatrix(args)) => imatrix::run(args, printer),
        Some(Command::Quantize(args)) => quantize::run(args, printer),
        Some(Command::Inspect(args)) => inspect::run(args, printer),
        Some(Command::Doctor(args)) => doctor::run(args, printer),
        Some(Command::Plan(args)) => plan::run(args, printer),
        Some(Command::Split(args)) => split::run(args, printer),
        Some(Command::Merge(args)) => merge::run(args, printer),
        Some(Command::Tokenize(args)) => tokenize::run(args, printer),
        Some(Command::Detokenize(args)) => detokenize::run(args, printer),
        Some(Command::Worker(args)) => worker::run(args, printer),
        Some(Command::Runner(args)) => runner::run(args, printer),
    }
}
