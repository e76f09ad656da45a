//! One timeline of tokens and what has been computed of it.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::model::Cells;
use crate::tokenizer::TokenId;

use super::{BatchRow, Engine, Error, N_BATCH};

/// A timeline: tokens whose K and V lie in the engine's cache.
///
/// Dropping it gives its cells back.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Engine>,
    pub(super) tokens: Vec<TokenId>,
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
        Session { engine: engine.clone(), tokens: Vec::new(), cells: Cells::default() }
    }

    /// The model it runs on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Everything computed so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
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
        self.engine.cells().truncate(&mut self.cells, n);
    }

    /// Another timeline with the same first `n` tokens; their cells are shared, nothing is computed.
    pub fn fork(&self, n: usize) -> Session {
        let n = n.min(self.tokens.len());
        let cells = self.engine.cells().share(&self.cells, n);
        Session { engine: self.engine.clone(), tokens: self.tokens[..n].to_vec(), cells }
    }

    /// Makes the timeline equal to `prompt` and puts the logits after its last token into `logits`.
    ///
    /// The common prefix is kept, the rest runs in chunks. `progress` is told how many of the prompt's
    /// tokens are in place and may break off: what has been computed stays, and the error is
    /// [`Error::Cancelled`].
    pub fn sync(
        &mut self,
        prompt: &[TokenId],
        logits: &mut Vec<f32>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<SyncStats, Error> {
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        let n_ctx = self.engine.n_ctx();
        if prompt.len() > n_ctx {
            return Err(Error::ContextFull { n_tokens: prompt.len(), n_ctx });
        }
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token runs in any case: its logits are wanted.
        let n_reused = common.min(prompt.len() - 1);
        self.rewind(n_reused);
        let engine = self.engine.clone();
        let mut chunks = prompt[n_reused..].chunks(N_BATCH).peekable();
        while let Some(chunk) = chunks.next() {
            if progress(self.tokens.len(), prompt.len()).is_break() {
                return Err(Error::Cancelled);
            }
            let n_logits = usize::from(chunks.peek().is_none());
            logits.clear();
            let row = BatchRow { session: self, tokens: chunk, n_logits };
            engine.forward(&mut [row], logits)?;
        }
        let _ = progress(prompt.len(), prompt.len());
        Ok(SyncStats { n_reused, n_evaluated: prompt.len() - n_reused })
    }

    /// Appends one token and puts the logits after it into `logits`.
    pub fn step(&mut self, token: TokenId, logits: &mut Vec<f32>) -> Result<(), Error> {
        logits.clear();
        let engine = self.engine.clone();
        let row = BatchRow { session: self, tokens: &[token], n_logits: 1 };
        engine.forward(&mut [row], logits)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.cells().truncate(&mut self.cells, 0);
    }
}
