//! Who gives way. Nothing is reserved: when cells run short, what is missed the least goes first, and when slots
//! do, jobs whose readers do not read.

use std::time::Duration;

use crate::engine::Session;

use super::job::{Reply, Running, Waiting};
use super::kept::MAX_KEPT;
use super::{Event, Scheduler};

impl Scheduler {
    /// Sees to it that there are cells for the shares of the next pass, in this order: what sessions took
    /// ahead, kept timelines, the youngest job's timeline. Shares change when a job loses its slot.
    pub(super) fn make_room(&mut self, events: &mut Vec<Event>) {
        if self.n_missing() == 0 {
            return;
        }
        for running in &mut self.running {
            running.session.give_back();
        }
        let mut n_missing = self.n_missing();
        while n_missing > 0 && self.evict() {
            n_missing = self.n_missing();
        }
        while n_missing > 0 {
            match self.running.len() {
                0 => return,
                1 => return self.make_do(n_missing, events),
                _ => self.push_out(),
            }
            self.plan(events);
            n_missing = self.n_missing();
        }
    }

    /// Cells that are wanted and not there.
    fn n_missing(&self) -> usize {
        let wanted = self.running.iter().zip(&self.shares);
        let n: usize = wanted.map(|(it, share)| share.saturating_sub(it.session.n_ahead())).sum();
        n.saturating_sub(self.engine.n_cells_free())
    }

    fn evict(&mut self) -> bool {
        let key = |it: &Running| it.reply.affinity.map(|key| (key, it.session.len()));
        let running: Vec<(u64, usize)> = self.running.iter().filter_map(key).collect();
        self.kept.evict(&running)
    }

    /// Keeps what a job has computed, within the limit of timelines.
    pub(super) fn keep(&mut self, session: Session, affinity: Option<u64>) {
        self.kept.insert(session, affinity);
        while self.kept.len() > MAX_KEPT && self.evict() {}
    }

    /// The youngest job starts over when there is room again; rather one whose reader does not read, or it
    /// would hold its cells against everybody.
    fn push_out(&mut self) {
        let paused = self.running.iter().rposition(|it| it.reply.is_paused());
        let Some(at) = paused.or(self.running.len().checked_sub(1)) else { return };
        let Running { reply, .. } = self.running.remove(at);
        self.suspend(reply);
    }

    /// The job that has been paused the longest, if another could have its slot or its cells, and the time until
    /// it has to leave.
    pub(super) fn next_to_leave(&self) -> Option<(usize, Duration)> {
        let is_wanted = self.waiting.iter().any(|waiting| !waiting.reply.is_paused());
        if !is_wanted || (self.running.len() < self.n_slots && !self.lacks_room) {
            return None;
        }
        let paused = self.running.iter().enumerate();
        let paused = paused.filter_map(|(at, it)| Some((at, it.reply.paused?)));
        let (at, since) = paused.min_by_key(|(_, since)| *since)?;
        Some((at, self.paused_max.saturating_sub(since.elapsed())))
    }

    /// Takes the slot of a job that was paused for too long. It goes on from what it has computed, if that is not
    /// given up for others meanwhile.
    pub(super) fn make_way(&mut self) {
        let Some((at, Duration::ZERO)) = self.next_to_leave() else { return };
        let Running { reply, session, .. } = self.running.remove(at);
        self.keep(session, reply.affinity);
        self.suspend(reply);
        self.may_admit = true;
    }

    fn suspend(&mut self, reply: Reply) {
        let place = self.waiting.partition_point(|waiting| waiting.reply.age < reply.age);
        self.waiting.insert(place, Waiting { reply, after: None });
    }

    /// A job alone can have all cells of the context. Only timelines that others have made on the same engine
    /// can keep it from that.
    fn make_do(&mut self, n_missing: usize, events: &mut Vec<Event>) {
        let Some((job, share)) = self.running.first_mut().zip(self.shares.first_mut()) else {
            return;
        };
        *share = share.saturating_sub(n_missing);
        if *share == 0 {
            let (n_ctx, n_tokens) = (job.session.engine().n_ctx(), job.session.len() + 1);
            let full = crate::engine::Error::ContextFull { n_tokens, n_image_tokens: 0, n_ctx };
            job.fails(full, true, events);
        }
    }
}
