//! Who may run: so many replies at a time, so many more that wait in their order, and nobody else.
//!
//! A place is taken before any work is done for a request, so a flood is refused at once and costs nothing.
//! Whoever loses interest drops the place and has left the queue.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::http::{ApiError, ErrorKind};

/// Bounds of the advice when to try again, in seconds.
const RETRY_AFTER_S: (f64, f64) = (1.0, 60.0);
/// How much the latest run counts in the mean.
const WEIGHT: f64 = 0.2;

/// The queue of all requests that want replies.
#[derive(Debug)]
pub(crate) struct Queue {
    slots: Arc<Semaphore>,
    n_slots: usize,
    n_queue: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Replies that run or wait.
    n_inside: usize,
    /// Replies that were let run, and are not done.
    n_running: usize,
    /// Mean seconds that a reply takes.
    run_s: f64,
}

/// A place in the queue for some replies of one request.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    n: usize,
}

/// The right to run. Dropping it lets the next one run.
#[derive(Debug)]
pub(crate) struct Permit {
    started: Instant,
    place: Place,
    /// `None` once they were left to others.
    slots: Option<OwnedSemaphorePermit>,
}

impl Queue {
    /// A queue in front of `n_slots` slots in which `n_queue` replies may wait.
    pub(crate) fn new(n_slots: usize, n_queue: usize) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(n_slots));
        let state = Mutex::new(State { n_inside: 0, n_running: 0, run_s: 1.0 });
        Arc::new(Queue { slots, n_slots, n_queue, state })
    }

    /// Takes a place for `n` replies, or says when there may be one.
    pub(crate) fn enter(self: &Arc<Self>, n: usize) -> Result<Place, ApiError> {
        let mut place = Place { queue: Arc::clone(self), n: 0 };
        place.widen(n)?;
        Ok(place)
    }

    /// Replies that wait for a slot.
    pub(crate) fn n_waiting(&self) -> usize {
        let state = self.state();
        state.n_inside - state.n_running
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts `n_more` replies in, of a request that has `n` with them.
    fn admit(&self, n: usize, n_more: usize) -> Result<(), ApiError> {
        let mut state = self.state();
        // Replies of one request run side by side or not at all.
        if n > self.n_slots || state.n_inside + n_more > self.n_slots + self.n_queue {
            let n_waiting = state.n_inside - state.n_running;
            let rounds = n_waiting as f64 / self.n_slots.max(1) as f64 + 1.0;
            let (least, most) = RETRY_AFTER_S;
            let retry_after_s = (rounds * state.run_s).clamp(least, most).ceil() as u32;
            let message = format!(
                "the server is busy: {} replies run and {n_waiting} wait, try again in {retry_after_s} s",
                state.n_running,
            );
            return Err(ApiError::new(ErrorKind::Overloaded { retry_after_s }, message));
        }
        state.n_inside += n_more;
        Ok(())
    }
}

impl Place {
    /// Makes it a place for `n` replies, at least as many as before.
    pub(crate) fn widen(&mut self, n: usize) -> Result<(), ApiError> {
        self.queue.admit(n, n.saturating_sub(self.n))?;
        self.n = self.n.max(n);
        Ok(())
    }

    /// Waits until all the replies may run; whoever came first goes first.
    pub(crate) async fn wait(self) -> Permit {
        let slots = Arc::clone(&self.queue.slots);
        let n = u32::try_from(self.n).unwrap_or(u32::MAX);
        let slots = slots.acquire_many_owned(n).await.expect("nobody closes the semaphore");
        self.queue.state().n_running += self.n;
        Permit { started: Instant::now(), place: self, slots: Some(slots) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.state().n_inside -= self.n;
    }
}

impl Permit {
    /// Lets the next ones run although these replies are not done: their reader does not read, and the runner, which
    /// has no more slots than there are, gives theirs to others.
    pub(crate) fn make_way(&mut self) {
        if self.slots.take().is_some() {
            self.learn();
        }
    }

    /// How long somebody had the slots.
    fn learn(&self) {
        let took = self.started.elapsed().as_secs_f64();
        let mut state = self.place.queue.state();
        state.run_s += WEIGHT * (took - state.run_s);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.slots.is_some() {
            self.learn();
        }
        self.place.queue.state().n_running -= self.place.n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_busy(result: Result<Place, ApiError>) -> bool {
        result
            .is_err_and(|error| matches!(error.kind, ErrorKind::Overloaded { retry_after_s: 1.. }))
    }

    #[tokio::test]
    async fn replies_run_wait_or_are_refused() {
        let queue = Queue::new(2, 1);
        let first = queue.enter(1).unwrap().wait().await;
        let second = queue.enter(1).unwrap().wait().await;
        let third = queue.enter(1).unwrap();
        assert_eq!(queue.n_waiting(), 1);
        assert!(is_busy(queue.enter(1)));
        drop(first);
        let third = third.wait().await;
        assert_eq!(queue.n_waiting(), 0);
        drop((second, third));
        assert!(is_busy(queue.enter(3)), "more than there are slots");
        let mut wide = queue.enter(1).unwrap();
        assert!(is_busy(wide.widen(3).map(|()| queue.enter(0).unwrap())));
        wide.widen(2).unwrap();
        assert_eq!(queue.state().n_inside, 2);
        drop(wide);
        let both = queue.enter(2).unwrap().wait().await;
        assert!(is_busy(queue.enter(2)));
        drop(both);
        assert_eq!(queue.state().n_inside, 0);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_lets_the_next_one_run_and_stays_inside() {
        let queue = Queue::new(1, 1);
        let mut slow = queue.enter(1).unwrap().wait().await;
        let next = queue.enter(1).unwrap();
        assert_eq!(queue.n_waiting(), 1);
        slow.make_way();
        let next = next.wait().await;
        assert_eq!(queue.n_waiting(), 0);
        assert!(is_busy(queue.enter(1)), "two are inside");
        drop((slow, next));
        let state = queue.state();
        assert_eq!((state.n_inside, state.n_running), (0, 0));
    }

    #[tokio::test]
    async fn whoever_leaves_makes_room_and_the_others_keep_their_order() {
        let queue = Queue::new(1, 2);
        let running = queue.enter(1).unwrap().wait().await;
        let (a, b) = (queue.enter(1).unwrap(), queue.enter(1).unwrap());
        let a = tokio::spawn(a.wait());
        tokio::task::yield_now().await;
        let b = tokio::spawn(b.wait());
        tokio::task::yield_now().await;
        a.abort();
        assert!(a.await.is_err());
        let c = queue.enter(1).unwrap();
        assert!(is_busy(queue.enter(1)));
        let c = tokio::spawn(c.wait());
        tokio::task::yield_now().await;
        drop(running);
        let b = b.await.unwrap();
        assert!(!c.is_finished());
        drop(b);
        c.await.unwrap();
    }
}
