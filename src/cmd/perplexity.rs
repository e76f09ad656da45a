//! `gust perplexity`.

use crate::term::Printer;

/// Flags of `gust perplexity`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust perplexity`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust perplexity is being built")
}
