//! Text that a command takes: `-p`, `-f` or stdin.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;

/// Where the text comes from.
#[derive(Debug, clap::Args)]
pub(super) struct TextArgs {
    /// The text itself
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    pub(super) prompt: Option<String>,
    /// File with the text, `-` for stdin (the default)
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

impl TextArgs {
    /// Reads the text, which must be UTF-8 and is not changed in any way.
    pub(super) fn read(&self) -> anyhow::Result<String> {
        if let Some(prompt) = &self.prompt {
            return Ok(prompt.clone());
        }
        let (name, bytes) = match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let name = path.display().to_string();
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
                (name, bytes)
            }
            _ => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
                ("stdin".to_owned(), bytes)
            }
        };
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let byte = error.as_bytes()[at];
            anyhow::anyhow!("{name} is not UTF-8: byte 0x{byte:02x} at offset {at}")
        })
    }
}
