//! Numbers for people: tokens, context and speeds.

use std::time::Duration;

use super::units::thousands;
use crate::chat::Usage;

/// One line about a reply: context used, prefill and decode speed.
pub(super) fn usage_line(usage: &Usage, n_ctx: u32) -> String {
    let n_read = usage.n_prompt - usage.n_reused.min(usage.n_prompt);
    let mut line = format!(
        "context {} of {} · prefill {} at {} tokens/s",
        count(n_used(usage)),
        thousands(u64::from(n_ctx)),
        count(n_read),
        rate(n_read, usage.prefill),
    );
    // The first token comes with the prefill, so only the others were decoded.
    let n_decoded = usage.n_generated.saturating_sub(1);
    if n_decoded > 0 {
        line.push_str(&format!(
            " · decode {} at {} tokens/s",
            count(usage.n_generated),
            rate(n_decoded, usage.decode)
        ));
    }
    line
}

/// Tokens that the conversation holds in the context.
pub(super) fn n_used(usage: &Usage) -> usize {
    usage.n_prompt + usage.n_generated
}

/// A count with its thousands apart.
pub(super) fn count(n: usize) -> String {
    thousands(n as u64)
}

fn rate(n: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if n == 0 || seconds <= 0.0 {
        return "–".to_owned();
    }
    format!("{:.1}", n as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_in_one_line() {
        let usage = Usage {
            n_prompt: 1200,
            n_reused: 1000,
            n_generated: 41,
            prefill: Duration::from_millis(500),
            decode: Duration::from_secs(4),
        };
        assert_eq!(
            usage_line(&usage, 8192),
            "context 1,241 of 8,192 · prefill 200 at 400.0 tokens/s · decode 41 at 10.0 tokens/s"
        );
    }
}
