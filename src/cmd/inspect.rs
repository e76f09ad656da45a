//! `gust inspect`.

use crate::term::Printer;

/// Flags of `gust inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust inspect`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust inspect is being built")
}
