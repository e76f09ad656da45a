//! Why files were not written.
//!
//! Every message names the file or tensor, and what to do. Errors about a target come before any weight
//! is read; after that nothing is lost: what is written stays beside the target for the next run, except
//! where no further run could end differently ([`ExportError::is_hopeless`]).

use std::io;
use std::path::PathBuf;

use crate::gguf::{TensorType, escape};

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum ExportError {
    #[error("{} exists; give another name, or --force to replace it", path.display())]
    Exists { path: PathBuf },
    #[error("{} is {found}; expected the name of a file to be written", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    #[error("{}: there is no folder {} to write it into", path.display(), folder.display())]
    NoFolder { path: PathBuf, folder: PathBuf },
    #[error("{} is {}, which is to be read; give another name", path.display(), input.display())]
    IsInput { path: PathBuf, input: PathBuf },
    #[error("{} would be written twice; give another name", path.display())]
    Twice { path: PathBuf },
    #[error(
        "not enough space: needs {}, {} free in {}", size(*needs), size(*free), folder.display()
    )]
    NoSpace { folder: PathBuf, needs: u64, free: u64 },
    #[error("cannot {what} {}: {}", path.display(), explain(error))]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "cannot write {} at byte {byte}: {}; what is there is kept: run the same command again \
         to go on", path.display(), explain(error)
    )]
    Write { path: PathBuf, byte: u64, error: io::Error },
    #[error("{} is being written by another gust, process {pid}", path.display())]
    Busy { path: PathBuf, pid: u32 },
    #[error(
        "{} is in the way and not of an interrupted run; remove it, or give --restart to \
         overwrite it", path.display()
    )]
    InTheWay { path: PathBuf },
    #[error(
        "an earlier run was interrupted, and this one differs: {} has '{was}', now it is '{is}'; \
         run the same command as before, or give --restart to begin anew", journal.display()
    )]
    OtherRun { journal: PathBuf, was: String, is: String },
    #[error("{} has changed while it was read; nothing is written, run the command again", path.display())]
    Changed { path: PathBuf },
    #[error(
        "tensor '{}': {}, first in row {row}; expected finite numbers, found {found}; if its file is \
         damaged, get it again", escape(tensor.as_bytes()), bad_values(*n_bad)
    )]
    NotFinite { tensor: String, n_bad: u64, row: u64, found: String },
    #[error(
        "tensor '{}': {n_bad} values, first in row {row}, are too large for {ty}; use bf16 or f32 \
         for this tensor", escape(tensor.as_bytes())
    )]
    TooLarge { tensor: String, n_bad: u64, row: u64, ty: TensorType },
    #[error("tensor '{}': {from} cannot be converted to {to}", escape(tensor.as_bytes()))]
    NoConversion { tensor: String, from: String, to: TensorType },
    #[error(
        "tensor '{}': {ty} needs an importance matrix; give --imatrix, or another type",
        escape(tensor.as_bytes())
    )]
    NeedsImportance { tensor: String, ty: TensorType },
    #[error("stopped; run the same command again to go on, what is written is kept")]
    Interrupted,
}

impl ExportError {
    /// Whether the same command would fail the same way again, so that nothing is worth keeping.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::TooLarge { .. } | Self::Changed { .. })
    }
}

fn bad_values(n: u64) -> String {
    format!("{n} bad value{}", if n == 1 { "" } else { "s" })
}

/// A number of bytes in the units of every message.
fn size(n: u64) -> String {
    match n {
        0..0x4000_0000 => format!("{:.2} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// An operating system's word with what it means for large files.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            format!("{error} (FAT disks hold files up to 4 GiB, and ulimit -f may limit them)")
        }
        _ => error.to_string(),
    }
}
