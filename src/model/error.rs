//! Why a valid GGUF file is not a model that can run.
//!
//! Faults that come in numbers (missing keys, tensors, tokens) are collected and told together, so
//! that a file is not repaired one message at a time; at most twenty are listed.

use crate::gguf::{GgufError, Label, escape};

/// Most faults that one message lists.
const MAX_LISTED: usize = 20;

/// A file that is valid GGUF, or not even that, but no usable model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's message says what its fields are.
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{label}: {problem}")]
    Kind { label: Label, problem: String },
    #[error("{label}: missing keys: {}", .keys.join(", "))]
    MissingKeys { label: Label, keys: Vec<String> },
    #[error("{label} key '{key}': {problem}; expected {expected}, found {found}")]
    Range { label: Label, key: String, problem: &'static str, expected: String, found: String },
    #[error("{label}: keys {a} and {b} contradict each other: {problem}")]
    Pair { label: Label, a: String, b: String, problem: &'static str },
    #[error("{label}: tensors do not fit the model ({}):{}", .faults.len(), listed(.faults))]
    Tensors { label: Label, faults: Vec<String> },
    #[error("{label}: faults in the vocabulary ({}):{}", .faults.len(), listed(.faults))]
    Vocab { label: Label, faults: Vec<String> },
}

/// One indented line for each fault, the first ones only.
pub(crate) fn listed(faults: &[String]) -> String {
    let mut text: String =
        faults.iter().take(MAX_LISTED).map(|fault| format!("\n  {fault}")).collect();
    if faults.len() > MAX_LISTED {
        text += &format!("\n  and {} more", faults.len() - MAX_LISTED);
    }
    text
}

/// A name from the file, quoted for a message.
pub(super) fn quoted(name: &str) -> String {
    format!("'{}'", escape(name.as_bytes()))
}
