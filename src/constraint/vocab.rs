//! The vocabulary as the grammar engine takes it: a trie of byte strings.
//!
//! Control tokens and the byte 0xff, which no text holds, have no bytes there, so that no grammar can
//! lead to them: which control token may come is for `reply` alone to say. Text that a grammar forces
//! is cut into the tokens that the model would have read.

use toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

use super::ConstraintError;
use crate::tokenizer::{TokenId, Tokenizer};

/// Longer tokens are never allowed; the trie cannot hold more than 1,024 bytes.
const MAX_TOKEN_BYTES: usize = 512;
/// The trie numbers its nodes with 22 bits.
const MAX_NODES: usize = 1 << 22;

/// A trie and the way from text to tokens.
pub(super) struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

impl Vocabulary {
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let n_vocab = TokenId::try_from(tokenizer.n_vocab()).unwrap_or(TokenId::MAX);
        let words: Vec<Vec<u8>> = (0..n_vocab).map(|id| word(tokenizer, id)).collect();
        let n_nodes = words.iter().map(Vec::len).sum::<usize>() + 1;
        if n_nodes >= MAX_NODES {
            return Err(ConstraintError::Vocabulary {
                problem: format!("its tokens have {n_nodes} bytes, {MAX_NODES} are too many"),
            });
        }
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab, tokenizer.eos()), &words);
        Ok(Self { trie, tokenizer: tokenizer.clone() })
    }
}

fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let is_text = !tokenizer.is_control(id) && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
    if is_text && bytes.len() <= MAX_TOKEN_BYTES { bytes.to_vec() } else { Vec::new() }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            self.tokenizer.encode_into(chunk.valid(), &mut ids);
            let halves = chunk.invalid().iter();
            ids.extend(halves.filter_map(|&byte| self.trie.token_id_at_bytes(&[byte])));
        }
        ids
    }
}
