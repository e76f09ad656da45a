//! How well a model predicts a text, and how far it is from a better one.
//!
//! The text is cut as llama.cpp cuts it, so that numbers can be compared: tokenized once with BOS, whole
//! windows of `n_ctx` tokens, token 0 of each replaced by BOS. In each window the positions from the
//! middle to the last but one predict their successors. Short windows run side by side in one batch.

mod base;
mod score;

pub use base::{BaseError, BaseReader, BaseWriter};
pub use score::{Divergence, Perplexity, Scores};

use std::ops::Range;
use std::sync::Arc;

use crate::engine::{BatchRow, Engine, Error, Session};
use crate::tokenizer::TokenId;

/// Windows of one text, of `n_ctx` tokens each.
#[derive(Debug, Clone)]
pub struct Windows {
    n_ctx: usize,
    /// A whole number of windows, each beginning with BOS.
    tokens: Vec<TokenId>,
}

impl Windows {
    /// Cuts `text`; at most `n_max` windows. Fails with the number of tokens when they fill none.
    pub fn new(
        engine: &Engine,
        text: &str,
        n_ctx: usize,
        n_max: Option<usize>,
    ) -> Result<Self, usize> {
        let bos = engine.tokenizer().bos();
        let mut tokens = vec![bos];
        engine.tokenizer().encode_into(text, &mut tokens);
        let n_windows = (tokens.len() / n_ctx).min(n_max.unwrap_or(usize::MAX));
        if n_windows == 0 {
            return Err(tokens.len());
        }
        tokens.truncate(n_windows * n_ctx);
        for window in tokens.chunks_mut(n_ctx) {
            window[0] = bos;
        }
        Ok(Windows { n_ctx, tokens })
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Never: a text without a window is refused.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// All tokens, window after window.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens per window.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens that are predicted in each window.
    pub fn n_scored(&self) -> usize {
        self.n_ctx - 1 - self.n_ctx / 2
    }

    /// Windows that [`for_each_prediction`] runs side by side on an engine of so many tokens in a pass; it needs
    /// room for them.
    pub fn n_parallel(n_ctx: usize, n_batch: usize) -> usize {
        (n_batch / n_ctx).max(1)
    }

    /// Most tokens in such a pass whose logits are wanted.
    pub fn n_predicting(n_ctx: usize, n_batch: usize) -> usize {
        let n_each = n_ctx - n_ctx / 2;
        (n_each * Self::n_parallel(n_ctx, n_batch)).min(n_batch)
    }
}

/// Runs whole windows side by side from their beginnings to their ends: `pass` runs its rows, whose tokens
/// are those at the given positions of each window.
pub fn for_each_pass<E>(
    engine: &Arc<Engine>,
    windows: &[&[TokenId]],
    mut pass: impl FnMut(&mut [BatchRow<'_>], Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let n_ctx = windows[0].len();
    let mut sessions: Vec<Session> = windows.iter().map(|_| Session::new(engine)).collect();
    let n_each = (engine.n_batch() / windows.len()).max(1);
    for start in (0..n_ctx).step_by(n_each) {
        let positions = start..(start + n_each).min(n_ctx);
        let mut rows: Vec<BatchRow<'_>> = sessions
            .iter_mut()
            .zip(windows)
            .map(|(session, window)| BatchRow {
                session,
                tokens: &window[positions.clone()],
                images: &[],
                n_logits: 0,
            })
            .collect();
        pass(&mut rows, positions)?;
    }
    Ok(())
}

/// Runs the windows and hands out each scored prediction: `(logits, token that came)`, window after
/// window. `windows_done` is told after each batch of windows.
pub fn for_each_prediction<E: From<Error>>(
    engine: &Arc<Engine>,
    windows: &Windows,
    mut predict: impl FnMut(&[f32], TokenId) -> Result<(), E>,
    mut windows_done: impl FnMut(usize),
) -> Result<(), E> {
    let n_ctx = windows.n_ctx;
    let n_vocab = engine.hparams().n_vocab as usize;
    let first = n_ctx / 2;
    let mut logits = Vec::new();
    let mut n_done = 0;
    for group in windows.tokens.chunks(n_ctx * Windows::n_parallel(n_ctx, engine.n_batch())) {
        let group: Vec<&[TokenId]> = group.chunks(n_ctx).collect();
        for_each_pass(engine, &group, |rows, Range { start, end }| -> Result<(), E> {
            let n_logits = end.saturating_sub(first.max(start));
            rows.iter_mut().for_each(|row| row.n_logits = n_logits);
            logits.clear();
            engine.forward(rows, &mut logits)?;
            let positions = end - n_logits..end;
            for (window, logits) in group.iter().zip(logits.chunks(n_vocab * n_logits.max(1))) {
                for (position, logits) in positions.clone().zip(logits.chunks(n_vocab)) {
                    if let Some(&next) = window.get(position + 1) {
                        predict(logits, next)?;
                    }
                }
            }
            Ok(())
        })?;
        n_done += group.len();
        windows_done(n_done);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As passes go in [`for_each_prediction`].
    #[test]
    fn no_pass_predicts_more_than_is_said() {
        for (n_ctx, n_batch) in (4..40).flat_map(|n| (1..100).map(move |n_batch| (n, n_batch))) {
            let n_windows = Windows::n_parallel(n_ctx, n_batch);
            let n_each = (n_batch / n_windows).max(1);
            let n_predicting = |start: usize| {
                let end = (start + n_each).min(n_ctx);
                n_windows * end.saturating_sub(start.max(n_ctx / 2))
            };
            let most = (0..n_ctx).step_by(n_each).map(n_predicting).max().unwrap();
            let said = Windows::n_predicting(n_ctx, n_batch);
            assert!(most <= said && said <= 2 * most, "{n_ctx} {n_batch}: {most}, {said}");
        }
    }
}
