//! Reads the vocabulary of a GGUF file.
//!
//! Normal tokens are written there with one printable character per byte (GPT-2's way), control
//! tokens as plain text. The file's merges are not needed: a pair's priority is the rank of what it
//! makes, and ids rise with the rank. `pixtral` is what some converters call the tekken pattern;
//! programs that take the name at its word cut combining marks wrongly.

use std::sync::Arc;

use super::byte_chars::byte_of;
use super::vocab::{TokenKind, VocabBuilder};
use super::{TokenId, Tokenizer, TokenizerError};
use crate::gguf::{Gguf, Metadata, Strings};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";

/// Names of the tekken pattern.
const PRES: [&str; 2] = ["tekken", "pixtral"];

pub(super) fn read(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
    let metadata = gguf.metadata();
    check_name(metadata, MODEL, &["gpt2"])?;
    check_name(metadata, PRE, &PRES)?;
    let tokens = metadata.strings(TOKENS)?.ok_or_else(|| missing(metadata, TOKENS))?;
    let types = metadata.i32s(TYPES)?.ok_or_else(|| missing(metadata, TYPES))?;
    if types.len() != tokens.len() {
        let expected = format!("{} values, one for each token", tokens.len());
        return Err(wrong(metadata, TYPES, expected, types.len().to_string()));
    }
    let mut builder = VocabBuilder::with_capacity(tokens.len());
    read_tokens(metadata, tokens, types, &mut builder)?;
    let vocab = builder.build()?;
    let id = |key, name| match metadata.u32(key)? {
        Some(id) if (id as usize) < vocab.len() => Ok(id),
        Some(id) => Err(wrong(metadata, key, format!("less than {}", vocab.len()), id.to_string())),
        None => vocab.control(str::as_bytes(name)).ok_or(TokenizerError::MissingControl { name }),
    };
    let (bos, eos): (TokenId, TokenId) = (id(BOS, "<s>")?, id(EOS, "</s>")?);
    Ok(Tokenizer { vocab: Arc::new(vocab), bos, eos })
}

fn read_tokens(
    metadata: &Metadata,
    tokens: &Strings,
    types: &[i32],
    builder: &mut VocabBuilder,
) -> Result<(), TokenizerError> {
    for ((id, token), &ty) in (0..).zip(tokens.iter()).zip(types) {
        let kind = match ty {
            1 => TokenKind::Normal,
            // Unknown, control, unused.
            2 | 3 | 5 => TokenKind::Control,
            4 => TokenKind::Literal,
            _ => {
                let expected = format!("1 to 5 for token {id} of a byte-level vocabulary");
                return Err(wrong(metadata, TYPES, expected, ty.to_string()));
            }
        };
        let bytes = builder.bytes();
        if kind == TokenKind::Normal {
            for c in token.chars() {
                let Some(byte) = byte_of(c) else {
                    return Err(TokenizerError::NotAByte { id, c });
                };
                bytes.push(byte);
            }
        } else {
            bytes.extend_from_slice(token.as_bytes());
        }
        builder.finish_token(kind)?;
    }
    Ok(())
}

fn check_name(metadata: &Metadata, key: &str, known: &[&str]) -> Result<(), TokenizerError> {
    let found = metadata.str(key)?.ok_or_else(|| missing(metadata, key))?;
    if known.contains(&found) {
        return Ok(());
    }
    Err(wrong(metadata, key, known.join(" or "), format!("{found:?}")))
}

fn missing(metadata: &Metadata, key: &str) -> TokenizerError {
    wrong(metadata, key, "a value".to_owned(), "none".to_owned())
}

fn wrong(metadata: &Metadata, key: &str, expected: String, found: String) -> TokenizerError {
    let (file, key) = (metadata.label().to_string(), key.to_owned());
    TokenizerError::Key { file, key, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::builtin;

    #[test]
    fn the_builtin_model_has_a_tekken_vocabulary() {
        let tokenizer = read(&builtin()).unwrap();
        assert_eq!(tokenizer.n_vocab(), 4096);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (1, 2));
        assert_eq!(tokenizer.control_token("[INST]"), Some(3));
        assert_eq!(tokenizer.token_bytes(1032), b" ");
        assert!(tokenizer.is_control(999) && !tokenizer.is_control(1000));
    }
}
