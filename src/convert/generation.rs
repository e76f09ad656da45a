//! `generation_config.json`: how a model's publisher would have it sampled, and its end tokens.
//!
//! The sampling defaults become `general.sampling.*`, as llama.cpp's converter writes them. The ids are
//! only held against the vocabulary, which says the same.

use serde_json::{Map, Value as Json};

use super::error::CheckpointError;
use super::metadata::Keys;
use super::side_file::SideFiles;
use crate::gguf::{Value, escape};
use crate::tokenizer::Tokenizer;

const FILE: &str = "generation_config.json";

/// The type that a setting has in GGUF.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Int,
    Float,
}

/// Keys in the file, the last first to be asked; the key in GGUF.
const SETTINGS: [(&[&str], &str, Type); 12] = [
    (&["sequence"], "sequence", Type::Text),
    (&["top_k"], "top_k", Type::Int),
    (&["top_p"], "top_p", Type::Float),
    (&["min_p"], "min_p", Type::Float),
    (&["xtc_probability"], "xtc_probability", Type::Float),
    (&["xtc_threshold"], "xtc_threshold", Type::Float),
    (&["temperature"], "temp", Type::Float),
    (&["penalty_last_n"], "penalty_last_n", Type::Int),
    (&["penalty_repeat", "repetition_penalty"], "penalty_repeat", Type::Float),
    (&["mirostat"], "mirostat", Type::Int),
    (&["mirostat_tau"], "mirostat_tau", Type::Float),
    (&["mirostat_eta"], "mirostat_eta", Type::Float),
];

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Generation {
    settings: Vec<(String, Value)>,
    bos: Vec<u64>,
    eos: Vec<u64>,
}

impl Generation {
    pub(super) fn read(files: &mut SideFiles<'_>) -> Result<Self, CheckpointError> {
        let Some(file) = files.json(FILE)? else { return Ok(Self::default()) };
        let mut settings = Vec::new();
        for (names, key, ty) in SETTINGS {
            let Some((name, value)) = present(&file, names) else { continue };
            let read = match ty {
                Type::Text => value.as_str().map(|text| Value::String(text.to_owned())),
                Type::Int => value.as_i64().and_then(|x| i32::try_from(x).ok()).map(Value::I32),
                Type::Float => {
                    let x = value.as_f64().map(|x| x as f32);
                    x.filter(|x| x.is_finite()).map(Value::F32)
                }
            };
            let expected = match ty {
                Type::Text => "a text",
                Type::Int => "a whole number of 32 bits",
                Type::Float => "a number",
            };
            let read = read.ok_or_else(|| wrong(files, name, expected, value))?;
            settings.push((format!("general.sampling.{key}"), read));
        }
        let ids = |name| match file.get(name) {
            None | Some(Json::Null) => Ok(Vec::new()),
            Some(Json::Array(ids)) => {
                ids.iter().map(Json::as_u64).collect::<Option<_>>().ok_or(name)
            }
            Some(id) => id.as_u64().map(|id| vec![id]).ok_or(name),
        };
        let not_ids = |name| wrong(files, name, "a token id", &file[name]);
        Ok(Self {
            settings,
            bos: ids("bos_token_id").map_err(not_ids)?,
            eos: ids("eos_token_id").map_err(not_ids)?,
        })
    }

    /// Sets the sampling defaults.
    pub(super) fn write(&self, keys: &mut Keys) {
        self.settings.iter().for_each(|(key, value)| keys.set(key, value.clone()));
    }

    /// Refuses ids beyond the vocabulary, and tells those that the vocabulary has otherwise.
    pub(super) fn check(
        &self,
        files: &SideFiles<'_>,
        tokenizer: &Tokenizer,
        notes: &mut Vec<String>,
    ) -> Result<(), CheckpointError> {
        let (bos, eos) = (("bos_token_id", "<s>"), ("eos_token_id", "</s>"));
        let checks = [(bos, &self.bos, tokenizer.bos()), (eos, &self.eos, tokenizer.eos())];
        for ((key, name), ids, own) in checks {
            let n_vocab = tokenizer.n_vocab();
            if let Some(id) = ids.iter().find(|&&id| id >= n_vocab as u64) {
                let expected = format!("less than the {n_vocab} tokens of the vocabulary");
                return Err(wrong(files, key, &expected, &(*id).into()));
            }
            if ids.iter().any(|&id| id != u64::from(own)) {
                let found: Vec<_> = ids.iter().take(8).map(u64::to_string).collect();
                let found = found.join(", ");
                notes.push(format!(
                    "{FILE}: {key} is {found}; kept: {own}, the vocabulary's {name}"
                ));
            }
        }
        Ok(())
    }
}

/// The first of these keys that is there and not null.
fn present<'a>(
    file: &'a Map<String, Json>,
    names: &[&'static str],
) -> Option<(&'static str, &'a Json)> {
    names.iter().find_map(|&name| {
        let value = file.get(name).filter(|value| !value.is_null())?;
        Some((name, value))
    })
}

fn wrong(files: &SideFiles<'_>, key: &str, expected: &str, found: &Json) -> CheckpointError {
    CheckpointError::Key {
        file: files.path(FILE),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: escape(found.to_string().as_bytes()),
    }
}
