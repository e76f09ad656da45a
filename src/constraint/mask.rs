//! Sets of tokens, and what they do to logits.

use crate::tokenizer::TokenId;

/// One bit a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
}

impl Mask {
    pub(super) fn fill_from(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
    }

    pub(super) fn allow(&mut self, id: TokenId) {
        let at = id as usize / 32;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (id % 32);
    }

    pub(super) fn forbid(&mut self, id: TokenId) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Whether the token is in the set.
    pub fn contains(&self, id: TokenId) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// The tokens of the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        (0..).zip(&self.words).flat_map(|(at, &word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 32 + bit)
        })
    }

    fn n_tokens(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The set's only token.
    pub(super) fn only(&self) -> Option<TokenId> {
        if self.n_tokens() == 1 { self.iter().next() } else { None }
    }
}

/// What may come next.
#[derive(Debug, Clone, Copy)]
pub enum Allowed<'a> {
    /// This token and no other.
    One(TokenId),
    /// The tokens of a set, two or more.
    Only(&'a Mask),
    /// All but these.
    AllBut(&'a [TokenId]),
}

impl Allowed<'_> {
    /// Whether the token may come.
    pub fn contains(&self, id: TokenId) -> bool {
        match self {
            Allowed::One(only) => id == *only,
            Allowed::Only(mask) => mask.contains(id),
            Allowed::AllBut(forbidden) => !forbidden.contains(&id),
        }
    }

    /// The lowest id of a token that may come and is below `n_vocab`.
    pub fn first(&self, n_vocab: usize) -> Option<TokenId> {
        let found = match self {
            Allowed::One(only) => Some(*only),
            Allowed::Only(mask) => mask.iter().next(),
            Allowed::AllBut(_) => {
                let n_vocab = TokenId::try_from(n_vocab).unwrap_or(TokenId::MAX);
                (0..n_vocab).find(|id| self.contains(*id))
            }
        };
        found.filter(|id| (*id as usize) < n_vocab)
    }

    /// Takes every chance from what may not come.
    pub fn apply(&self, logits: &mut [f32]) {
        const NEVER: f32 = f32::NEG_INFINITY;
        match self {
            Allowed::One(only) => {
                let kept = logits.get(*only as usize).copied();
                logits.fill(NEVER);
                if let (Some(logit), Some(kept)) = (logits.get_mut(*only as usize), kept) {
                    *logit = kept;
                }
            }
            Allowed::Only(mask) => {
                let (blocks, rest) = logits.split_at_mut(logits.len().min(mask.words.len() * 32));
                for (block, &word) in blocks.chunks_mut(32).zip(&mask.words) {
                    match word {
                        0 => block.fill(NEVER),
                        u32::MAX => {}
                        _ => {
                            for (bit, logit) in block.iter_mut().enumerate() {
                                *logit = if word >> bit & 1 == 1 { *logit } else { NEVER };
                            }
                        }
                    }
                }
                rest.fill(NEVER);
            }
            Allowed::AllBut(forbidden) => {
                for &id in *forbidden {
                    if let Some(logit) = logits.get_mut(id as usize) {
                        *logit = NEVER;
                    }
                }
            }
        }
    }
}
