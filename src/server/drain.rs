//! The end of the server, as everybody learns of it.
//!
//! It has two steps. From the first on nothing new is taken and whatever waits is refused; from the second on
//! whatever still runs ends with a terminal event.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Serving,
    Draining,
    Cut,
}

/// Tells that the server is to end.
#[derive(Debug)]
pub(crate) struct Drain(watch::Sender<Step>);

impl Drain {
    /// A server that serves.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Step::Serving))
    }

    /// From now on requests are refused.
    pub(crate) fn begin(&self) {
        self.raise(Step::Draining);
    }

    /// From now on running replies end.
    pub(crate) fn cut(&self) {
        self.raise(Step::Cut);
    }

    fn raise(&self, step: Step) {
        self.0.send_if_modified(|now| {
            let is_later = *now < step;
            *now = step.max(*now);
            is_later
        });
    }

    /// Whether requests are refused.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow() >= Step::Draining
    }

    /// Waits until requests are refused: whatever is queued then has to answer 503.
    pub(crate) async fn begun(&self) {
        self.reached(Step::Draining).await;
    }

    /// Waits until running replies have to end with a terminal event.
    pub(crate) async fn is_cut(&self) {
        self.reached(Step::Cut).await;
    }

    async fn reached(&self, step: Step) {
        // The sender is `self`, so it outlives the wait.
        let _ = self.0.subscribe().wait_for(|now| *now >= step).await;
    }
}
