//! Why a folder is no checkpoint that can be converted.
//!
//! Faults that come in numbers (files of an index, tensors) are collected and told together, so that a
//! download is not repaired one message at a time.

use std::path::PathBuf;

use super::safetensors::HeaderError;
use crate::model::listed;

impl CheckpointError {
    /// The same about a key inside `section`.
    pub(super) fn below(self, section: &str) -> Self {
        match self {
            Self::Key { file, key, expected, found } => {
                Self::Key { file, key: format!("{section}.{key}"), expected, found }
            }
            error => error,
        }
    }
}

/// A folder that holds no usable checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum CheckpointError {
    #[error("{}: {problem}", .folder.display())]
    Folder { folder: PathBuf, problem: String },
    #[error("{}: {problem}", .file.display())]
    File { file: PathBuf, problem: String },
    #[error("{}: {header}", .file.display())]
    Header { file: PathBuf, header: Box<HeaderError> },
    #[error("{} key '{key}': expected {expected}, found {found}", .file.display())]
    Key { file: PathBuf, key: String, expected: String, found: String },
    #[error("{}: the files of weights do not belong together ({}):{}", .folder.display(), .faults.len(), listed(.faults))]
    Files { folder: PathBuf, faults: Vec<String> },
    #[error("{}: tensors do not fit the model ({}):{}", .folder.display(), .faults.len(), listed(.faults))]
    Tensors { folder: PathBuf, faults: Vec<String> },
    #[error("{error}\nthe other layout is in the folder too: --layout {other} reads that")]
    WithOther { error: Box<CheckpointError>, other: &'static str },
}
