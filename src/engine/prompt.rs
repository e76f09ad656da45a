//! What a timeline is to hold: tokens, and the pictures that some of them stand for.

use std::sync::Arc;

use crate::tokenizer::TokenId;
use crate::vision::{Grid, Image};

/// Token ids, starting with `<s>`, and pictures in their midst.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// Every token; a picture's are `[IMG]`, with `[IMG_BREAK]` or `[IMG_END]` at the end of each row.
    pub tokens: Vec<TokenId>,
    /// The pictures, in the order of their tokens.
    pub images: Vec<ImageSpan>,
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
