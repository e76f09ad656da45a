//! Numbers for people: tokens, context and speeds.

use std::time::Duration;

use crate::chat::Usage;

/// One line about a reply: context used, prefill and decode speed.
pub(super) fn usage_line(usage: &Usage, n_ctx: u32) -> String {
    let n_read = usage.n_prompt - usage.n_reused.min(usage.n_prompt);
    let mut line = format!(
        "context {} of {} · prefill {} at {} tokens/s",
        grouped(n_used(usage)),
        grouped(n_ctx as usize),
        grouped(n_read),
        rate(n_read, usage.prefill),
    );
    // The first token comes with the prefill, so only the others were decoded.
    let n_decoded = usage.n_generated.saturating_sub(1);
    if n_decoded > 0 {
        line.push_str(&format!(
            " · decode {} at {} tokens/s",
            grouped(usage.n_generated),
            rate(n_decoded, usage.decode)
        ));
    }
    line
}

/// Tokens that the conversation holds in the context.
pub(super) fn n_used(usage: &Usage) -> usize {
    usage.n_prompt + usage.n_generated
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(262_144), "262,144");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }

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
