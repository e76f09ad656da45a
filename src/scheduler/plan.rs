//! Who gets how many tokens of the next pass. Pure functions of what replies want.
//!
//! Whoever writes gets a token in every pass. Prompts share what is left. While somebody writes, that is what
//! makes the pass twice as long, or somewhat more if many prompts wait. Short prompts go first, as that lets
//! most replies begin soonest, but the oldest has half, so that it isn't passed by for ever.

/// Seconds that each prompt may add to a pass while somebody writes, however short the pass is without: one
/// reader's pause is another's wait for the first token.
const PROMPT_SECONDS: f64 = 0.005;
/// Seconds that all prompts together may add: a longer pause is noticed.
const PREFILL_SECONDS: f64 = 0.2;
/// Seconds that a pass may take where nobody writes: whoever comes meanwhile waits for its end.
const PASS_SECONDS: f64 = 10.0;
/// Tokens of prompts that a pass takes however slow the machine is.
const PREFILL_MIN: usize = 32;
/// Prompts' share is a multiple of this many tokens, which kernels like best.
const PREFILL_STEP: usize = 16;
/// Passes of fewer tokens tell nothing of the time that one more takes.
const MEASURED_MIN: usize = 32;
/// How much the latest pass counts.
const NEWEST: f64 = 0.25;

/// How fast prompts are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// That a prompt's token adds to a pass.
    seconds_per_token: Option<f64>,
    /// Of a pass without prompts.
    writing_seconds: f64,
}

impl Pace {
    /// Learns from a pass of prompts, of replies or of both.
    pub(super) fn passed(&mut self, shares: &[usize], seconds: f64) {
        let n_tokens: usize = shares.iter().sum();
        if shares.iter().all(|&share| share <= 1) {
            self.writing_seconds += NEWEST * (seconds - self.writing_seconds);
        } else if n_tokens >= MEASURED_MIN {
            // At most three quarters: a pass without prompts may have met a busy machine, or had more replies.
            let of_replies = self.writing_seconds.min(0.75 * seconds);
            let latest = (seconds - of_replies) / n_tokens as f64;
            let average = |before: f64| before + NEWEST * (latest - before);
            self.seconds_per_token = Some(self.seconds_per_token.map_or(latest, average));
        }
    }

    /// Tokens of `n_prompts` prompts that a pass may have beside replies that are being written.
    pub(super) fn n_prefill(self, n_prompts: usize) -> usize {
        let worth = PROMPT_SECONDS * n_prompts as f64;
        let seconds = self.writing_seconds.max(worth).min(PREFILL_SECONDS);
        self.n_in(seconds).unwrap_or(PREFILL_MIN)
    }

    /// Tokens that any pass may have, of the engine's `n_max`.
    pub(super) fn n_batch(self, n_max: usize) -> usize {
        self.n_in(PASS_SECONDS).unwrap_or(n_max).min(n_max)
    }

    fn n_in(self, seconds: f64) -> Option<usize> {
        let n = seconds / self.seconds_per_token?;
        Some((n as usize / PREFILL_STEP * PREFILL_STEP).max(PREFILL_MIN))
    }
}

