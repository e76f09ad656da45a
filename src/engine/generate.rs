//! The loop from logits to tokens: sample, hand out, step.

use crate::tokenizer::TokenId;

use super::{Error, Sampler, Session};

/// Tokens of one reply, one `next` at a time.
///
/// Ends after the end-of-sequence token (handed out too), after `n_max` tokens, or when the context is
/// full. The token last handed out is computed only when the next one is asked for.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: Sampler,
    logits: Vec<f32>,
    last: Option<TokenId>,
    n_left: usize,
    ended: Option<End>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// The model said so.
    Eos,
    /// `n_max` tokens were handed out.
    MaxTokens,
    /// No cell is left for another token.
    ContextFull,
}

impl<'a> Generation<'a> {
    /// Continues `session`, whose last forward pass gave `logits`.
    pub fn new(session: &'a mut Session, sampler: Sampler, logits: Vec<f32>, n_max: usize) -> Self {
        Generation { session, sampler, logits, last: None, n_left: n_max, ended: None }
    }

    /// Why it ended; `None` while it runs.
    pub fn end(&self) -> Option<End> {
        self.ended
    }

    /// What the tokens are chosen by.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    fn step(&mut self) -> Result<Option<TokenId>, Error> {
        if self.ended.is_none() && self.n_left == 0 {
            self.ended = Some(End::MaxTokens);
        }
        if self.ended.is_some() {
            return Ok(None);
        }
        if let Some(token) = self.last.take() {
            match self.session.step(token, &mut self.logits) {
                Err(Error::ContextFull { .. }) => {
                    self.ended = Some(End::ContextFull);
                    return Ok(None);
                }
                done => done?,
            }
        }
        let token = self.sampler.sample(&mut self.logits)?;
        self.sampler.accept(token);
        self.n_left -= 1;
        self.last = Some(token);
        if token == self.session.engine().tokenizer().eos() {
            self.ended = Some(End::Eos);
        }
        Ok(Some(token))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<TokenId, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
