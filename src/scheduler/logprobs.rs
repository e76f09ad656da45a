//! Log-probabilities of a token and of the likeliest ones, from logits as the model gave them.

use crate::tokenizer::TokenId;

use super::Logprobs;

/// Most likeliest tokens that are told.
const MAX_TOP: usize = 20;

/// What is told of the `chosen` token and the `n_top` likeliest, lower ids first among equals. A logit that
/// is NaN counts as `-inf`. `logits` must be untouched by sampling.
pub(super) fn logprobs(logits: &[f32], chosen: TokenId, n_top: usize) -> Logprobs {
    let number = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from((number(logit) - max).exp())).sum();
    let shift = f64::from(max) + sum.ln();
    let logprob = |logit: f32| (f64::from(number(logit)) - shift) as f32;
    let chosen = logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit));
    let mut top = likeliest(logits, n_top.min(MAX_TOP));
    for (_, logit) in &mut top {
        *logit = logprob(*logit);
    }
    Logprobs { chosen, top }
}

/// The `n` highest logits: each is held against the lowest of those found so far, and few pass.
fn likeliest(logits: &[f32], n: usize) -> Vec<(TokenId, f32)> {
    let mut top: Vec<(TokenId, f32)> = Vec::with_capacity(n + 1);
    if n == 0 {
        return top;
    }
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || (top.len() == n && logit <= floor) {
            continue;
        }
        let at = top.partition_point(|&(_, other)| other >= logit);
        top.insert(at, (id as TokenId, logit));
        top.truncate(n);
        floor = top.last().map_or(floor, |&(_, lowest)| lowest);
    }
    top
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_number_has_no_chance() {
        let logits = [1.0, f32::NAN, 1.0, f32::NEG_INFINITY];
        let found = logprobs(&logits, 1, 2);
        assert_eq!(found.chosen, f32::NEG_INFINITY);
        let half = 0.5f32.ln();
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 2]);
        assert!(found.top.iter().all(|(_, logprob)| (logprob - half).abs() < 1e-6));
        assert_eq!(logprobs(&logits, 3, 0).top, []);
    }

    proptest! {
        #[test]
        fn are_the_direct_log_softmax_sorted(
            logits in proptest::collection::vec(-30i8..30, 1..300),
            n_top in 0..30usize,
        ) {
            let logits: Vec<f32> = logits.into_iter().map(|x| f32::from(x) / 2.0).collect();
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let direct = |id: usize| (f64::from(logits[id]) - sum.ln()) as f32;
            let mut ids: Vec<usize> = (0..logits.len()).collect();
            ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let found = logprobs(&logits, 0, n_top);
            prop_assert!((found.chosen - direct(0)).abs() < 1e-4);
            prop_assert_eq!(found.top.len(), n_top.min(20).min(logits.len()));
            for (&(id, logprob), expected) in found.top.iter().zip(ids) {
                prop_assert_eq!(id as usize, expected);
                prop_assert!((logprob - direct(expected)).abs() < 1e-4);
            }
        }
    }
}
