//! Counters of the front, as `/metrics` tells them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How much it is.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted where replies are written; requests are counted at the gate.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Tokens of prompts.
    pub(crate) n_prompt: Counter,
    /// Of these, tokens that were not computed again.
    pub(crate) n_cached: Counter,
    /// Tokens written.
    pub(crate) n_generated: Counter,
    /// Microseconds from a request's arrival to its first token, of all requests together.
    pub(crate) first_token_us: Counter,
    /// Requests that had a first token.
    pub(crate) n_first_token: Counter,
}

impl Metrics {
    /// Counts a reply's first token, `after` its request's arrival.
    pub(crate) fn first_token(&self, after: Duration) {
        self.first_token_us.add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
        self.n_first_token.add(1);
    }
}
