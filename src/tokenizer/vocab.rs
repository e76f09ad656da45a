//! The token table: bytes of every id, and the id of a byte string.
//!
//! All bytes lie in one arena. The way back is an open-addressed hash table whose 64-bit keys
//! *are* the token up to 7 bytes (so a hit needs no second look) and a hash above that. Looking a
//! slice up costs the same few instructions at any length up to 16 bytes, which lets the merge
//! loop ask for byte ranges of the text and do without a table of pairs.

use super::{TokenId, TokenizerError};

/// More than any vocabulary of the family has; keeps every offset and slot number in 32 bits.
pub(super) const MAX_TOKENS: usize = 1 << 24;

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text; `encode` may produce it.
    Normal,
    /// Decodes to nothing; `encode` never produces it.
    Control,
    /// Decodes to its text, but `encode` never produces it.
    Literal,
}

/// Collects tokens in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct VocabBuilder {
    arena: Vec<u8>,
    /// End of each token in the arena.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl VocabBuilder {
    pub(super) fn with_capacity(n_tokens: usize) -> Self {
        let n_tokens = n_tokens.min(MAX_TOKENS);
        Self {
            arena: Vec::with_capacity(n_tokens * 8),
            ends: Vec::with_capacity(n_tokens),
            kinds: Vec::with_capacity(n_tokens),
        }
    }

    /// Where the bytes of the token to be closed by the next `finish_token` go.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    pub(super) fn finish_token(&mut self, kind: TokenKind) -> Result<(), TokenizerError> {
        if self.ends.len() == MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { limit: MAX_TOKENS });
        }
        let end = u32::try_from(self.arena.len()).map_err(|_| TokenizerError::VocabTooLarge)?;
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(())
    }

    pub(super) fn push(&mut self, bytes: &[u8], kind: TokenKind) -> Result<(), TokenizerError> {
        self.arena.extend_from_slice(bytes);
        self.finish_token(kind)
    }

    /// Checks what the merge loop relies on: no two tokens alike, and every byte a token.
    pub(super) fn build(self) -> Result<Vocab, TokenizerError> {
        let n_slots = (self.ends.len() * 2).next_power_of_two().max(2);
        let mut vocab = Vocab {
            keys: vec![0; n_slots],
            tags: vec![FREE; n_slots],
            ids: vec![0; n_slots],
            shift: 64 - n_slots.trailing_zeros(),
            byte_ids: [NONE; 256],
            pair_ids: vec![NONE; 1 << 16],
            longest: 0,
            arena: self.arena,
            ends: self.ends,
            kinds: self.kinds,
        };
        for index in 0..vocab.kinds.len() {
            if vocab.kinds[index] == TokenKind::Normal {
                let id = TokenId::try_from(index).expect("at most MAX_TOKENS tokens");
                vocab.insert(id)?;
            }
        }
        for byte in 0..=u8::MAX {
            let id = vocab.get(&[byte], 0, 1).ok_or(TokenizerError::MissingByte { byte })?;
            vocab.byte_ids[byte as usize] = id;
        }
        Ok(vocab)
    }
}

/// No token has this id.
pub(super) const NONE: TokenId = TokenId::MAX;
/// Tag of a free slot.
const FREE: u8 = 0;
/// The longest token that is its own key.
const MAX_INLINE: usize = 7;
/// Set in the keys that are hashes; an inline key has the length, at most 7, in that byte.
const HASHED: u64 = 0xff << 56;

/// The finished token table.
#[derive(Debug)]
pub(super) struct Vocab {
    arena: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    keys: Vec<u64>,
    ids: Vec<TokenId>,
    /// Slot = upper bits of the scrambled key.
    shift: u32,
    /// One byte per slot, 0 in a free one, else the lowest bits of the scrambled key. Most
    /// questions of the merge loop have the answer no, and find it in this small array.
    tags: Vec<u8>,
    byte_ids: [TokenId; 256],
    /// Id of each pair of bytes, at `first << 8 | second`.
    pair_ids: Vec<TokenId>,
    /// Length in bytes of the longest normal token.
    longest: usize,
}

