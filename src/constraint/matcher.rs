//! A grammar, and a text that is being held to it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::compile::first_line;
use super::{ConstraintError, Mask};
use crate::contain;
use crate::tokenizer::TokenId;

/// A compiled grammar. A clone shares it.
#[derive(Clone)]
pub struct Grammar(Arc<Mutex<llguidance::Matcher>>);

impl Grammar {
    pub(super) fn new(matcher: llguidance::Matcher) -> Self {
        Self(Arc::new(Mutex::new(matcher)))
    }

    #[cfg(test)]
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A text at its beginning, with automata of its own: those that grow with one text would count
    /// against the limits of the next.
    pub(super) fn start(&self) -> Matcher {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Matcher { matcher, is_untouched: true }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

/// A text so far.
#[derive(Clone)]
pub(super) struct Matcher {
    matcher: llguidance::Matcher,
    is_untouched: bool,
}

impl Matcher {
    /// Whether no token was taken yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.is_untouched
    }

    /// Whether the text may end here.
    pub(super) fn can_end(&mut self) -> Result<bool, ConstraintError> {
        if self.matcher.is_error() {
            return Err(self.fault());
        }
        Ok(self.matcher.is_stopped() || guarded(|| self.matcher.is_accepting())?)
    }

    /// Fills `mask` with the tokens of text that may come next; none where only the end may.
    pub(super) fn fill(&mut self, mask: &mut Mask) -> Result<(), ConstraintError> {
        mask.clear();
        if self.matcher.is_error() {
            return Err(self.fault());
        }
        if !self.matcher.is_stopped() {
            mask.fill_from(guarded(|| self.matcher.compute_mask())?.as_slice());
        }
        Ok(())
    }

    /// Takes tokens of text; how many fit.
    pub(super) fn take(&mut self, ids: &[TokenId]) -> Result<usize, ConstraintError> {
        self.is_untouched &= ids.is_empty();
        if self.matcher.is_stopped() {
            return Ok(0);
        }
        guarded(|| self.matcher.try_consume_tokens(ids))
    }

    fn fault(&self) -> ConstraintError {
        let problem = self.matcher.get_error().unwrap_or_default();
        ConstraintError::Run { problem: first_line(&problem) }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("is_untouched", &self.is_untouched).finish()
    }
}

/// What `work` gives. llguidance makes its own panics errors, but they would be heard on stderr.
fn guarded<T, E: fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, ConstraintError> {
    let problem = match contain::panics(work) {
        Some(Ok(done)) => return Ok(done),
        Some(Err(error)) => first_line(&error.to_string()),
        None => "it panicked".to_owned(),
    };
    Err(ConstraintError::Run { problem })
}
