//! The small files beside the weights: read once, bounded, or absent.
//!
//! A folder, a pipe or a device of the name that is looked for counts as absent. What is there and cannot be
//! used is an error where the model would not work as meant without it, and a note where it only describes
//! the model, so that nothing of a checkpoint gets lost unnoticed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::CheckpointError;

/// Most bytes of a text; a chat template has 13 KB.
pub(super) const MAX_TEXT: u64 = 4 << 20;

/// The files beside the weights, and which of them were read.
#[derive(Debug)]
pub(super) struct SideFiles<'a> {
    dir: &'a Path,
    pub(super) read: Vec<PathBuf>,
    /// What was left out, and why.
    pub(super) notes: Vec<String>,
}

impl<'a> SideFiles<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir, read: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// The bytes of `name`, at most `max`; `None` if there is no such file.
    pub(super) fn bytes(
        &mut self,
        name: &str,
        max: u64,
    ) -> Result<Option<Vec<u8>>, CheckpointError> {
        if !self.has(name) {
            return Ok(None);
        }
        let path = self.path(name);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| {
            // One byte more tells that there is more.
            file.take(max + 1).read_to_end(&mut bytes)
        });
        match read {
            Err(error) => Err(fault(path, error.to_string())),
            Ok(n) if n as u64 > max => {
                Err(fault(path, format!("too large; expected at most {max} bytes")))
            }
            Ok(_) => {
                self.read.push(path);
                Ok(Some(bytes))
            }
        }
    }

    /// The text of `name`.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, CheckpointError> {
        let Some(bytes) = self.bytes(name, MAX_TEXT)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            fault(self.path(name), format!("not UTF-8 at byte {at}"))
        })?;
        Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
    }

    /// The text of `name`, which only describes the model: `None`, with a note, where it cannot be used.
    pub(super) fn description(&mut self, name: &str, max: u64) -> Option<String> {
        let read = self.bytes(name, max).map_err(|error| match error {
            CheckpointError::File { problem, .. } => problem,
            error => error.to_string(),
        });
        let text = read.and_then(|bytes| {
            let text = bytes.map(|bytes| match String::from_utf8(bytes) {
                Ok(text) if text.trim().is_empty() => Err("empty".to_owned()),
                Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
                Err(error) => {
                    Err(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
                }
            });
            text.transpose()
        });
        text.unwrap_or_else(|problem| {
            self.notes.push(format!("{name} is not carried over: {problem}"));
            None
        })
    }

    /// The object in the JSON file `name`; `None`, with a note, if that is no text at all.
    pub(super) fn json(
        &mut self,
        name: &str,
    ) -> Result<Option<Map<String, Value>>, CheckpointError> {
        let Some(text) = self.description(name, MAX_TEXT) else { return Ok(None) };
        let object = serde_json::from_str(&text);
        object
            .map(Some)
            .map_err(|error| fault(self.path(name), format!("not a JSON object: {error}")))
    }

    /// An error about the file `name`.
    pub(super) fn fault(&self, name: &str, problem: String) -> CheckpointError {
        fault(self.path(name), problem)
    }
}

fn fault(file: PathBuf, problem: String) -> CheckpointError {
    CheckpointError::File { file, problem }
}