impl Vocab {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of a token; `None` beyond the vocabulary.
    pub(super) fn bytes(&self, id: TokenId) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.arena[start..end])
    }

    pub(super) fn kind(&self, id: TokenId) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn control(&self, name: &[u8]) -> Option<TokenId> {
        let is_it = |&id: &TokenId| {
            self.kind(id) == Some(TokenKind::Control) && self.bytes(id) == Some(name)
        };
        (0..TokenId::try_from(self.len()).expect("at most MAX_TOKENS tokens")).find(is_it)
    }

    /// Id of the token of these two bytes, or `NONE`.
    #[inline]
    pub(super) fn pair_id(&self, first: u8, second: u8) -> TokenId {
        self.pair_ids[usize::from(first) << 8 | usize::from(second)]
    }

    #[inline]
    pub(super) fn byte_id(&self, byte: u8) -> TokenId {
        self.byte_ids[byte as usize]
    }

    /// Id of the normal token with the bytes `text[start..end]`. The whole text is passed because
    /// words are read past `end` where there are bytes.
    #[inline]
    pub(super) fn get(&self, text: &[u8], start: usize, end: usize) -> Option<TokenId> {
        let len = end - start;
        if len <= MAX_INLINE {
            let key = inline_key(text, start, len);
            return self.probe(key, |_| true);
        }
        if len > self.longest {
            return None;
        }
        let wanted = &text[start..end];
        self.probe(hashed_key(wanted), |id| self.bytes(id) == Some(wanted))
    }

    #[inline(always)]
    fn probe(&self, key: u64, is_it: impl Fn(TokenId) -> bool) -> Option<TokenId> {
        let mask = self.tags.len() - 1;
        let (mut slot, tag) = self.slot_and_tag(key);
        loop {
            let found = self.tags[slot & mask];
            if found == tag && self.keys[slot & mask] == key && is_it(self.ids[slot & mask]) {
                return Some(self.ids[slot & mask]);
            }
            if found == FREE {
                return None;
            }
            slot += 1;
        }
    }

    #[inline(always)]
    fn slot_and_tag(&self, key: u64) -> (usize, u8) {
        let hash = scramble(key);
        let slot = usize::try_from(hash >> self.shift).expect("a slot number has at most 26 bits");
        let [tag, ..] = hash.to_le_bytes();
        (slot, tag | 1)
    }

    fn insert(&mut self, id: TokenId) -> Result<(), TokenizerError> {
        let bytes = self.bytes(id).expect("the id is being built");
        let len = bytes.len();
        if len == 0 {
            return Err(TokenizerError::EmptyToken { id });
        }
        if let Some(other) = self.get(bytes, 0, len) {
            return Err(TokenizerError::DuplicateToken { id, other });
        }
        let key = if len <= MAX_INLINE { inline_key(bytes, 0, len) } else { hashed_key(bytes) };
        let mask = self.keys.len() - 1;
        if let &[first, second] = bytes {
            self.pair_ids[usize::from(first) << 8 | usize::from(second)] = id;
        }
        let (mut slot, tag) = self.slot_and_tag(key);
        while self.tags[slot & mask] != FREE {
            slot += 1;
        }
        self.tags[slot & mask] = tag;
        self.keys[slot & mask] = key;
        self.ids[slot & mask] = id;
        self.longest = self.longest.max(len);
        Ok(())
    }
}

#[inline(always)]
fn inline_key(text: &[u8], start: usize, len: usize) -> u64 {
    let word = match text.get(start..start + 8) {
        Some(word) => read_u64(word),
        None => read_partial(&text[start..]),
    };
    let bits = 8 * len;
    word & ((1 << bits) - 1) | (len as u64) << 56
}

/// Hash of 8 bytes or more.
#[inline]
fn hashed_key(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut hash = len as u64;
    let mut at = 0;
    while at + 8 < len {
        hash = scramble(hash ^ read_u64(&bytes[at..at + 8]));
        at += 8;
    }
    scramble(hash ^ read_u64(&bytes[len - 8..])) | HASHED
}

#[inline(always)]
fn scramble(word: u64) -> u64 {
    let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

#[inline(always)]
fn read_u64(word: &[u8]) -> u64 {
    u64::from_le_bytes(word.try_into().expect("the slice has 8 bytes"))
}

#[cold]
fn read_partial(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(word)
}
