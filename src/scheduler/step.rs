//! One step: what has arrived, who starts, who gets how much, one pass, and what it gave.

use std::time::Instant;

use crate::engine::{BatchRow, Error};
use crate::vision::ImageHash;

use super::job::Running;
use super::{Event, Scheduler, plan};

impl Scheduler {
    /// Advances all jobs that can be by at most one forward pass, and a picture by one stage of the vision
    /// tower; appends what there is to tell.
    pub fn step(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.pending);
        self.look(events);
        self.make_way();
        self.admit(events);
        self.plan(events);
        self.make_room(events);
        self.pass(events);
        self.sweep();
    }

    /// Runs a stage of the vision tower.
    fn look(&mut self, events: &mut Vec<Event>) {
        let Some((hash, seen)) = self.tower.advance() else { return };
        for job in self.running.iter_mut().filter(|job| job.wants(hash)) {
            match &seen {
                Ok(rows) => job.see(rows.clone()),
                Err(error) => {
                    job.leaves = Some(true);
                    let text = format!("a picture cannot be looked at: {error}");
                    events.push(Event::Failed(job.reply.id, text));
                }
            }
        }
        self.sweep();
    }

    /// Decides who gets how many tokens of the next pass; asks for pictures.
    pub(super) fn plan(&mut self, events: &mut Vec<Event>) {
        self.wants.clear();
        for job in &mut self.running {
            if !job.reply.is_paused() && !job.is_stuck() && job.gather_pictures(&self.engine) {
                let hash = job.awaits.map(|mark| mark.hash);
                if let Some(hash) = hash.filter(|hash| !self.tower.has(*hash)) {
                    events.push(Event::NeedsPicture(job.reply.id, hash));
                }
            }
            self.wants.push(job.n_ready());
        }
        let n_batch = self.pace.n_batch(self.engine.n_batch()).max(self.wants.len());
        let n_prompts = self.wants.iter().filter(|want| **want > 1).count();
        plan::share(&self.wants, n_batch, self.pace.n_prefill(n_prompts), &mut self.shares);
    }

    fn pass(&mut self, events: &mut Vec<Event>) {
        if self.shares.iter().all(|&share| share == 0) {
            return;
        }
        let begun = Instant::now();
        self.logits.clear();
        let mut rows: Vec<BatchRow<'_>> = Vec::with_capacity(self.running.len());
        for (job, &share) in self.running.iter_mut().zip(&self.shares).filter(|(_, n)| **n > 0) {
            job.begins(begun);
            rows.push(job.row(share));
        }
        // The engine lists the cells of single tokens if they come first.
        rows.sort_by_key(|row| row.tokens.len() > 1);
        let done = self.engine.forward(&mut rows, &mut self.logits);
        drop(rows);
        match done {
            Ok(()) => {
                self.pace.passed(&self.shares, begun.elapsed().as_secs_f64());
                self.hand_out(events);
            }
            // The owner of the engine wants it to stop; nothing is lost.
            Err(Error::Cancelled) => {}
            Err(_) => self.pass_one_by_one(events),
        }
    }

    /// Gives each job what the pass has computed for it.
    fn hand_out(&mut self, events: &mut Vec<Event>) {
        let n_vocab = self.engine.hparams().n_vocab as usize;
        let rows = self.running.iter_mut().zip(&self.shares).filter(|(_, n)| **n > 0);
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(_, n)| **n > 1);
        for ((job, share), logits) in rows.into_iter().zip(self.logits.chunks_mut(n_vocab)) {
            job.advanced(*share, logits, &self.engine, events);
        }
    }

    /// Finds out whose tokens a pass fails on; the others lose nothing.
    fn pass_one_by_one(&mut self, events: &mut Vec<Event>) {
        for (job, &share) in self.running.iter_mut().zip(&self.shares).filter(|(_, n)| **n > 0) {
            self.logits.clear();
            match self.engine.forward(&mut [job.row(share)], &mut self.logits) {
                Ok(()) => job.advanced(share, &mut self.logits, &self.engine, events),
                Err(Error::Cancelled) => return,
                // What led to this may be in its timeline.
                Err(error) => job.fails(error, false, events),
            }
        }
    }

    /// Clears the slots of jobs that are done.
    pub(super) fn sweep(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            let Some(is_kept) = self.running[at].leaves else {
                at += 1;
                continue;
            };
            let job = self.running.remove(at);
            self.may_admit = true;
            if is_kept {
                self.keep(job.session, job.reply.affinity);
            }
        }
        self.drop_pictures();
    }

    /// Stops looking at pictures that nobody waits for.
    fn drop_pictures(&mut self) {
        if !self.tower.is_idle() {
            let running = &self.running;
            self.tower
                .retain(|hash: ImageHash| running.iter().any(|job| Running::wants(job, hash)));
        }
    }
}
