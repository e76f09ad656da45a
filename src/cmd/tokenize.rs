//! `gust tokenize`.

use crate::term::Printer;

/// Flags of `gust tokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust tokenize`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust tokenize is being built")
}