/// Puts into `shares` how many tokens each gets who wants so many, the oldest first: 0 for nothing, 1 for
/// the next token of a reply, more for a prompt. All shares together are at most `n_batch`, which must be
/// no less than there are who want something; prompts' are at most `n_prefill` while anybody writes.
pub(super) fn share(wants: &[usize], n_batch: usize, n_prefill: usize, shares: &mut Vec<usize>) {
    shares.clear();
    shares.extend(wants.iter().map(|&want| if want == 1 { 1 } else { 0 }));
    let mut prompts: Vec<usize> = (0..wants.len()).filter(|&at| wants[at] > 1).collect();
    let Some(&oldest) = prompts.first() else { return };
    let n_writing: usize = shares.iter().sum();
    let mut n_left = n_batch - n_writing;
    if n_writing > 0 {
        n_left = n_left.min(n_prefill);
    }
    shares[oldest] = wants[oldest].min(n_left.div_ceil(2));
    n_left -= shares[oldest];
    prompts.sort_by_key(|&at| wants[at]); // stable: the older first among equals
    for at in prompts {
        let n = n_left.min(wants[at] - shares[at]);
        shares[at] += n;
        n_left -= n;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shared(wants: &[usize], n_batch: usize, n_prefill: usize) -> Vec<usize> {
        let mut shares = vec![7; 3];
        share(wants, n_batch, n_prefill, &mut shares);
        shares
    }

    #[test]
    fn short_prompts_go_first_and_the_oldest_has_half() {
        for (wants, n_prefill, expected) in [
            (&[][..], 64, &[][..]),
            (&[1, 0, 1], 64, &[1, 0, 1]),
            (&[1000], 64, &[512]),
            (&[1000, 1], 64, &[64, 1]),
            (&[1000, 100, 50], 64, &[362, 100, 50]),
            (&[1000, 800, 50], 64, &[256, 206, 50]),
            (&[1000, 800, 50, 1], 64, &[32, 0, 32, 1]),
            (&[100, 1000, 1], 64, &[64, 0, 1]),
            (&[0, 1000, 20], 64, &[0, 492, 20]),
        ] {
            assert_eq!(shared(wants, 512, n_prefill), expected, "{wants:?}");
        }
    }

    proptest! {
        #[test]
        fn shares_fit_the_batch_and_leave_nothing_unused(
            wants in proptest::collection::vec(
                prop_oneof![Just(0usize), Just(1), 2..40usize, 2..2000usize], 0..64,
            ),
            n_prefill in 32..600usize,
        ) {
            let n_batch = 512;
            let shares = shared(&wants, n_batch, n_prefill);
            let n_all: usize = shares.iter().sum();
            prop_assert!(n_all <= n_batch);
            prop_assert!(shares.iter().zip(&wants).all(|(share, want)| share <= want));
            prop_assert!(shares.iter().zip(&wants).all(|(s, w)| *w != 1 || *s == 1));
            let n_writing = wants.iter().filter(|want| **want == 1).count();
            let room = if n_writing > 0 { n_prefill.min(n_batch - n_writing) } else { n_batch };
            let wanted: usize = wants.iter().filter(|want| **want > 1).sum();
            prop_assert_eq!(n_all - n_writing, wanted.min(room));
            if let Some(oldest) = wants.iter().position(|want| *want > 1) {
                prop_assert!(shares[oldest] >= wants[oldest].min(room / 2));
            }
        }
    }

    #[test]
    fn prompts_get_what_fits_beside_replies() {
        let mut pace = Pace::default();
        assert_eq!(pace.n_prefill(1), 32);
        let settle = |pace: &mut Pace, shares: &[usize], seconds| {
            (0..100).for_each(|_| pace.passed(shares, seconds));
        };
        settle(&mut pace, &[512], 0.0512);
        assert_eq!(pace.n_prefill(1), 48, "five thousandths of a second");
        assert_eq!(pace.n_prefill(4), 192, "for each");
        settle(&mut pace, &[1, 0, 1], 0.02);
        assert_eq!(pace.n_prefill(1), 192, "as long as the replies alone");
        settle(&mut pace, &[1, 499], 0.07);
        assert_eq!(pace.n_prefill(1), 192, "which take their part of the time");
        settle(&mut pace, &[1; 40], 10.0);
        assert_eq!(pace.n_prefill(1), 1984, "a fifth of a second");
        pace.passed(&[1, 0, 2], 100.0);
        assert_eq!(pace.n_prefill(1), 1984, "too few tokens to learn from");
        settle(&mut pace, &[1, 100], 100.0);
        assert_eq!(pace.n_prefill(1), 32);
        settle(&mut pace, &[1, 511], 0.0);
        assert!(pace.n_prefill(1) >= 512);
    }
}
