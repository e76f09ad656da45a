//! Why a folder is no checkpoint that can be converted.

use std::path::PathBuf;

/// A folder that holds no usable checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum CheckpointError {
    #[error("{}: {problem}", .folder.display())]
    Folder { folder: PathBuf, problem: String },
    #[error("{}: {problem}", .file.display())]
    File { file: PathBuf, problem: String },
    #[error("{} key '{key}': expected {expected}, found {found}", .file.display())]
    Key { file: PathBuf, key: String, expected: String, found: String },
}
