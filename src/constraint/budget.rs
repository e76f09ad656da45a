//! How long a model may reason.
//!
//! A thought that is cut anywhere leaves the model confused. So once the budget is spent, the next end of a
//! sentence or a line closes the reasoning, and only where none comes it is closed all the same.

/// How far reasoning may go beyond its budget, in tokens, and as a fraction of it.
const MAX_SLACK: u32 = 128;
const SLACK_FRACTION: u32 = 4;

/// Reasoning so far.
#[derive(Debug, Clone)]
pub(super) struct Thought {
    budget: Option<u32>,
    n_tokens: u32,
    /// Whether it could stop here.
    is_at_break: bool,
    ends_with_digit: bool,
}

impl Thought {
    pub(super) fn new(budget: Option<u32>) -> Self {
        Self { budget, n_tokens: 0, is_at_break: true, ends_with_digit: false }
    }

    /// Takes the text of the next token.
    pub(super) fn push(&mut self, text: &[u8]) {
        self.n_tokens = self.n_tokens.saturating_add(1);
        let words = text.trim_ascii_end();
        let is_line_end = text[words.len()..].contains(&b'\n');
        let is_sentence_end = [".", "!", "?", "…", "。", "！", "？", ".)", ".\"", ".*"]
            .iter()
            .any(|end| words.ends_with(end.as_bytes()));
        // The point of a number or of a list's item is no end.
        let is_point = self.ends_with_digit && words == b".";
        self.is_at_break = is_line_end || is_sentence_end && !is_point;
        if !text.is_empty() {
            self.ends_with_digit = text[text.len() - 1].is_ascii_digit();
        }
    }

    /// Whether it must stop here.
    pub(super) fn must_close(&self) -> bool {
        self.budget.is_some_and(|budget| {
            let slack = (budget / SLACK_FRACTION).min(MAX_SLACK);
            self.n_tokens >= budget.saturating_add(slack)
                || self.n_tokens >= budget && self.is_at_break
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the words are thought.
    fn n_thought(budget: u32, words: &[&str]) -> usize {
        let mut thought = Thought::new(Some(budget));
        let mut n = 0;
        while n < words.len() && !thought.must_close() {
            thought.push(words[n].as_bytes());
            n += 1;
        }
        n
    }

    #[test]
    fn reasoning_ends_with_a_sentence() {
        let words = ["It", " is", " 3", ".", "5", " km", ".", " So", " what", "\n", "I"];
        assert_eq!(n_thought(0, &words), 0);
        assert_eq!(n_thought(7, &words), 7);
        assert_eq!(n_thought(4, &words), 5, "a quarter more at most");
        assert_eq!(n_thought(8, &words), 10, "a line's end is an end");
        let endless = [" and"; 1000];
        assert_eq!(n_thought(100, &endless), 125);
        assert_eq!(n_thought(800, &endless), 928);
    }

    #[test]
    fn without_a_budget_it_goes_on() {
        let mut thought = Thought::new(None);
        (0..10_000).for_each(|_| thought.push(b"."));
        assert!(!thought.must_close());
    }
}
