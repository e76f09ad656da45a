//! The character classes of the tekken pattern, one byte per code point.
//!
//! The classes come from `regex-syntax`, whose tables the reference tokenizer's regex engine uses
//! as well, so both agree on every code point. They are asked for once and folded into a
//! two-stage table of about 40 kB: 128 code points to a block, equal blocks stored once.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// `Lu`, `Lt`: only in the first part of a word.
pub(super) const UPPER: u8 = 1;
/// `Ll`: only in the second part of a word.
pub(super) const LOWER: u8 = 2;
/// `Lm`, `Lo`: in either part.
pub(super) const CASELESS: u8 = 4;
/// `M`: in either part, and also punctuation to the parts of the pattern that exclude letters.
pub(super) const MARK: u8 = 8;
/// `N`.
pub(super) const NUMBER: u8 = 16;
/// CR and LF.
pub(super) const NEWLINE: u8 = 32;
/// White space but for CR and LF.
pub(super) const BLANK: u8 = 64;
/// Everything else: punctuation, symbols, controls, unassigned.
pub(super) const OTHER: u8 = 128;

/// The pattern's `\p{L}`.
pub(super) const LETTER: u8 = UPPER | LOWER | CASELESS;

const BLOCK_BITS: usize = 7;
const BLOCK: usize = 1 << BLOCK_BITS;
const N_CODE_POINTS: usize = 0x11_0000;

/// Class of every code point.
#[derive(Debug)]
pub(super) struct ClassTable {
    /// Class of each ASCII byte; 0 for the bytes of longer sequences.
    ascii: [u8; 256],
    /// Code point / 128 -> block number.
    index: Vec<u16>,
    blocks: Vec<u8>,
}

impl ClassTable {
    /// The table all tokenizers of the process share.
    pub(super) fn get() -> &'static Self {
        static TABLE: LazyLock<ClassTable> = LazyLock::new(ClassTable::build);
        &TABLE
    }

    fn build() -> Self {
        let mut flat = vec![OTHER; N_CODE_POINTS];
        // Disjoint but for the last two, which must come after `\s`.
        let classes = [
            (r"[\p{Lu}\p{Lt}]", UPPER),
            (r"\p{Ll}", LOWER),
            (r"[\p{Lm}\p{Lo}]", CASELESS),
            (r"\p{M}", MARK),
            (r"\p{N}", NUMBER),
            (r"\s", BLANK),
            (r"[\r\n]", NEWLINE),
        ];
        for (pattern, class) in classes {
            for (first, last) in ranges(pattern) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut ascii = [0; 256];
        ascii[..128].copy_from_slice(&flat[..128]);

        let mut table = Self { ascii, index: Vec::new(), blocks: Vec::new() };
        let mut seen: HashMap<&[u8], u16> = HashMap::new();
        for block in flat.chunks_exact(BLOCK) {
            let next = u16::try_from(seen.len()).expect("at most 8,704 blocks");
            let number = *seen.entry(block).or_insert(next);
            if number == next {
                table.blocks.extend_from_slice(block);
            }
            table.index.push(number);
        }
        table
    }

    /// Class and length in bytes of the character at `i`; `(0, 0)` at the end of the text.
    /// `bytes` is valid UTF-8 and `i` a boundary.
    #[inline(always)]
    pub(super) fn at(&self, bytes: &[u8], i: usize) -> (u8, usize) {
        let Some(&first) = bytes.get(i) else { return (0, 0) };
        if first < 0x80 {
            return (self.ascii[first as usize], 1);
        }
        self.at_multibyte(bytes, i, first)
    }

    #[inline]
    fn at_multibyte(&self, bytes: &[u8], i: usize, first: u8) -> (u8, usize) {
        let low = |k: usize| (bytes[i + k] & 0x3f) as usize;
        let first = first as usize;
        let (code_point, len) = if first < 0xe0 {
            ((first & 0x1f) << 6 | low(1), 2)
        } else if first < 0xf0 {
            ((first & 0x0f) << 12 | low(1) << 6 | low(2), 3)
        } else {
            ((first & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4)
        };
        (self.of(code_point), len)
    }

    #[inline(always)]
    fn of(&self, code_point: usize) -> u8 {
        let block = self.index[code_point >> BLOCK_BITS] as usize;
        self.blocks[block << BLOCK_BITS | code_point & (BLOCK - 1)]
    }
}

fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(pattern).expect("the patterns are constants");
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect()
        }
        // An all-ASCII class such as `[\r\n]` may come back as bytes.
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect()
        }
        _ => unreachable!("every pattern is one class"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        let table = ClassTable::get();
        let expected = [
            ('A', UPPER),
            ('z', LOWER),
            ('ǅ', UPPER),
            ('ʰ', CASELESS),
            ('中', CASELESS),
            ('\u{301}', MARK),
            ('\u{93f}', MARK),
            ('7', NUMBER),
            ('Ⅷ', NUMBER),
            ('½', NUMBER),
            ('\r', NEWLINE),
            ('\n', NEWLINE),
            ('\t', BLANK),
            ('\u{b}', BLANK),
            ('\u{85}', BLANK),
            ('\u{3000}', BLANK),
            ('\u{2028}', BLANK),
            ('\u{200b}', OTHER),
            ('_', OTHER),
            ('\0', OTHER),
            ('😀', OTHER),
            ('\u{10ffff}', OTHER),
        ];
        for (c, class) in expected {
            let text = c.to_string();
            assert_eq!(table.at(text.as_bytes(), 0), (class, c.len_utf8()), "{c:?}");
        }
    }

    #[test]
    fn the_end_has_no_class() {
        assert_eq!(ClassTable::get().at(b"ab", 2), (0, 0));
    }
}
