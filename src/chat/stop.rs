//! Ends a text at the first stop string, wherever the tokens' borders lie.
//!
//! Text is held back only while it may still become a stop string, so a reader sees everything
//! else at once. Of several stop strings the one that begins first wins.

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones would stop everything and are left out.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece and gives the text that is certain to stand before any stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.stops.is_empty() {
            return text.to_owned();
        }
        self.held.push_str(text);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let free = self.held.len() - self.n_may_still_match();
        let rest = self.held.split_off(free);
        std::mem::replace(&mut self.held, rest)
    }

    /// Gives what was held back: no stop string can follow any more.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string was found.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn n_may_still_match(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        self.held
            .char_indices()
            .map(|(i, _)| i)
            .filter(|&i| i >= from)
            .find(|&i| self.stops.iter().any(|stop| stop.starts_with(&self.held[i..])))
            .map_or(0, |i| self.held.len() - i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece, and what it lets out.
    #[track_caller]
    fn check(stops: &[&str], pieces: &[(&str, &str)], rest: &str, stopped: bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()));
        for (piece, expected) in pieces {
            assert_eq!(matcher.push(piece), *expected, "after {piece:?}");
        }
        assert_eq!(matcher.is_stopped(), stopped);
        assert_eq!(matcher.finish(), rest);
    }

    #[test]
    fn stops_across_pieces() {
        check(&["END"], &[("a E", "a "), ("N", ""), ("D b", ""), ("c", "")], "", true);
        check(&["END"], &[("a E", "a "), ("N", ""), ("X", "ENX")], "", false);
        check(&["END"], &[("EEN", "E")], "EN", false);
        check(&["aab"], &[("aaa", "a"), ("b", "")], "", true);
    }

    #[test]
    fn the_first_match_wins() {
        check(&["bc", "ab"], &[("xabc", "x")], "", true);
        check(&["é\n", "\n\n"], &[("caf", "caf"), ("é", ""), ("\n", "")], "", true);
    }

    #[test]
    fn nothing_is_held_without_stop_strings() {
        check(&[], &[("END", "END")], "", false);
        check(&[""], &[("x", "x")], "", false);
    }
}
