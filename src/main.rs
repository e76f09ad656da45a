//! The `gust` program: parse, run, print the error chain, choose the exit code.

use std::process::ExitCode;

use clap::Parser;
use gust::cli::Cli;
use gust::term::Printer;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new();
    match gust::cmd::run(cli.command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<clap::Error>() {
            // A mistake in the flags that parsing could not see.
            Some(usage) => {
                let _ = usage.print();
                ExitCode::from(2)
            }
            None => {
                printer.error(&error);
                ExitCode::FAILURE
            }
        },
    }
}

/// A reader that closed early (`gust … | head`) is not a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
