//! One timeline of tokens and what has been computed of it.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::model::Cells;
use crate::tokenizer::TokenId;

use super::{BatchRow, Engine, Error, ImageMark, ImageRows, Prompt, Timeline};

/// A timeline: tokens whose K and V lie in the engine's cache.
///
/// Dropping it gives its cells back.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Engine>,
    pub(super) tokens: Vec<TokenId>,
    /// Pictures that at least begin among the tokens.
    pub(super) images: Vec<ImageMark>,
    pub(super) cells: Cells,
}

/// What [`Session::sync`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncStats {
    /// Tokens whose K and V were there already.
    pub n_reused: usize,
    /// Tokens that were computed.
    pub n_evaluated: usize,
}

impl Session {
    /// An empty timeline.
    pub fn new(engine: &Arc<Engine>) -> Self {
        Session {
            engine: engine.clone(),
            tokens: Vec::new(),
            images: Vec::new(),
            cells: Cells::default(),
        }
    }

    /// The model it runs on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Everything computed so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Everything computed so far, with its pictures.
    pub fn timeline(&self) -> Timeline<'_> {
        Timeline { tokens: &self.tokens, images: &self.images }
    }

    /// Tokens in the timeline.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing has been computed.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets all but the first `n` tokens.
    pub fn rewind(&mut self, n: usize) {
        self.tokens.truncate(n);
        self.images.retain(|image| image.start < n);
        self.engine.cells().truncate(&mut self.cells, n);
    }

    /// Cells that are taken ahead of the tokens to come.
    pub fn n_ahead(&self) -> usize {
        self.cells.n_ahead()
    }

    /// Gives back the cells that are taken ahead.
    pub fn give_back(&mut self) {
        self.rewind(self.tokens.len());
    }

    /// Cells that the first tokens of timelines take up together, so many of each; shared ones count once.
    pub fn n_cells<'a>(timelines: impl Iterator<Item = (&'a Session, usize)>) -> usize {
        let mut is_taken = Vec::new();
        let mut n_cells = 0;
        for (session, n) in timelines {
            is_taken.resize(session.engine.n_ctx(), false);
            for &cell in &session.cells.as_slice()[..n] {
                n_cells += usize::from(!std::mem::replace(&mut is_taken[cell as usize], true));
            }
        }
        n_cells
    }

    /// Another timeline with the same first `n` tokens; their cells are shared, nothing is computed.
    pub fn fork(&self, n: usize) -> Session {
        let n = n.min(self.tokens.len());
        let cells = self.engine.cells().share(&self.cells, n);
        let images = self.images.iter().copied().filter(|image| image.start < n).collect();
        Session { engine: self.engine.clone(), tokens: self.tokens[..n].to_vec(), images, cells }
    }

    /// Makes the timeline equal to `prompt` and puts the logits after its last token into `logits`.
    ///
    /// The common prefix is kept, the rest runs in chunks, each picture right before its first tokens.
    /// `progress` is told how much of how much is done, where a token counts one and a picture that must
    /// be looked at counts its tokens once more. It may break off: what has been computed stays, and the
    /// error is [`Error::Cancelled`].
    pub fn sync(
        &mut self,
        prompt: &Prompt,
        logits: &mut Vec<f32>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<SyncStats, Error> {
        let tokens = &prompt.tokens;
        assert!(!tokens.is_empty(), "a prompt has at least one token");
        let ends = prompt.images.iter().map(|span| span.start + span.grid.n_tokens());
        assert!(ends.max() <= Some(tokens.len()), "the prompt ends before its pictures");
        let engine = self.engine.clone();
        let n_ctx = engine.n_ctx();
        if tokens.len() > n_ctx {
            let n_image_tokens = prompt.images.iter().map(|span| span.grid.n_tokens()).sum();
            return Err(Error::ContextFull { n_tokens: tokens.len(), n_image_tokens, n_ctx });
        }
        // The last token runs in any case: its logits are wanted.
        let marks: Vec<ImageMark> = prompt.images.iter().map(super::ImageSpan::mark).collect();
        let wanted = Timeline { tokens, images: &marks };
        let n_reused = self.timeline().n_common(wanted).min(tokens.len() - 1);
        self.rewind(n_reused);
        let is_new = |mark: &ImageMark| mark.has_rows_in(&(n_reused..tokens.len()));
        let new = prompt.images.iter().filter(|span| is_new(&span.mark()));
        let n_total = tokens.len() + new.map(|span| span.grid.n_tokens()).sum::<usize>();
        let mut n_looked_at = 0;
        let mut images: Vec<ImageRows> = Vec::new();
        let n_batch = engine.n_batch();
        for start in (n_reused..tokens.len()).step_by(n_batch) {
            if progress(start + n_looked_at, n_total).is_break() {
                return Err(Error::Cancelled);
            }
            let range = start..tokens.len().min(start + n_batch);
            images.retain(|image| image.mark.has_rows_in(&range));
            for span in prompt.images.iter().filter(|span| span.mark().has_rows_in(&range)) {
                let mark = span.mark();
                if images.iter().any(|image| image.mark == mark) {
                    continue;
                }
                let (n, n_done) = (span.grid.n_tokens(), start + n_looked_at);
                let rows = engine.image_rows(&span.image, span.grid, &mut |stage, n_stages| {
                    progress(n_done + n * stage / n_stages, n_total)
                })?;
                // What was begun in an earlier chunk was counted there, unless it was reused.
                n_looked_at += n;
                images.push(ImageRows { mark, rows });
            }
            let n_logits = usize::from(range.end == tokens.len());
            logits.clear();
            let row = BatchRow { session: self, tokens: &tokens[range], images: &images, n_logits };
            engine.forward(&mut [row], logits)?;
        }
        let _ = progress(n_total, n_total);
        Ok(SyncStats { n_reused, n_evaluated: tokens.len() - n_reused })
    }

    /// Appends one token and puts the logits after it into `logits`.
    pub fn step(&mut self, token: TokenId, logits: &mut Vec<f32>) -> Result<(), Error> {
        logits.clear();
        let engine = self.engine.clone();
        let row = BatchRow { session: self, tokens: &[token], images: &[], n_logits: 1 };
        engine.forward(&mut [row], logits)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.cells().truncate(&mut self.cells, 0);
    }
}
