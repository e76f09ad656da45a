//! Which tokens occurred, and what that costs them.
//!
//! As in vLLM, the prompt counts for the repetition penalty only: presence and frequency are about what
//! the model has said.

use super::SamplingParams;
use crate::tokenizer::TokenId;

#[derive(Debug)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// Every token that occurred, once.
    seen: Vec<TokenId>,
    is_seen: Vec<bool>,
    /// Occurrences of every token in the reply.
    n_said: Vec<u32>,
}

impl Penalties {
    /// `None` if the parameters penalise nothing.
    pub(super) fn new(params: &SamplingParams, n_vocab: usize) -> Option<Self> {
        let off = params.repetition_penalty == 1.0
            && params.frequency_penalty == 0.0
            && params.presence_penalty == 0.0;
        (!off).then(|| Self {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            seen: Vec::new(),
            is_seen: vec![false; n_vocab],
            n_said: vec![0; n_vocab],
        })
    }

    /// Counts a token of the prompt.
    pub(super) fn read(&mut self, id: TokenId) {
        let Some(is_seen) = self.is_seen.get_mut(id as usize) else { return };
        if !*is_seen {
            *is_seen = true;
            self.seen.push(id);
        }
    }

    /// Counts a token of the reply.
    pub(super) fn said(&mut self, id: TokenId) {
        self.read(id);
        if let Some(n_said) = self.n_said.get_mut(id as usize) {
            *n_said += 1;
        }
    }

    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &id in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            let n_said = self.n_said[id as usize];
            if n_said > 0 {
                *logit -= n_said as f32 * self.frequency + self.presence;
            }
        }
    }
}
