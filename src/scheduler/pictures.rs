//! Pictures on their way through the vision tower: one after the other, one stage in each step.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::{Embedding, Engine, Error};
use crate::vision::{ImageHash, ImagePatches};

/// The picture that is looked at, and those that wait.
#[derive(Debug)]
pub(super) struct Tower {
    engine: Arc<Engine>,
    waiting: VecDeque<(ImageHash, ImagePatches)>,
    running: Option<Embedding>,
}

/// A picture and its rows.
pub(super) type Seen = (ImageHash, Result<Arc<[f32]>, Error>);

impl Tower {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Tower { engine: engine.clone(), waiting: VecDeque::new(), running: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Whether the picture's pixels are here.
    pub(super) fn has(&self, hash: ImageHash) -> bool {
        self.running.as_ref().is_some_and(|running| running.hash() == hash)
            || self.waiting.iter().any(|(waiting, _)| *waiting == hash)
    }

    pub(super) fn add(&mut self, hash: ImageHash, patches: ImagePatches) {
        self.waiting.push_back((hash, patches));
    }

    /// Drops the pictures that nobody waits for any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(ImageHash) -> bool) {
        self.waiting.retain(|(hash, _)| is_wanted(*hash));
        self.running.take_if(|running| !is_wanted(running.hash()));
    }

    /// Runs one stage; gives the picture that it was the last one of, or that cannot be looked at.
    pub(super) fn advance(&mut self) -> Option<Seen> {
        if self.running.is_none() {
            let (hash, patches) = self.waiting.pop_front()?;
            match Embedding::new(&self.engine, hash, patches) {
                Ok(embedding) => self.running = Some(embedding),
                Err(error) => return Some((hash, Err(error))),
            }
        }
        let running = self.running.as_mut()?;
        let hash = running.hash();
        let seen = match running.advance() {
            Ok(rows) => Ok(rows?),
            // Whoever cancels means a pass, not the picture: the stage runs again.
            Err(Error::Cancelled) => return None,
            Err(error) => Err(error),
        };
        self.running = None;
        Some((hash, seen))
    }
}
