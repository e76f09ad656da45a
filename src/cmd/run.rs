//! `gust run`.

use crate::term::Printer;

/// Flags of `gust run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust run`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust run is being built")
}
