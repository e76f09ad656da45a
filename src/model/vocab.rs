//! Whether a file's vocabulary holds together: lengths, ids, types, duplicates, merges.
//!
//! What the tokens mean is read by `tokenizer`; this check costs milliseconds and runs also where
//! no tokenizer is built, as in `gust inspect`.

use std::collections::HashMap;

use super::error::{ModelError, quoted};
use super::hparams::Hparams;
use crate::gguf::{Array, Gguf, GgufError, Metadata, Strings, Value};

/// Values of `tokenizer.ggml.model` that can be read: byte-level BPE goes by this name.
const MODELS: &[&str] = &["gpt2"];
/// Values of `tokenizer.ggml.pre` that mean tekken's pre-tokenizer; `pixtral` is an old misnomer.
const PRES: &[&str] = &["tekken", "pixtral"];
/// Values of `tokenizer.ggml.token_type`: 1 normal to 6 byte.
const TOKEN_TYPES: std::ops::RangeInclusive<i128> = 1..=6;
/// The type of tokens that stand for one byte.
const BYTE: i128 = 6;

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Keys that hold a token id.
const IDS: &[&str] = &[
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// Checks the vocabulary of `gguf` against itself and the embedding; reports all faults together.
pub fn check_vocab(gguf: &Gguf, hparams: &Hparams) -> Result<(), ModelError> {
    let metadata = gguf.metadata();
    let mut faults = Vec::new();
    check_kind(metadata, "tokenizer.ggml.model", MODELS, &mut faults)?;
    check_kind(metadata, "tokenizer.ggml.pre", PRES, &mut faults)?;
    faults.extend(vocab_faults(gguf, hparams)?);
    if faults.is_empty() {
        return Ok(());
    }
    Err(ModelError::Vocab { label: gguf.label().clone(), faults })
}

/// What in the vocabulary of `gguf` contradicts itself or the embedding, whatever its kind.
pub fn vocab_faults(gguf: &Gguf, hparams: &Hparams) -> Result<Vec<String>, GgufError> {
    let metadata = gguf.metadata();
    let mut faults = Vec::new();
    check_counts(gguf, hparams, &mut faults)?;
    if let Some(tokens) = metadata.strings(TOKENS)? {
        let ids = check_tokens(tokens, &mut faults);
        check_merges(metadata, &ids, &mut faults)?;
        check_byte_tokens(metadata, tokens, &mut faults)?;
    }
    check_scores_and_types(metadata, &mut faults)?;
    for key in IDS {
        if let Some(id) = metadata.u32(key)?
            && id >= hparams.n_vocab
        {
            let n_vocab = hparams.n_vocab;
            faults.push(format!("key '{key}': id {id} in a vocabulary of {n_vocab} tokens"));
        }
    }
    Ok(faults)
}

fn check_kind(
    metadata: &Metadata,
    key: &str,
    known: &[&str],
    faults: &mut Vec<String>,
) -> Result<(), GgufError> {
    let expected = known.join(" or ");
    match metadata.str(key)? {
        Some(found) if known.contains(&found) => {}
        Some(found) => {
            let found = quoted(found);
            faults.push(format!("key '{key}': unsupported; expected {expected}, found {found}"));
        }
        None => faults.push(format!("key '{key}': missing; expected {expected}")),
    }
    Ok(())
}

/// Tokens, scores, types and embedding rows, side by side if they differ.
fn check_counts(gguf: &Gguf, hparams: &Hparams, faults: &mut Vec<String>) -> Result<(), GgufError> {
    let mut counts = vec![("vocab_size", u64::from(hparams.n_vocab))];
    if let Some([_, n_rows, ..]) = gguf.tensor("token_embd.weight").map(|t| t.dims.as_slice()) {
        counts.push(("embedding rows", *n_rows));
    }
    for (what, key) in [("tokens", TOKENS), ("scores", SCORES), ("types", TYPES)] {
        if let Some(array) = gguf.metadata().array(key)? {
            counts.push((what, array.len() as u64));
        }
    }
    if counts.iter().any(|(_, n)| *n != counts[0].1) {
        let counts: Vec<_> = counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
        faults.push(format!("counts differ: {}", counts.join(", ")));
    }
    Ok(())
}

/// No token is empty, no token comes twice. Returns the id of each.
fn check_tokens<'a>(tokens: &'a Strings, faults: &mut Vec<String>) -> HashMap<&'a str, usize> {
    let mut ids: HashMap<&str, usize> = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if token.is_empty() {
            faults.push(format!("token {id} is empty"));
        } else if let Some(first) = ids.insert(token, id) {
            faults.push(format!("tokens {first} and {id} are both {}", quoted(token)));
        }
    }
    ids
}

/// Every merge is two tokens with one space between them.
fn check_merges(
    metadata: &Metadata,
    ids: &HashMap<&str, usize>,
    faults: &mut Vec<String>,
) -> Result<(), GgufError> {
    let Some(merges) = metadata.strings("tokenizer.ggml.merges")? else { return Ok(()) };
    for (idx, merge) in merges.iter().enumerate() {
        let fault = match merge.split_once(' ') {
            Some((a, b)) if ids.contains_key(a) && ids.contains_key(b) => continue,
            Some((a, b)) if a.is_empty() || b.is_empty() || b.contains(' ') => "is not two tokens",
            Some(_) => "names an unknown token",
            None => "is not two tokens",
        };
        faults.push(format!("merge {idx} ({}) {fault}", quoted(merge)));
    }
    Ok(())
}

/// Tokens of type 6 stand for one byte and are written `<0x41>`.
fn check_byte_tokens(
    metadata: &Metadata,
    tokens: &Strings,
    faults: &mut Vec<String>,
) -> Result<(), GgufError> {
    let types = metadata.array(TYPES)?.and_then(Array::integers).unwrap_or_default();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| types.get(*id) == Some(&BYTE)) {
        let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        let is_byte = |digits: &str| {
            digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if !digits.is_some_and(is_byte) {
            let shown = quoted(token);
            faults
                .push(format!("token {id} is {shown}; expected a byte token as <0x00> to <0xFF>"));
        }
    }
    Ok(())
}

fn check_scores_and_types(metadata: &Metadata, faults: &mut Vec<String>) -> Result<(), GgufError> {
    if let Some(Value::Array(Array::F32(scores))) = metadata.get(SCORES)
        && let Some(id) = scores.iter().position(|score| !score.is_finite())
    {
        faults.push(format!("score of token {id} is {}; expected a finite number", scores[id]));
    }
    let types = metadata.array(TYPES)?.and_then(Array::integers).unwrap_or_default();
    if let Some(id) = types.iter().position(|ty| !TOKEN_TYPES.contains(ty)) {
        let (first, last) = (TOKEN_TYPES.start(), TOKEN_TYPES.end());
        faults.push(format!("type of token {id} is {}; expected {first} to {last}", types[id]));
    }
    Ok(())
}
