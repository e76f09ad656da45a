//! The vocabulary of a checkpoint, as keys of a GGUF file.
//!
//! `tekken.json` is the family's own file and comes first; `tokenizer.json` gives the same tokens where it is
//! all there is. Either way the keys are those that llama.cpp's converter writes for `tekken.json`: scores
//! that nobody reads, as whole numbers, are among them.

use super::error::CheckpointError;
use super::metadata::Keys;
use super::side_file::SideFiles;
use crate::gguf::{Array, Strings, Value};
use crate::tokenizer::{MAX_TEKKEN_BYTES, Tokenizer, TokenizerError};

const TEKKEN: &str = "tekken.json";
const HUGGING_FACE: &str = "tokenizer.json";

/// A vocabulary, ready to be written.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokenizer: Tokenizer,
    merges: Strings,
}

impl Vocabulary {
    /// Reads the vocabulary of a model with `n_vocab` rows of embeddings.
    pub(super) fn read(
        files: &mut SideFiles<'_>,
        n_vocab: u32,
        notes: &mut Vec<String>,
    ) -> Result<Self, CheckpointError> {
        let name = [TEKKEN, HUGGING_FACE].into_iter().find(|name| files.has(name));
        let Some(name) = name else { return Err(missing(files)) };
        if name == TEKKEN && files.has(HUGGING_FACE) {
            notes.push(format!("the vocabulary is {TEKKEN}'s; {HUGGING_FACE} is not read"));
        }
        let max = MAX_TEKKEN_BYTES as u64;
        let json = files.bytes(name, max)?.ok_or_else(|| missing(files))?;
        let mut warn = |note: &str| notes.push(note.to_owned());
        let read = match name {
            TEKKEN => Tokenizer::from_tekken(&json),
            _ => Tokenizer::from_tokenizer_json(&json, &mut warn),
        };
        let built = read.and_then(|tokenizer| {
            let merges = tokenizer.gguf_merges()?;
            Ok(Self { tokenizer, merges })
        });
        let vocabulary = built.map_err(|error| files.fault(name, told(&error)))?;
        let n_tokens = vocabulary.tokenizer.n_vocab();
        if n_tokens != n_vocab as usize {
            let problem = format!("{n_tokens} tokens; the model has embeddings for {n_vocab}");
            return Err(files.fault(name, problem));
        }
        Ok(vocabulary)
    }

    /// Sets the keys; `n_vocab_key` is the architecture's key of the size, where it goes in between.
    pub(super) fn write(&self, n_vocab_key: Option<&str>, keys: &mut Keys) {
        let tokenizer = &self.tokenizer;
        let mut set = |key: &str, value| keys.set(&format!("tokenizer.ggml.{key}"), value);
        set("model", Value::String("gpt2".to_owned()));
        set("pre", Value::String("tekken".to_owned()));
        set("merges", Value::Array(Array::String(self.merges.clone())));
        set("bos_token_id", Value::U32(tokenizer.bos()));
        set("eos_token_id", Value::U32(tokenizer.eos()));
        if let Some(id) = tokenizer.control_token("<unk>") {
            set("unknown_token_id", Value::U32(id));
        }
        let padding = tokenizer.control_token("<pad>").unwrap_or(tokenizer.eos());
        set("padding_token_id", Value::U32(padding));
        set("tokens", Value::Array(Array::String(tokenizer.gguf_tokens())));
        set("scores", Value::Array(Array::I32(vec![0; tokenizer.n_vocab()])));
        set("token_type", Value::Array(Array::I32(tokenizer.gguf_token_types())));
        if let Some(key) = n_vocab_key {
            let n_vocab = u32::try_from(tokenizer.n_vocab()).expect("compared with a u32");
            keys.set(key, Value::U32(n_vocab));
        }
        keys.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        keys.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    }
}

fn missing(files: &SideFiles<'_>) -> CheckpointError {
    let other = ["tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v7"];
    let other = other.into_iter().find(|name| files.has(name));
    let other = other.map_or(String::new(), |name| format!("; {name} is of a kind not supported"));
    let problem = format!("no tokenizer; expected {TEKKEN} or {HUGGING_FACE}{other}");
    files.fault(TEKKEN, problem)
}

/// An error with what caused it, without the name that comes before it anyway.
fn told(error: &TokenizerError) -> String {
    let mut text = error.to_string();
    for name in [TEKKEN, HUGGING_FACE] {
        text = text.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(text);
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{text}: {cause}"),
        None => text,
    }
}
