//! What a timeline is to hold: tokens, and the pictures that some of them stand for.

use std::ops::Range;
use std::sync::Arc;

use crate::tokenizer::TokenId;
use crate::vision::{Grid, Image, ImageHash};

/// Token ids, starting with `<s>`, and pictures in their midst.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// Every token; a picture's are `[IMG]`, with `[IMG_BREAK]` or `[IMG_END]` at the end of each row.
    pub tokens: Vec<TokenId>,
    /// The pictures, in the order of their tokens.
    pub images: Vec<ImageSpan>,
}

impl From<&[TokenId]> for Prompt {
    /// A prompt without pictures.
    fn from(tokens: &[TokenId]) -> Self {
        Prompt { tokens: tokens.to_vec(), images: Vec::new() }
    }
}

/// A picture's place in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSpan {
    /// Index of its first token.
    pub start: usize,
    /// How its tokens lie; there are `grid.n_tokens()` of them.
    pub grid: Grid,
    /// The picture.
    pub image: Arc<Image>,
}

impl ImageSpan {
    /// What a timeline remembers of it.
    pub(super) fn mark(&self) -> ImageMark {
        ImageMark { start: self.start, grid: self.grid, hash: self.image.hash() }
    }
}

/// Which picture lies where in a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageMark {
    /// Index of its first token.
    pub start: usize,
    /// How its tokens lie.
    pub grid: Grid,
    /// The picture.
    pub hash: ImageHash,
}

impl ImageMark {
    /// Which of the picture's rows takes the place of the token at `position`; none at the end of a row
    /// of the grid and outside of the picture.
    pub(super) fn row_at(&self, position: usize) -> Option<usize> {
        let offset = position.checked_sub(self.start)?;
        let cols = self.grid.cols as usize;
        let (row, col) = (offset / (cols + 1), offset % (cols + 1));
        (row < self.grid.rows as usize && col < cols).then_some(row * cols + col)
    }

    /// Whether a row of the picture takes the place of a token of `range`.
    pub fn has_rows_in(&self, range: &Range<usize>) -> bool {
        let end = self.start + self.grid.n_tokens();
        // At most one token in two ends a row.
        (range.start.max(self.start)..range.end.min(end)).take(2).any(|i| self.row_at(i).is_some())
    }
}

/// Tokens in a row, and the pictures that some of them stand for.
#[derive(Debug, Clone, Copy)]
pub struct Timeline<'a> {
    /// Every token.
    pub tokens: &'a [TokenId],
    /// Pictures that at least begin among them, or after them.
    pub images: &'a [ImageMark],
}

impl Timeline<'_> {
    /// Whether all of the other comes first. It is looked at from its end: timelines that have much in common mostly
    /// part late, and there are many to be compared.
    pub fn begins_with(self, other: Timeline<'_>) -> bool {
        let n = other.tokens.len();
        let Some(tokens) = self.tokens.get(..n) else { return false };
        let mut blocks = tokens.rchunks(BLOCK).zip(other.tokens.rchunks(BLOCK));
        let is_in = |mark: &&ImageMark| mark.start < n;
        let marks = self.images.iter().take_while(is_in);
        marks.eq(other.images.iter().take_while(is_in)) && blocks.all(|(a, b)| a == b)
    }

    /// Tokens that both have in common; those of a picture are the same only if the picture is.
    pub fn n_common(self, other: Timeline<'_>) -> usize {
        let n_tokens = n_equal(self.tokens, other.tokens);
        let (mut ours, mut theirs) = (self.images.iter(), other.images.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return n_tokens,
                (a, b) if a == b => {}
                (a, b) => {
                    let starts = a.into_iter().chain(b).map(|mark| mark.start);
                    return starts.min().map_or(n_tokens, |start| start.min(n_tokens));
                }
            }
        }
    }
}

/// Tokens that are compared at once.
const BLOCK: usize = 64;

/// Length of the common prefix, block by block: timelines are long, and whole blocks compare fast.
fn n_equal(a: &[TokenId], b: &[TokenId]) -> usize {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let n_blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).take_while(|(a, b)| a == b).count();
    let start = n.min(n_blocks * BLOCK);
    start + a[start..].iter().zip(&b[start..]).take_while(|(a, b)| a == b).count()
}

/// A picture and the rows that the vision tower made of it.
#[derive(Debug, Clone)]
pub struct ImageRows {
    /// Where it lies.
    pub mark: ImageMark,
    /// `[n_embd]` for each piece, row by row.
    pub rows: Arc<[f32]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_part_at_the_first_other_token_or_picture() {
        let grid = Grid { cols: 3, rows: 2 };
        let mark = |start, hash| ImageMark { start, grid, hash: ImageHash([hash; 32]) };
        let tokens: Vec<TokenId> = (0..200).collect();
        let n_common = |n: usize, other: &[TokenId], ours: &[ImageMark], theirs: &[ImageMark]| {
            let ours = Timeline { tokens: &tokens[..n], images: ours };
            let theirs = Timeline { tokens: other, images: theirs };
            assert_eq!(ours.n_common(theirs), theirs.n_common(ours));
            assert_eq!(ours.begins_with(theirs), ours.n_common(theirs) == other.len());
            assert_eq!(theirs.begins_with(ours), ours.n_common(theirs) == n);
            ours.n_common(theirs)
        };
        for at in [0, 1, 63, 64, 65, 127, 128, 199] {
            let mut other = tokens.clone();
            other[at] = 1000;
            assert_eq!(n_common(200, &other, &[], &[]), at);
            assert_eq!(n_common(at, &tokens, &[], &[]), at);
        }
        assert_eq!(n_common(200, &tokens, &[mark(5, 1)], &[mark(5, 1), mark(70, 2)]), 70);
        assert_eq!(n_common(200, &tokens, &[mark(5, 1)], &[mark(5, 2)]), 5);
        assert_eq!(n_common(60, &tokens, &[], &[mark(70, 2)]), 60);
        assert_eq!(n_common(100, &tokens, &[mark(70, 1)], &[mark(70, 1), mark(120, 2)]), 100);
    }

    #[test]
    fn every_token_but_the_rows_ends_stands_for_a_piece() {
        let grid = Grid { cols: 3, rows: 2 };
        let mark = ImageMark { start: 5, grid, hash: ImageHash([0; 32]) };
        let rows: Vec<Option<usize>> = (4..14).map(|i| mark.row_at(i)).collect();
        let [end, break_] = [None; 2];
        let pieces = [Some(0), Some(1), Some(2), break_, Some(3), Some(4), Some(5), end];
        assert_eq!(rows, [&[None], &pieces[..], &[None]].concat());
        assert!(mark.has_rows_in(&(0..6)) && mark.has_rows_in(&(8..10)));
        assert!(!mark.has_rows_in(&(0..5)) && !mark.has_rows_in(&(8..9)));
        assert!(!mark.has_rows_in(&(12..20)));
    }
}
