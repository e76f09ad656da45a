//! Text to token ids and back, for the tekken vocabularies of the Mistral family.
//!
//! `Pieces` (pretokenizer) cuts the text, `Merger` (bpe) turns each piece into tokens with the
//! table in `vocab`. A vocabulary comes from a GGUF or from the original `tekken.json`. Both use
//! the one true tekken pattern: no other is known here, and files that name another are refused.
//! Control tokens never come out of `encode`; whoever wants one asks for it by name.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod bpe;
mod byte_chars;
mod error;
mod from_gguf;
mod pretokenizer;
mod tekken;
mod to_gguf;
mod tokenizer_json;
mod unicode;
mod utf8;
mod vocab;

pub use error::TokenizerError;
pub use tekken::{MAX_TEKKEN_BYTES, TekkenImage, TekkenInfo};
pub use utf8::Utf8Stream;

use std::sync::Arc;

use crate::gguf::Gguf;
use bpe::Merger;
use pretokenizer::Pieces;
use vocab::{TokenKind, Vocab};

/// Number of a token in the vocabulary.
pub type TokenId = u32;

/// A vocabulary and the rules to apply it. Shared freely between threads; a clone shares the table.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocab: Arc<Vocab>,
    bos: TokenId,
    eos: TokenId,
}

impl Tokenizer {
    /// Reads the vocabulary of a GGUF file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        from_gguf::read(gguf)
    }

    /// Reads the bytes of a `tekken.json`.
    pub fn from_tekken(json: &[u8]) -> Result<Self, TokenizerError> {
        tekken::parse(json)
    }

    /// Reads the bytes of a `tokenizer.json`, which must hold a tekken vocabulary.
    ///
    /// `warn` is told when the file names the pattern that the family's own files had wrong for a while;
    /// the right one is used.
    pub fn from_tokenizer_json(
        json: &[u8],
        warn: &mut dyn FnMut(&str),
    ) -> Result<Self, TokenizerError> {
        tokenizer_json::parse(json, warn)
    }

    /// Token ids of plain text. No BOS or EOS is added, and what looks like a control token in
    /// the text is text.
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        let mut out = Vec::new();
        self.encode_into(text, &mut out);
        out
    }

    /// As [`encode`](Self::encode), appending to `out`.
    pub fn encode_into(&self, text: &str, out: &mut Vec<TokenId>) {
        let bytes = text.as_bytes();
        let mut merger = Merger::new();
        out.reserve(bytes.len() / 4);
        for piece in Pieces::new(text) {
            merger.encode_piece(&self.vocab, bytes, piece, out);
        }
    }

    /// Bytes of the text that the tokens stand for. Control tokens, and ids beyond the
    /// vocabulary, stand for nothing. The bytes need not be whole characters: see [`Utf8Stream`].
    pub fn decode(&self, ids: &[TokenId]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ids.len() * 5);
        for &id in ids {
            if !self.is_control(id) {
                out.extend_from_slice(self.token_bytes(id));
            }
        }
        out
    }

    /// Bytes of one token; of a control token, its name. Empty beyond the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        self.vocab.bytes(id).unwrap_or_default()
    }

    /// Whether the token steers the model instead of standing for text.
    pub fn is_control(&self, id: TokenId) -> bool {
        self.vocab.kind(id) == Some(TokenKind::Control)
    }

    /// The control token with this name, such as `[INST]`.
    pub fn control_token(&self, name: &str) -> Option<TokenId> {
        self.vocab.control(name.as_bytes())
    }

    /// All control tokens, in the order of their ids.
    pub fn control_tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.ids().filter(|&id| self.is_control(id))
    }

    fn ids(&self) -> std::ops::Range<TokenId> {
        0..TokenId::try_from(self.n_vocab()).expect("at most MAX_TOKENS tokens")
    }

    /// Number of tokens; every id is below it.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token every prompt begins with.
    pub fn bos(&self) -> TokenId {
        self.bos
    }

    /// The token that ends a reply.
    pub fn eos(&self) -> TokenId {
        self.eos
    }
}

#[cfg(test)]
mod tests;
