//! Ends a text at the first stop string, wherever the tokens' borders lie.
//!
//! Text is held back only while it may still become a stop string, so a reader sees everything
//! else at once. Of several stop strings the one that begins first wins.

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    /// Index of the stop string that was found.
    found: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones would stop everything and are left out.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), found: None }
    }

    /// Takes the next piece and gives the text that is certain to stand before any stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped() {
            return String::new();
        }
        if self.stops.is_empty() {
            return text.to_owned();
        }
        self.held.push_str(text);
        let matches = self.stops.iter().enumerate();
        let matches = matches.filter_map(|(i, stop)| Some((self.held.find(stop)?, i)));
        if let Some((start, i)) = matches.min() {
            self.found = Some(i);
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
        self.found.is_some()
    }

    /// The stop string that was found.
    pub fn stopped_by(&self) -> Option<&str> {
        self.found.map(|i| self.stops[i].as_str())
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
    fn check(stops: &[&str], pieces: &[(&str, &str)], rest: &str, stopped_by: Option<&str>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()));
        for (piece, expected) in pieces {
            assert_eq!(matcher.push(piece), *expected, "after {piece:?}");
        }
        assert_eq!(matcher.stopped_by(), stopped_by);
        assert_eq!(matcher.finish(), rest);
    }

    #[test]
    fn stops_across_pieces() {
        check(&["END"], &[("a E", "a "), ("N", ""), ("D b", ""), ("c", "")], "", Some("END"));
        check(&["END"], &[("a E", "a "), ("N", ""), ("X", "ENX")], "", None);
        check(&["END"], &[("EEN", "E")], "EN", None);
        check(&["aab"], &[("aaa", "a"), ("b", "")], "", Some("aab"));
    }

    #[test]
    fn the_first_match_wins() {
        check(&["bc", "ab"], &[("xabc", "x")], "", Some("ab"));
        check(&["ab", "abc"], &[("xabc", "x")], "", Some("ab"));
        check(&["é\n", "\n\n"], &[("caf", "caf"), ("é", ""), ("\n", "")], "", Some("é\n"));
    }

    #[test]
    fn nothing_is_held_without_stop_strings() {
        check(&[], &[("END", "END")], "", None);
        check(&[""], &[("x", "x")], "", None);
    }
}
