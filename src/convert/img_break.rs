//! Which token ends a row of a picture, found in whatever describes the tokens.
//!
//! Only this one number is wanted, so the files are read as far as it takes; the tokenizer itself is
//! converted elsewhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::json::{self, MAX_INDEX};

const TOKEN: &str = "[IMG_BREAK]";

#[derive(serde::Deserialize)]
struct Tekken {
    #[serde(default)]
    special_tokens: Option<Vec<Special>>,
}

#[derive(serde::Deserialize)]
struct Special {
    rank: u32,
    token_str: String,
}

#[derive(serde::Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(serde::Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(serde::Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: Option<HashMap<String, Decoded>>,
}

#[derive(serde::Deserialize)]
struct Decoded {
    content: String,
}

/// The token's id and the file that told it; `None` where no file knows the token.
pub(super) fn find(dir: &Path) -> Result<Option<(u32, PathBuf)>, CheckpointError> {
    let path = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    if let Some(path) = path("tekken.json") {
        let tekken: Tekken = json::read(&path, MAX_INDEX)?;
        let special = tekken.special_tokens.into_iter().flatten();
        if let Some(found) = { special }.find(|special| special.token_str == TOKEN) {
            return Ok(Some((found.rank, path)));
        }
    }
    if let Some(path) = path("tokenizer.json") {
        let tokenizer: Tokenizer = json::read(&path, MAX_INDEX)?;
        if let Some(found) = tokenizer.added_tokens.iter().find(|added| added.content == TOKEN) {
            return Ok(Some((found.id, path)));
        }
    }
    if let Some(path) = path("tokenizer_config.json") {
        let config: TokenizerConfig = json::read(&path, MAX_INDEX)?;
        let decoder = config.added_tokens_decoder.unwrap_or_default();
        let found = decoder.iter().find(|(_, token)| token.content == TOKEN);
        if let Some(id) = found.and_then(|(id, _)| id.parse().ok()) {
            return Ok(Some((id, path)));
        }
    }
    Ok(None)
}
