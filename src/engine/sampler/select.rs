//! Finds the tokens that `min_p`, `top_k` and `top_p` leave, without sorting the vocabulary.
//!
//! One pass takes the maximum of each block of 64 logits. From them follows a floor below which
//! nothing survives: of `top_k`, the k-th highest maximum, since k blocks have a logit at least
//! that high; of `top_p`, any above which the logits reach p together. Only blocks that reach
//! above the floor are looked at again.

use std::cmp::Ordering;

use super::SamplingParams;
use super::exp::exp2;
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
    let (mut max, mut start) = (f32::NEG_INFINITY, 0);
    for (number, block) in logits.chunks(BLOCK).enumerate() {
        let highest = block_max(block);
        if highest > max {
            (max, start) = (highest, number * BLOCK);
        }
    }
    let block = logits.iter().skip(start).take(BLOCK);
    token_id(start + block.enumerate().find(|(_, l)| **l == max).map_or(0, |(at, _)| at))
}

/// Turns logits into weights relative to the likeliest token's.
#[derive(Debug, Clone, Copy)]
struct Scale {
    max: f32,
    /// Logits to powers of two.
    factor: f32,
}

impl Scale {
    #[inline(always)]
    fn weight(self, logit: f32) -> f32 {
        exp2((logit - self.max) * self.factor)
    }

    /// A logit below which every weight is less than `weight`.
    fn floor(self, weight: f64) -> f32 {
        self.max + (weight.log2() as f32 - ROUNDING) / self.factor
    }
}

impl Selector {
    /// The tokens that `params` leave, in the order of their ids.
    pub(super) fn survivors(&mut self, logits: &[f32], params: &SamplingParams) -> &[Candidate] {
        let Some(scale) = self.find_maxima(logits, params.temperature) else {
            let id = argmax(logits);
            self.candidates.clear();
            self.candidates.push(Candidate { id, logit: 0.0, weight: 1.0 });
            return &self.candidates;
        };
        let top_k = params.top_k as usize;
        if top_k == 0 && params.min_p == 0.0 {
            let total = self.sum_blocks(logits, scale);
            self.gather_top_p(logits, scale, f64::from(params.top_p) * total);
            return &self.candidates;
        }
        let mut floor = scale.floor(f64::from(params.min_p));
        if top_k > 0 {
            floor = floor.max(self.kth_maximum(top_k));
        }
        self.gather(logits, scale, floor);
        if top_k > 0 && top_k < self.candidates.len() {
            self.keep_top_k(top_k);
        }
        self.candidates.retain(|c| c.weight >= params.min_p);
        if params.top_p < 1.0 {
            let target = f64::from(params.top_p) * sum(&self.candidates);
            self.keep_top_p(target);
        }
        &self.candidates
    }

    /// Draws from the whole vocabulary.
    pub(super) fn pick_of_all(&mut self, logits: &[f32], temperature: f32, draw: f64) -> TokenId {
        let Some(scale) = self.find_maxima(logits, temperature) else { return argmax(logits) };
        let mut left = draw * self.sum_blocks(logits, scale);
        let mut block = 0;
        for (number, &sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            block = number;
            if left < sum {
                break;
            }
            left -= sum;
        }
        let mut id = 0;
        for (at, &logit) in logits.iter().enumerate().skip(block * BLOCK).take(BLOCK) {
            let weight = scale.weight(logit);
            if weight > 0.0 {
                id = at;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        token_id(id)
    }

    /// `None` if the highest logit is infinite: then there is nothing to weigh.
    fn find_maxima(&mut self, logits: &[f32], temperature: f32) -> Option<Scale> {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(BLOCK).map(block_max));
        let max = block_max(&self.maxima);
        // Finite, so that the highest logit weighs 1 at any temperature.
        let factor = (std::f32::consts::LOG2_E / temperature).min(f32::MAX);
        max.is_finite().then_some(Scale { max, factor })
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
    fn sum_blocks(&mut self, logits: &[f32], scale: Scale) -> f64 {
        self.sums.clear();
        self.sums.extend(logits.chunks(BLOCK).map(|block| block_sum(block, scale)));
        self.sums.iter().sum()
    }

    fn gather(&mut self, logits: &[f32], scale: Scale, floor: f32) {
        self.candidates.clear();
        for (number, block) in logits.chunks(BLOCK).enumerate() {
            if self.maxima[number] < floor {
                continue;
            }
            for (at, &logit) in block.iter().enumerate() {
                if logit >= floor {
                    let id = token_id(number * BLOCK + at);
                    self.candidates.push(Candidate { id, logit, weight: scale.weight(logit) });
                }
            }
        }
    }

    /// The likeliest tokens that reach the target together, of the whole vocabulary: those above
    /// some floor, if they reach it, else those above a lower one.
    fn gather_top_p(&mut self, logits: &[f32], scale: Scale, target: f64) {
        for floor in [1e-2, 1e-4] {
            self.gather(logits, scale, scale.floor(floor));
            if sum(&self.candidates) >= target {
                return self.keep_top_p(target);
            }
        }
        self.gather(logits, scale, f32::NEG_INFINITY);
        self.keep_top_p(target);
    }

    fn keep_top_k(&mut self, k: usize) {
        self.ranked.clone_from(&self.candidates);
        let last = *self.ranked.select_nth_unstable_by(k - 1, by_rank).1;
        self.candidates.retain(|c| by_rank(c, &last).is_le());
    }

    /// Keeps a token if those likelier than it do not reach the target.
    fn keep_top_p(&mut self, target: f64) {
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

fn block_sum(block: &[f32], scale: Scale) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += scale.weight(logit);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&logit| scale.weight(logit)).sum();
    f64::from(lanes.iter().sum::<f32>() + rest)
}

fn token_id(at: usize) -> TokenId {
    TokenId::try_from(at).expect("no more logits than there are token ids")
}
