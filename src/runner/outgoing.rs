//! Frames that wait to be written, and what each is about.
//!
//! A runner that is in a long pass takes no more than its own queue holds, and meanwhile clients may come and go. What is about a job that
//! nobody wants any more is taken out, so that no more waits here than there are requests, however many there
//! were.

use std::collections::VecDeque;

use crate::scheduler::JobId;
use crate::vision::ImageHash;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The first that the runner hears of a job.
    NewJob(JobId),
    /// A job that it knows.
    Job(JobId),
    /// The pixels of a picture, for whoever asked for it.
    Picture(ImageHash),
}

/// Frames in their order.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: VecDeque<(About, Vec<u8>)>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }

    pub(super) fn push(&mut self, about: About, frame: Vec<u8>) {
        self.frames.push_back((about, frame));
    }

    /// The next to be written.
    pub(super) fn pop(&mut self) -> Option<(About, Vec<u8>)> {
        self.frames.pop_front()
    }

    /// Takes out all that is about a job; `true` if the runner has never heard of it.
    pub(super) fn withdraw(&mut self, id: JobId) -> bool {
        let is_new = self.has(About::NewJob(id));
        self.frames.retain(|(about, _)| ![About::NewJob(id), About::Job(id)].contains(about));
        is_new
    }

    /// Takes out a picture.
    pub(super) fn withdraw_picture(&mut self, hash: ImageHash) {
        self.frames.retain(|(about, _)| *about != About::Picture(hash));
    }

    pub(super) fn has(&self, about: About) -> bool {
        self.frames.iter().any(|(other, _)| *other == about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_is_not_sent() {
        let mut outgoing = Outgoing::default();
        let [a, b] = [JobId(1), JobId(2)];
        let picture = ImageHash([3; 32]);
        for about in [About::NewJob(a), About::Picture(picture), About::NewJob(b), About::Job(a)] {
            outgoing.push(about, Vec::new());
        }
        assert_eq!(outgoing.pop(), Some((About::NewJob(a), Vec::new())));
        assert!(!outgoing.withdraw(a), "the runner has heard of it");
        assert!(outgoing.withdraw(b));
        assert!(outgoing.has(About::Picture(picture)));
        outgoing.withdraw_picture(picture);
        assert!(outgoing.is_empty());
    }
}
