//! From waiting to running: whose turn it is, what it need not compute, whether there is room.

use crate::engine::{Session, Timeline};

use super::job::{Reply, Running, Waiting};
use super::kept::{Found, Source, search, takes_over};
use super::{Event, Scheduler, Start};

impl Scheduler {
    /// Gives slots to waiting jobs, the oldest first.
    pub(super) fn admit(&mut self, events: &mut Vec<Event>) {
        self.release_followers();
        if !self.may_admit {
            return;
        }
        self.may_admit = false;
        self.lacks_room = false;
        let mut at = 0;
        while at < self.waiting.len() && self.running.len() < self.n_slots {
            let Waiting { reply, after } = &self.waiting[at];
            if reply.is_paused() || after.is_some() {
                at += 1;
                continue;
            }
            let found = search(reply.timeline(), reply.affinity, self.sources());
            if let Some((source, n)) = found.coming {
                self.waiting[at].after = Some((self.running[source].reply.id, n));
                at += 1;
                continue;
            }
            if !self.has_room(reply, &found) {
                // Smaller ones that pass it by would keep it waiting for ever.
                self.lacks_room = true;
                break;
            }
            let reply = self.waiting.remove(at).reply;
            self.start(reply, found, events);
        }
    }

    /// Lets those go on who waited for a prefix, if it is there or won't come.
    fn release_followers(&mut self) {
        for waiting in &mut self.waiting {
            let Some((id, n)) = waiting.after else { continue };
            let leader = self.running.iter().find(|running| running.reply.id == id);
            if leader.is_none_or(|it| it.reply.is_paused() || it.session.len() >= n) {
                waiting.after = None;
                self.may_admit = true;
            }
        }
    }

    /// All that a prompt can go on from: running jobs first.
    fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        let running = self.running.iter().map(|Running { reply, session, .. }| Source {
            // Nobody waits for a job that stands still.
            planned: if reply.is_paused() { session.timeline() } else { reply.timeline() },
            n_computed: session.len(),
            affinity: reply.affinity,
        });
        running.chain(self.kept.sources())
    }

    fn source(&self, at: usize) -> &Session {
        match self.running.get(at) {
            Some(running) => &running.session,
            None => self.kept.session(at - self.running.len()),
        }
    }

    /// Whether the text fits beside what running jobs have and are about to compute, if all else is given
    /// up. It keeps jobs from pushing each other out, and promises nothing: replies grow.
    fn has_room(&self, reply: &Reply, found: &Found) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let n_reused = found.best.map_or(0, |(_, n)| n);
        let n_planned: usize = self.running.iter().map(Running::n_left).sum();
        let mut n_more = n_planned + reply.text.len() - n_reused;
        if reply.is_started {
            // It was pushed out before, and what it computes again should last for a while.
            n_more += self.engine.n_ctx() / 16;
        }
        if n_more <= self.engine.n_cells_free() {
            return true;
        }
        let running = self.running.iter().map(|it| (&it.session, it.session.len()));
        let shared = found.best.map(|(at, n)| (self.source(at), n));
        Session::n_cells(running.chain(shared)) + n_more <= self.engine.n_ctx()
    }

    fn start(&mut self, mut reply: Reply, found: Found, events: &mut Vec<Event>) {
        let (at, n_reused) = found.best.unwrap_or((usize::MAX, 0));
        let session = match at.checked_sub(self.running.len()) {
            _ if n_reused == 0 => Session::new(&self.engine),
            None => self.running[at].session.fork(n_reused),
            Some(at) => self.go_on(at, n_reused, &reply),
        };
        if !reply.is_started {
            let start = Start { n_prompt: reply.n_prompt(), n_reused, miss: found.miss };
            events.push(Event::Started(reply.id, start));
            reply.is_started = true;
        }
        let place = self.running.partition_point(|running| running.reply.age < reply.age);
        self.running.insert(place, Running::new(reply, session));
    }

    /// A kept timeline cut to its first `n` tokens, or a fork of it.
    fn go_on(&mut self, at: usize, n: usize, reply: &Reply) -> Session {
        let kept = self.kept.sources().nth(at);
        let is_taken = kept.is_some_and(|Source { planned, affinity, .. }| {
            let n_common = Timeline::n_common(planned, reply.timeline());
            takes_over(n_common, planned.tokens.len(), reply.affinity, affinity)
        });
        if is_taken {
            let mut session = self.kept.take(at);
            session.rewind(n);
            return session;
        }
        let session = self.kept.session(at).fork(n);
        self.kept.touch(at);
        session
    }
}
