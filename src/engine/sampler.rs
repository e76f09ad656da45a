//! Logits of one position in, one token id out.
//!
//! The steps and their order are vLLM's, which the model card's settings are made for:
//! `logit_bias`, penalties, temperature, `min_p`, `top_k`, `top_p`, each renormalised over what
//! the former kept. (llama.cpp applies the temperature last, so that its `top_p` and `min_p` keep
//! more or fewer tokens.) At temperature 0 the highest logit wins and the rest is skipped. A constraint
//! takes its tokens out after the penalties, so that it has the last word on what is chosen.
//!
//! Nothing is sorted but a handful of survivors: the maxima of blocks of 64 logits bound what can
//! survive, and most blocks are never looked at again. Arithmetic and random numbers are our own,
//! so a seed gives the same tokens for the same logits on every machine and in every version.

mod exp;
mod penalties;
mod random;
mod select;

use penalties::Penalties;
use random::Random;
use select::{Candidate, Selector};

use crate::constraint::{Allowed, Constraint, ConstraintError};
use crate::tokenizer::TokenId;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the highest.
    pub temperature: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the likeliest tokens that reach this probability together; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens in prompt or reply, multiplies negative ones; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken off a token's logit once per occurrence in the reply; 0 does nothing.
    pub frequency_penalty: f32,
    /// Taken off the logit of a token that occurs in the reply; 0 does nothing.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens; `-inf` forbids one.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// A token that is not chosen before so many others were: the end of a reply that has a least length.
    /// Where a constraint allows nothing else, it comes all the same.
    pub late_end: Option<(TokenId, u32)>,
    /// Makes the choices repeatable; `None` takes a seed from the operating system.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// The model card's settings for reasoning: temperature 0.7 and `top_p` 0.95.
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            late_end: None,
            seed: None,
        }
    }
}

/// A parameter out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum SamplingError {
    #[error("{name} is {found}, expected {expected}")]
    Range { name: &'static str, found: f32, expected: &'static str },
    #[error("logit_bias of token {id} is {bias}, expected a number below infinity")]
    Bias { id: TokenId, bias: f32 },
    #[error("logit_bias names token {id}, which is beyond the vocabulary of {n_vocab} tokens")]
    BiasToken { id: TokenId, n_vocab: usize },
}

impl SamplingParams {
    /// Checks every value against its range.
    pub fn check(&self, n_vocab: usize) -> Result<(), SamplingError> {
        let finite = f32::is_finite;
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let unit = |x: f32| (0.0..=1.0).contains(&x);
        let any = "a finite number";
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("temperature", self.temperature, finite(self.temperature), any),
            ("top_p", self.top_p, unit(self.top_p), "0 to 1"),
            ("min_p", self.min_p, unit(self.min_p), "0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                positive(self.repetition_penalty),
                "more than 0",
            ),
            ("frequency_penalty", self.frequency_penalty, finite(self.frequency_penalty), any),
            ("presence_penalty", self.presence_penalty, finite(self.presence_penalty), any),
        ];
        for (name, found, good, expected) in checks {
            if !good {
                return Err(SamplingError::Range { name, found, expected });
            }
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= n_vocab {
                return Err(SamplingError::BiasToken { id, n_vocab });
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(SamplingError::Bias { id, bias });
            }
        }
        Ok(())
    }
}

/// Chooses the tokens of one text; keeps its history and its random numbers.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    penalties: Option<Penalties>,
    selector: Selector,
    random: Random,
    seed: u64,
    constraint: Option<Constraint>,
    /// Tokens of the reply.
    n_said: u32,
}

impl Sampler {
    /// A sampler with an empty history.
    pub fn new(params: SamplingParams, n_vocab: usize) -> Result<Self, SamplingError> {
        params.check(n_vocab)?;
        let seed = params.seed.unwrap_or_else(random::seed_from_os);
        Ok(Self {
            penalties: Penalties::new(&params, n_vocab),
            selector: Selector::default(),
            random: Random::new(seed),
            seed,
            params,
            constraint: None,
            n_said: 0,
        })
    }

    /// Chooses only what the constraint allows.
    pub fn with_constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(constraint);
        self
    }

    /// What holds the choices, if anything does.
    pub fn constraint(&self) -> Option<&Constraint> {
        self.constraint.as_ref()
    }

    /// The seed in use, also where none was asked for.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Counts the tokens of the prompt.
    pub fn read(&mut self, prompt: &[TokenId]) {
        if let Some(penalties) = &mut self.penalties {
            prompt.iter().for_each(|&id| penalties.read(id));
        }
    }

    /// Takes a token of the reply.
    pub fn accept(&mut self, id: TokenId) {
        self.n_said = self.n_said.saturating_add(1);
        if let Some(penalties) = &mut self.penalties {
            penalties.said(id);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id);
        }
    }

    /// Chooses a token. Changes the logits as far as bias, penalties and constraint do. NaN counts as
    /// `-inf`; if no token has a chance at all, the first one that is allowed is chosen. An error only
    /// comes from a constraint that cannot be followed any further.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<TokenId, ConstraintError> {
        let allowed = self.constraint.as_mut().map(Constraint::allowed).transpose()?;
        if let Some(Allowed::One(only)) = allowed {
            return Ok(only);
        }
        for &(id, bias) in &self.params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some((end, n_min)) = self.params.late_end
            && self.n_said < n_min
            && let Some(logit) = logits.get_mut(end as usize)
        {
            *logit = f32::NEG_INFINITY;
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(logits);
        }
        let Some(allowed) = allowed else {
            return Ok(choose(&self.params, &mut self.selector, &mut self.random, logits));
        };
        allowed.apply(logits);
        let id = choose(&self.params, &mut self.selector, &mut self.random, logits);
        match allowed.contains(id) {
            true => Ok(id),
            false => allowed.first(logits.len()).ok_or(ConstraintError::Run {
                problem: "no token of the model may come next".to_owned(),
            }),
        }
    }
}

fn choose(
    params: &SamplingParams,
    selector: &mut Selector,
    random: &mut Random,
    logits: &[f32],
) -> TokenId {
    if params.temperature == 0.0 {
        return select::argmax(logits);
    }
    let draw = random.next_unit();
    if params.top_k == 0 && params.top_p >= 1.0 && params.min_p == 0.0 {
        return selector.pick_of_all(logits, params.temperature, draw);
    }
    pick(selector.survivors(logits, params), draw)
}

/// The survivor into whose share of the total weight the draw falls.
fn pick(survivors: &[Candidate], draw: f64) -> TokenId {
    let total: f64 = survivors.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = draw * total;
    let mut chosen = 0;
    for candidate in survivors.iter().filter(|c| c.weight > 0.0) {
        chosen = candidate.id;
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
