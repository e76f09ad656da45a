//! Sums over predictions: negative log-likelihood, KL divergence, agreement.

use crate::tokenizer::TokenId;

/// Natural logarithms of the softmax of `logits`.
pub(super) fn log_softmax(logits: &[f32], out: &mut Vec<f32>) {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    let log_sum = max + sum.ln() as f32;
    out.clear();
    out.extend(logits.iter().map(|&x| x - log_sum));
}

/// Running mean and variance (Welford), which lose no digits over long texts.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Mean {
    fn add(&mut self, x: f64) {
        self.n += 1;
        let before = x - self.mean;
        self.mean += before / self.n as f64;
        self.squares += before * (x - self.mean);
    }

    /// Standard error of the mean.
    fn stderr(&self) -> f64 {
        match self.n {
            0 | 1 => 0.0,
            n => (self.squares / n as f64 / (n - 1) as f64).sqrt(),
        }
    }
}

/// What a text's predictions amount to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Sum of −ln p over all predicted tokens.
    pub nll: f64,
    /// Predicted tokens.
    pub n_tokens: u64,
    /// exp(nll / n_tokens).
    pub ppl: f64,
    /// Standard error of `ppl`.
    pub ppl_stderr: f64,
}

/// How far predictions are from those of a base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Mean of Σ p_base · (ln p_base − ln p), in nats.
    pub kl_mean: f64,
    /// Standard error of the mean.
    pub kl_stderr: f64,
    /// The worst prediction's.
    pub kl_max: f64,
    /// Share of predictions with the same most likely token.
    pub top1_agreement: f64,
}

/// Collects predictions.
#[derive(Debug, Default)]
pub struct Scores {
    nll: Mean,
    kl: Mean,
    kl_max: f64,
    n_same_top: u64,
    log_probs: Vec<f32>,
}

impl Scores {
    /// Counts one prediction; returns its log-probabilities, `[n_vocab]`.
    pub fn add(&mut self, logits: &[f32], next: TokenId) -> &[f32] {
        log_softmax(logits, &mut self.log_probs);
        self.nll.add(-f64::from(self.log_probs[next as usize]));
        &self.log_probs
    }

    /// Compares the prediction just counted with the base's log-probabilities.
    pub fn compare(&mut self, base: &[f32]) {
        assert_eq!(
            base.len(),
            self.log_probs.len(),
            "the base was checked to have this vocabulary"
        );
        let pairs = base.iter().zip(&self.log_probs);
        let kl: f64 = pairs.map(|(&b, &q)| f64::from(b.exp()) * f64::from(b - q)).sum();
        self.kl.add(kl);
        self.kl_max = self.kl_max.max(kl);
        self.n_same_top += u64::from(argmax(base) == argmax(&self.log_probs));
    }

    /// The sums so far.
    pub fn perplexity(&self) -> Perplexity {
        let ppl = self.nll.mean.exp();
        Perplexity {
            nll: self.nll.mean * self.nll.n as f64,
            n_tokens: self.nll.n,
            ppl,
            ppl_stderr: ppl * self.nll.stderr(),
        }
    }

    /// The comparison so far; `None` if nothing was compared.
    pub fn divergence(&self) -> Option<Divergence> {
        (self.kl.n > 0).then(|| Divergence {
            kl_mean: self.kl.mean,
            kl_stderr: self.kl.stderr(),
            kl_max: self.kl_max,
            top1_agreement: self.n_same_top as f64 / self.kl.n as f64,
        })
    }
}

fn argmax(values: &[f32]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]).then(b.cmp(&a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition() {
        let mut scores = Scores::default();
        let uniform = [0f32; 4];
        scores.add(&uniform, 0);
        scores.add(&[0.0, (3f32).ln(), 0.0, 0.0], 1);
        let result = scores.perplexity();
        let (a, b) = (4f64.ln(), 2f64.ln());
        assert!((result.nll - (a + b)).abs() < 1e-6);
        assert!((result.ppl - ((a + b) / 2.0).exp()).abs() < 1e-6);
        let stderr = ((a - b) / 2.0).abs();
        assert!((result.ppl_stderr / result.ppl - stderr).abs() < 1e-6);
    }

    #[test]
    fn a_prediction_diverges_from_another_and_not_from_itself() {
        let mut scores = Scores::default();
        let own = scores.add(&[1.0, 2.0, 3.0], 0).to_vec();
        scores.compare(&own);
        assert_eq!(scores.divergence().unwrap().kl_max, 0.0);
        scores.add(&[3.0, 2.0, 1.0], 0);
        scores.compare(&own);
        let result = scores.divergence().unwrap();
        assert!(result.kl_max > 0.5 && result.top1_agreement == 0.5);
    }
}
