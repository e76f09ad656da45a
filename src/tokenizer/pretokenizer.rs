//! Cuts a text into the pieces that the tekken pattern matches; merges never cross a piece.
//!
//! The pattern, with its seven alternatives in order of preference:
//!
//! ```text
//! 1  [^\r\n\p{L}\p{N}]? [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]* [\p{Ll}\p{Lm}\p{Lo}\p{M}]+
//! 2  [^\r\n\p{L}\p{N}]? [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+ [\p{Ll}\p{Lm}\p{Lo}\p{M}]*
//! 3  \p{N}
//! 4  " "? [^\s\p{L}\p{N}]+ [\r\n/]*
//! 5  \s* [\r\n]+
//! 6  \s+ (?!\S)
//! 7  \s+
//! ```
//!
//! A backtracking engine needs a stack as deep as the run it is in; here every alternative is
//! worked out by hand as a forward scan, and a character is looked at no more than a few times.

use super::unicode::UPPER;
use super::unicode::{BLANK, CASELESS, ClassTable, LETTER, LOWER, MARK, NEWLINE, NUMBER, OTHER};

/// The pattern as `tekken.json` spells it in `config.pattern`.
pub(super) const TEKKEN_PATTERN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// First part of a word: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
const HEAD: u8 = UPPER | CASELESS | MARK;
/// Second part of a word: `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
const TAIL: u8 = LOWER | CASELESS | MARK;
/// `[^\s\p{L}\p{N}]`.
const SYMBOL: u8 = MARK | OTHER;
/// `\s`.
const SPACE: u8 = BLANK | NEWLINE;

/// Iterator over the ends of a text's pieces.
pub(super) struct Pieces<'a> {
    bytes: &'a [u8],
    classes: &'static ClassTable,
    start: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), classes: ClassTable::get(), start: 0 }
    }
}

impl Iterator for Pieces<'_> {
    /// Where the piece starts and ends.
    type Item = (usize, usize);

    #[inline]
    fn next(&mut self) -> Option<(usize, usize)> {
        let start = self.start;
        if start >= self.bytes.len() {
            return None;
        }
        self.start = self.piece_end(start);
        Some((start, self.start))
    }
}

/// How the letters from some place on match the first two alternatives.
enum Word {
    /// The first alternative matches up to here.
    First(usize),
    /// Only the second matches, up to here.
    Second(usize),
    None,
}

impl Pieces<'_> {
    #[inline]
    fn piece_end(&self, start: usize) -> usize {
        let (class, len) = self.classes.at(self.bytes, start);
        let after = start + len;
        if class & LETTER != 0 {
            match self.word(start) {
                Word::First(end) | Word::Second(end) => return end,
                Word::None => unreachable!("a letter begins a word"),
            }
        }
        if class == NUMBER {
            return after;
        }
        if class == MARK {
            // As prefix of the first alternative, else inside it; the second never gets its turn.
            if let Word::First(end) = self.word(after) {
                return end;
            }
            match self.word(start) {
                Word::First(end) => return end,
                _ => unreachable!("a mark matches both parts of the first alternative"),
            }
        }
        if class != NEWLINE {
            match self.word(after) {
                Word::First(end) | Word::Second(end) => return end,
                Word::None => {}
            }
        }
        if class == OTHER {
            return self.symbols(after);
        }
        if self.bytes[start] == b' ' {
            let (next, len) = self.classes.at(self.bytes, after);
            if next & SYMBOL != 0 {
                return self.symbols(after + len);
            }
        }
        self.spaces(start)
    }

    /// Alternatives 1 and 2 without their optional prefix.
    ///
    /// The head runs as far as it can. If a lower-case letter follows, the tail takes over there.
    /// If not, the first alternative still matches by giving characters back to the tail, which
    /// must begin with one that both parts accept: the last such character ends the match.
    #[inline]
    fn word(&self, start: usize) -> Word {
        let mut end = start;
        let mut last_shared = None;
        loop {
            let (class, len) = self.classes.at(self.bytes, end);
            if class & HEAD == 0 {
                if class == LOWER {
                    return Word::First(self.skip(end + len, TAIL));
                }
                break;
            }
            end += len;
            if class != UPPER {
                last_shared = Some(end);
            }
        }
        match last_shared {
            Some(end) => Word::First(end),
            None if end > start => Word::Second(end),
            None => Word::None,
        }
    }

    /// The rest of alternative 4 after its first symbol.
    fn symbols(&self, start: usize) -> usize {
        let end = self.skip(start, SYMBOL);
        let is_trail = |b: &&u8| matches!(b, b'\r' | b'\n' | b'/');
        end + self.bytes[end..].iter().take_while(is_trail).count()
    }

    /// Alternatives 5 to 7: up to the last line break of the run; else all of the run at the end
    /// of the text; else all but its last character, which the next piece may want as a prefix.
    fn spaces(&self, start: usize) -> usize {
        let (mut end, mut last, mut after_break) = (start, start, None);
        loop {
            let (class, len) = self.classes.at(self.bytes, end);
            if class & SPACE == 0 {
                break;
            }
            last = end;
            end += len;
            if class == NEWLINE {
                after_break = Some(end);
            }
        }
        match after_break {
            Some(after_break) => after_break,
            None if end == self.bytes.len() || last == start => end,
            None => last,
        }
    }

    #[inline]
    fn skip(&self, mut i: usize, classes: u8) -> usize {
        loop {
            let (class, len) = self.classes.at(self.bytes, i);
            if class & classes == 0 {
                return i;
            }
            i += len;
        }
    }
}
