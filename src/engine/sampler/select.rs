//! Finds the tokens that `min_p`, `top_k` and `top_p` leave, without sorting the vocabulary.
//!
//! One pass takes the maximum of each block of 64 logits. From them follows a floor below which
//! nothing survives: of `top_k`, the k-th highest maximum, since k blocks have a logit at least
//! that high; of `top_p`, the weight that the whole vocabulary could have without reaching 1 - p
//! together. Only blocks that reach above the floor are looked at again.

use std::cmp::Ordering;

use super::SamplingParams;
use super::exp::exp;
use crate::tokenizer::TokenId;

/// Logits per block.
const BLOCK: usize = 64;
/// Lanes of the passes over blocks, for the compiler to vectorise.
const LANES: usize = 16;
/// By how much a floor is lower than its formula says: logarithms differ between machines, and
/// the weights decide what survives.
const ROUNDING: f32 = 1e-3;
/// So few candidates are quicker sorted than partitioned.
const FEW: usize = 64;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: TokenId,
    logit: f32,
    /// Probability relative to the likeliest token's.
    pub(super) weight: f32,
}

/// Likelier first, and lower ids first among equals.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Buffers of the search.
#[derive(Debug, Default)]
pub(super) struct Selector {
    maxima: Vec<f32>,
    sorted_maxima: Vec<f32>,
    sums: Vec<f64>,
    /// In the order of their ids, so that the choice does not depend on how `ranked` was arranged.
    candidates: Vec<Candidate>,
    ranked: Vec<Candidate>,
}

/// The first of the highest logits.
pub(super) fn argmax(logits: &[f32]) -> TokenId {
    let max = logits.chunks(BLOCK).map(block_max).fold(f32::NEG_INFINITY, f32::max);
    let at = logits.iter().position(|&logit| logit == max).unwrap_or(0);
    token_id(at)
}

impl Selector {
    /// The tokens that `params` leave, in the order of their ids.
    pub(super) fn survivors(&mut self, logits: &[f32], params: &SamplingParams) -> &[Candidate] {
        let max = self.find_maxima(logits);
        let temperature = params.temperature;
        let top_k = params.top_k as usize;
        let mut floor = f32::NEG_INFINITY;
        if params.min_p > 0.0 {
            floor = max + temperature * (params.min_p.ln() - ROUNDING);
        }
        if top_k > 0 {
            floor = floor.max(self.kth_maximum(top_k));
        }
        let mut total = None;
        if top_k == 0 && params.min_p == 0.0 {
            let sum = self.sum_blocks(logits, max, temperature);
            let least = (1.0 - f64::from(params.top_p)) * sum / logits.len() as f64;
            floor = floor.max(max + temperature * (least.ln() as f32 - ROUNDING));
            total = Some(sum);
        }
        self.gather(logits, floor.min(max), max, temperature);
        if top_k > 0 && top_k < self.candidates.len() {
            self.keep_top_k(top_k);
        }
        if params.min_p > 0.0 {
            self.candidates.retain(|c| c.weight >= params.min_p);
        }
        if params.top_p < 1.0 {
            self.keep_top_p(params.top_p, total);
        }
        &self.candidates
    }

    /// Draws from the whole vocabulary.
    pub(super) fn pick_of_all(&mut self, logits: &[f32], temperature: f32, draw: f64) -> TokenId {
        let max = self.find_maxima(logits);
        let total = self.sum_blocks(logits, max, temperature);
        let mut left = draw * total;
        let mut chosen = None;
        for (block, &sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            chosen = Some(block);
            if left < sum {
                break;
            }
            left -= sum;
        }
        let start = chosen.unwrap_or(0) * BLOCK;
        let mut id = start;
        for (at, &logit) in logits.iter().enumerate().skip(start).take(BLOCK) {
            let weight = weight(logit, max, temperature);
            if weight > 0.0 {
                id = at;
                left -= f64::from(weight);
            }
            if left < 0.0 {
                break;
            }
        }
        token_id(id)
    }

    fn find_maxima(&mut self, logits: &[f32]) -> f32 {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(BLOCK).map(block_max));
        block_max(&self.maxima)
    }

    /// The k-th highest maximum of a block: no higher than the k-th highest logit.
    fn kth_maximum(&mut self, k: usize) -> f32 {
        if k > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.sorted_maxima.clone_from(&self.maxima);
        *self.sorted_maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    }

    /// Weight of each block and of all.
    fn sum_blocks(&mut self, logits: &[f32], max: f32, temperature: f32) -> f64 {
        self.sums.clear();
        self.sums.extend(logits.chunks(BLOCK).map(|block| block_sum(block, max, temperature)));
        self.sums.iter().sum()
    }

    fn gather(&mut self, logits: &[f32], floor: f32, max: f32, temperature: f32) {
        self.candidates.clear();
        for (number, block) in logits.chunks(BLOCK).enumerate() {
            if self.maxima[number] < floor {
                continue;
            }
            for (at, &logit) in block.iter().enumerate() {
                if logit >= floor {
                    let id = token_id(number * BLOCK + at);
                    let weight = weight(logit, max, temperature);
                    self.candidates.push(Candidate { id, logit, weight });
                }
            }
        }
    }

    fn keep_top_k(&mut self, k: usize) {
        self.ranked.clone_from(&self.candidates);
        let last = *self.ranked.select_nth_unstable_by(k - 1, by_rank).1;
        self.candidates.retain(|c| by_rank(c, &last).is_le());
    }

    /// Keeps a token if those likelier than it do not reach `top_p` of the total.
    fn keep_top_p(&mut self, top_p: f32, total: Option<f64>) {
        let total = total.unwrap_or_else(|| sum(&self.candidates));
        let target = f64::from(top_p) * total;
        self.ranked.clone_from(&self.candidates);
        let mut range = self.ranked.as_mut_slice();
        let mut reached = 0.0;
        while range.len() > FEW {
            let middle = range.len() / 2;
            range.select_nth_unstable_by(middle, by_rank);
            let (likelier, rest) = range.split_at_mut(middle);
            let mass = sum(likelier);
            if reached + mass >= target {
                range = likelier;
            } else {
                reached += mass;
                range = rest;
            }
        }
        range.sort_unstable_by(by_rank);
        let Some(&(mut last)) = range.first() else { return };
        for candidate in range {
            if reached >= target {
                break;
            }
            last = *candidate;
            reached += f64::from(candidate.weight);
        }
        self.candidates.retain(|c| by_rank(c, &last).is_le());
    }
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// The first alternative also serves where both are infinite.
#[inline(always)]
fn weight(logit: f32, max: f32, temperature: f32) -> f32 {
    if logit == max { 1.0 } else { exp((logit - max) / temperature) }
}

fn block_max(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            // Never true for NaN, unlike what `f32::max` compiles to, it is one instruction.
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let rest = chunks.remainder().iter();
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

fn block_sum(block: &[f32], max: f32, temperature: f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += weight(logit, max, temperature);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&x| weight(x, max, temperature)).sum();
    f64::from(lanes.iter().sum::<f32>() + rest)
}

fn token_id(at: usize) -> TokenId {
    TokenId::try_from(at).expect("no more logits than there are token ids")
}
