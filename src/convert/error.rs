//! Why a folder is no checkpoint that can be converted.

use std::path::PathBuf;

/// A folder that holds no usable checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum CheckpointError {
    #[error("{}: {problem}", .folder.display())]
    Folder { folder: PathBuf, problem: String },
}
