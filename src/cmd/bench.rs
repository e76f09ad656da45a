//! `gust bench`.

use crate::term::Printer;

/// Flags of `gust bench`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `gust bench`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust bench is being built")
}
