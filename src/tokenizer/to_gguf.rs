//! Writes a vocabulary the way GGUF files hold it.
//!
//! The counterpart of `from_gguf.rs`. Merges are not kept in memory, since a pair's priority is the rank
//! of what it makes; other engines need them spelled out: every way to cut a token into two tokens, in the
//! order of the results, and of the parts for one result.

use super::byte_chars::push_chars;
use super::vocab::TokenKind;
use super::{TokenId, Tokenizer, TokenizerError};
use crate::gguf::Strings;

/// Longer tokens are not cut: the longest of the family has 128 bytes, and the work grows with the square.
const MAX_CUT_BYTES: usize = 1024;
/// The merges of the whole vocabulary have 5 MB; a GGUF header may have 256 MiB.
const MAX_MERGES_BYTES: usize = 64 << 20;

impl Tokenizer {
    /// Value of `tokenizer.ggml.tokens`: text with one character for each byte, names as they are.
    pub fn gguf_tokens(&self) -> Strings {
        self.ids().map(|id| self.gguf_token(id)).collect()
    }

    /// Value of `tokenizer.ggml.token_type`.
    pub fn gguf_token_types(&self) -> Vec<i32> {
        let ty = |id| match self.vocab.kind(id) {
            Some(TokenKind::Control) => 3,
            Some(TokenKind::Literal) => 4,
            _ => 1,
        };
        self.ids().map(ty).collect()
    }

    /// Value of `tokenizer.ggml.merges`.
    pub fn gguf_merges(&self) -> Result<Strings, TokenizerError> {
        let mut n_bytes = 0;
        let mut merges = Vec::new();
        for id in self.ids().filter(|&id| self.vocab.kind(id) == Some(TokenKind::Normal)) {
            for (left, right) in self.cuts(id)? {
                let mut merge = String::new();
                push_chars(self.token_bytes(left), &mut merge);
                merge.push(' ');
                push_chars(self.token_bytes(right), &mut merge);
                n_bytes += merge.len();
                if n_bytes > MAX_MERGES_BYTES {
                    return Err(TokenizerError::TooManyMerges { limit: MAX_MERGES_BYTES });
                }
                merges.push(merge);
            }
        }
        Ok(merges.into_iter().collect())
    }

    /// The pairs of tokens that make up the token `id`, by ascending ids.
    pub(super) fn cuts(&self, id: TokenId) -> Result<Vec<(TokenId, TokenId)>, TokenizerError> {
        let bytes = self.token_bytes(id);
        if bytes.len() > MAX_CUT_BYTES {
            let (n_bytes, limit) = (bytes.len(), MAX_CUT_BYTES);
            return Err(TokenizerError::TokenTooLong { id, n_bytes, limit });
        }
        let token = |start, end| self.vocab.get(bytes, start, end);
        let cut = |at| Some((token(0, at)?, token(at, bytes.len())?));
        let mut cuts: Vec<_> = (1..bytes.len()).filter_map(cut).collect();
        cuts.sort_unstable();
        if cuts.is_empty() && bytes.len() > 1 {
            return Err(TokenizerError::Unreachable { id });
        }
        Ok(cuts)
    }

    fn gguf_token(&self, id: TokenId) -> String {
        let bytes = self.token_bytes(id);
        match self.vocab.kind(id) {
            Some(TokenKind::Normal) => {
                let mut text = String::with_capacity(bytes.len());
                push_chars(bytes, &mut text);
                text
            }
            _ => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::builtin;

    /// The built-in model's file was written by llama.cpp's converter, or is equal to one that was.
    #[test]
    fn a_vocabulary_is_written_as_it_was_read() {
        let gguf = builtin();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let strings = |key| gguf.metadata().strings(key).unwrap().unwrap();
        assert_eq!(&tokenizer.gguf_tokens(), strings("tokenizer.ggml.tokens"));
        assert_eq!(&tokenizer.gguf_merges().unwrap(), strings("tokenizer.ggml.merges"));
        let types = gguf.metadata().i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        assert_eq!(tokenizer.gguf_token_types(), types);
    }
}
