//! `gust chat`.

use crate::term::Printer;

/// Flags of `gust chat`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// What `gust` without any argument means.
    pub(crate) fn default_args() -> Args {
        Args {}
    }
}

/// Runs `gust chat`.
pub fn run(_args: Args, _printer: &Printer) -> anyhow::Result<()> {
    anyhow::bail!("gust chat is being built")
}
