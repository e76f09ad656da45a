//! How often each token occurs in the last part of the history, and what that costs it.

use std::collections::VecDeque;

use super::SamplingParams;
use crate::tokenizer::TokenId;

#[derive(Debug)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    last_n: Option<usize>,
    /// The tokens that count, oldest first; unused without `last_n`.
    window: VecDeque<TokenId>,
    /// Occurrences of every token.
    counts: Vec<u32>,
    /// The tokens with a count, in no order, and where each of them stands there.
    seen: Vec<TokenId>,
    places: Vec<u32>,
}

impl Penalties {
    /// `None` if the parameters penalise nothing.
    pub(super) fn new(params: &SamplingParams, n_vocab: usize) -> Option<Self> {
        let off = params.repetition_penalty == 1.0
            && params.frequency_penalty == 0.0
            && params.presence_penalty == 0.0;
        if off || params.penalty_last_n == Some(0) {
            return None;
        }
        Some(Self {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            last_n: params.penalty_last_n,
            window: VecDeque::new(),
            counts: vec![0; n_vocab],
            seen: Vec::new(),
            places: vec![0; n_vocab],
        })
    }

    pub(super) fn accept(&mut self, id: TokenId) {
        let Some(count) = self.counts.get_mut(id as usize) else { return };
        *count += 1;
        if *count == 1 {
            self.places[id as usize] =
                u32::try_from(self.seen.len()).expect("no more than there are token ids");
            self.seen.push(id);
        }
        if let Some(last_n) = self.last_n {
            self.window.push_back(id);
            if self.window.len() > last_n {
                self.forget_oldest();
            }
        }
    }

    fn forget_oldest(&mut self) {
        let Some(id) = self.window.pop_front() else { return };
        let count = &mut self.counts[id as usize];
        *count -= 1;
        if *count == 0 {
            let place = self.places[id as usize];
            self.seen.swap_remove(place as usize);
            if let Some(&moved) = self.seen.get(place as usize) {
                self.places[moved as usize] = place;
            }
        }
    }

    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &id in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            *logit -= self.counts[id as usize] as f32 * self.frequency + self.presence;
        }
    }
}
