//! What can be wrong with a vocabulary. Text itself is never wrong: every string has tokens.

use super::TokenId;
use crate::gguf::GgufError;

/// Why a vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum TokenizerError {
    #[error("tokenizer file has {n_bytes} bytes, more than the {limit} that any tekken.json needs")]
    FileTooLarge { n_bytes: usize, limit: usize },
    #[error("tekken.json is not what it should be")]
    Json(#[from] serde_json::Error),
    #[error("tekken.json: config.version is {version:?}, expected one of {known}")]
    Version { version: String, known: String },
    #[error("tekken.json: config.pattern is not the tekken pattern, the only one supported")]
    Pattern,
    #[error(
        "tekken.json: config.default_num_special_tokens is {n_special}, expected at most {limit}"
    )]
    TooManySpecial { n_special: usize, limit: usize },
    #[error(
        "tekken.json: vocab has {n_entries} entries, fewer than the {n_wanted} that \
         config.default_vocab_size asks for"
    )]
    TooFewEntries { n_wanted: usize, n_entries: usize },
    #[error("tekken.json: no special_tokens, which a file of version {version} must have")]
    NoSpecial { version: String },
    #[error("tekken.json: a special token has rank {rank}, expected less than {limit}")]
    SpecialRank { rank: usize, limit: usize },
    #[error("tekken.json: two special tokens with the same rank or name: {what}")]
    DuplicateSpecial { what: String },
    #[error("tekken.json: vocab[{index}] has rank {rank}, expected {index}")]
    Rank { index: usize, rank: usize },
    #[error("tekken.json: token_bytes of rank {rank} is not base64")]
    Base64 { rank: usize },
    #[error("tekken.json: rank {rank} is not the single byte {rank}, as the first 256 must be")]
    FirstRanks { rank: usize },
    #[error("tokenizer.json is not what it should be")]
    HfJson(#[source] serde_json::Error),
    #[error("tokenizer.json: {at}: {problem}")]
    Hf { at: String, problem: String },
    #[error("token {id} has {n_bytes} bytes, more than the {limit} that merges are made for")]
    TokenTooLong { id: TokenId, n_bytes: usize, limit: usize },
    #[error("token {id} is not made of two other tokens, so that no merge leads to it")]
    Unreachable { id: TokenId },
    #[error("the merges of the vocabulary have more than {limit} bytes")]
    TooManyMerges { limit: usize },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{file} key '{key}': expected {expected}, found {found}")]
    Key { file: String, key: String, expected: String, found: String },
    #[error("token {id} has the character {c:?}, which stands for no byte")]
    NotAByte { id: TokenId, c: char },
    #[error("the vocabulary has no control token {name}")]
    MissingControl { name: &'static str },
    #[error("the vocabulary has no token for the single byte 0x{byte:02x}")]
    MissingByte { byte: u8 },
    #[error("token {id} is empty")]
    EmptyToken { id: TokenId },
    #[error("token {id} has the same bytes as token {other}")]
    DuplicateToken { id: TokenId, other: TokenId },
    #[error("the vocabulary has more than {limit} tokens")]
    TooManyTokens { limit: usize },
    #[error("the tokens of the vocabulary have more than 4 GiB together")]
    VocabTooLarge,
}
