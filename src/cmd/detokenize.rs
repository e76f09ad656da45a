//! `gust detokenize`.

use crate::term::Printer;

/// Flags of `gust detokenize`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust detokenize`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust detokenize is being built")
}
