//! Text that a command takes: `-p`, `-f` or stdin.

use std::io;
use std::path::PathBuf;

use crate::term::files::{read_piped, read_stream};

/// Most bytes of a text: corpora are tokenized too.
const MAX_TEXT: u64 = 1 << 30;

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
        String::from_utf8(self.read_bytes()?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let (name, byte) = (self.name(), error.as_bytes()[at]);
            anyhow::anyhow!("{name} is not UTF-8: byte 0x{byte:02x} at offset {at}")
        })
    }

    /// Reads the text as it is. A file may be a pipe, as a shell's `<(…)` is one.
    pub(super) fn read_bytes(&self) -> anyhow::Result<Vec<u8>> {
        match (&self.prompt, &self.file) {
            (Some(prompt), _) => Ok(prompt.clone().into_bytes()),
            (None, Some(path)) if path.as_os_str() != "-" => read_piped(path, MAX_TEXT),
            _ => read_stream(io::stdin().lock(), "stdin", MAX_TEXT),
        }
    }

    /// The file's name as it was given, or `stdin`.
    pub(super) fn name(&self) -> String {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => path.display().to_string(),
            _ => "stdin".to_owned(),
        }
    }
}
