//! What a run's statistics come from: model, text and settings, as keys in the file.
//!
//! A file that goes on must be of the same origin in all three, or its sums would mean nothing. The keys are
//! gust's own, and llama.cpp passes over them. A model is known by its header and samples of its weights:
//! reading all of it would take longer than many a run.

use crate::gguf::{Gguf, Value};

/// Bytes of each tensor that are looked at, at both ends: fine-tunes differ in all of them.
const N_SAMPLE: usize = 256;

/// The keys, and what a message calls them.
const KEYS: [(&str, &str); 3] = [
    ("gust.imatrix.model", "model"),
    ("gust.imatrix.text", "text"),
    ("gust.imatrix.settings", "settings"),
];

/// What statistics come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// In the order of the keys.
    values: [String; 3],
}

impl Origin {
    /// The origin of statistics of a model on a text; `settings` is all else that changes them, readable.
    pub fn new(gguf: &Gguf, text: &str, settings: String) -> Self {
        let text = blake3::hash(text.as_bytes()).to_hex().to_string();
        Origin { values: [model_hash(gguf), text, settings] }
    }

    /// The keys for a file.
    pub(super) fn keys(&self) -> Vec<(&'static str, Value)> {
        let values = self.values.iter().cloned().map(Value::String);
        KEYS.iter().map(|(key, _)| *key).zip(values).collect()
    }

    /// In what a file's statistics come from elsewhere; `None` if in nothing.
    pub(super) fn difference(&self, file: &Gguf) -> Option<String> {
        for ((key, what), expected) in KEYS.into_iter().zip(&self.values) {
            match file.metadata().str(key) {
                Ok(Some(found)) if found == expected => {}
                Ok(Some(found)) if what == "settings" => {
                    let found: String = found.chars().take(200).collect();
                    return Some(format!("made with {found}, this run has {expected}"));
                }
                Ok(Some(_)) => return Some(format!("made from another {what}")),
                _ => return Some("not made by gust imatrix".to_owned()),
            }
        }
        None
    }
}

fn model_hash(gguf: &Gguf) -> String {
    let mut hasher = blake3::Hasher::new();
    let data_start =
        gguf.tensors().iter().filter(|tensor| tensor.part == 0).map(|t| t.offset).min();
    let first = gguf.parts()[0].bytes();
    let header = first.get(..data_start.unwrap_or(0) as usize).unwrap_or(first);
    hasher.update(header);
    for tensor in gguf.tensors() {
        let bytes = gguf.data(tensor);
        let n = bytes.len().min(N_SAMPLE);
        hasher.update(format!("{} {:?} {};", tensor.name, tensor.dims, tensor.ty).as_bytes());
        hasher.update(&bytes[..n]).update(&bytes[bytes.len() - n..]);
    }
    hasher.finalize().to_hex().to_string()
}
