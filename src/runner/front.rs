//! What the rest of the server holds of the runner.
//!
//! [`Runner`] is a handle; clones are the same runner, and when the last is gone the process ends. A job is
//! a [`JobStream`]: whoever drops it has cancelled the job, whoever stops reading it has paused the job, and
//! it always ends with an event that says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::routes::{Line, Pictures, Routes};
use super::supervisor::{self, RunnerCommand, Vitals};
use super::{JobEvent, Request, State, Submission};
use crate::constraint::ReplyRules;
use crate::engine::{ImageMark, Prompt, SamplingParams};
use crate::scheduler::{JobId, Load};

/// A runner process that is started again whenever it dies.
#[derive(Debug, Clone)]
pub struct Runner {
    routes: Arc<Routes>,
    vitals: Arc<Vitals>,
    state: watch::Receiver<State>,
    /// Told that it shall end, by a value or by being dropped.
    stop: Arc<watch::Sender<bool>>,
}

/// One reply to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The full prompt, with its pictures.
    pub prompt: Prompt,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Most tokens of the reply.
    pub n_max: usize,
    /// Log-probabilities, see [`crate::scheduler::Job::n_logprobs`].
    pub n_logprobs: Option<usize>,
    /// See [`crate::scheduler::Job::affinity`].
    pub affinity: Option<u64>,
}

/// The runner cannot take it or has died; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// Rules that were not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// They cannot be kept.
    #[error("{}{message}", if .field.is_empty() { String::new() } else { format!("{field}: ") })]
    Rules {
        /// The field of the request at fault; empty where no field is.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// See [`Lost`].
    #[error("{0}")]
    Lost(String),
}

/// Rules that the runner keeps for one job. Dropped, they are forgotten.
#[derive(Debug)]
pub struct Prepared {
    /// The job's name to be.
    pub id: JobId,
    /// What the caller should know of that is no error.
    pub notes: Vec<String>,
    routes: Arc<Routes>,
    /// The runner that keeps them; `None` once the job has them.
    life: Option<u64>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.life.is_some() {
            self.routes.cancel(self.id, self.life);
        }
    }
}

/// What happens to a job. Dropping it cancels the job.
#[derive(Debug)]
pub struct JobStream {
    line: Line,
    routes: Arc<Routes>,
    has_ended: bool,
}

impl Runner {
    /// Starts the process and keeps one alive; must be called within a tokio runtime.
    pub fn start(command: RunnerCommand) -> Self {
        let routes = Arc::new(Routes::new());
        let vitals = Arc::new(Vitals::default());
        let (stop, stopped) = watch::channel(false);
        let state = supervisor::start(command, routes.clone(), vitals.clone(), stopped);
        Runner { routes, vitals, state, stop: Arc::new(stop) }
    }

    /// One that never does anything, however it seems to be.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn absent(state: State) -> Self {
        let (_, state) = watch::channel(state);
        let stop = Arc::new(watch::channel(false).0);
        Runner { routes: Arc::new(Routes::new()), vitals: Arc::default(), state, stop }
    }

    /// How it does.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Tells when that changes.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        self.routes.load()
    }

    /// Its process's number, while there is one.
    pub fn pid(&self) -> Option<u32> {
        match self.vitals.pid.load(Ordering::Relaxed) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// How often it was started again.
    pub fn n_restarts(&self) -> u64 {
        self.vitals.n_restarts.load(Ordering::Relaxed)
    }

    /// Compiles what a reply must be like.
    pub async fn prepare(&self, rules: ReplyRules) -> Result<Prepared, PrepareError> {
        let (id, life, answered) = self.routes.prepare(|id| Request::Prepare(id, rules))?;
        // From here on it is forgotten if the caller loses interest.
        let routes = self.routes.clone();
        let mut prepared = Prepared { id, notes: Vec::new(), routes, life: Some(life) };
        match answered.await {
            Ok(notes) => prepared.notes = notes?,
            Err(_) => return Err(PrepareError::Lost("the engine has stopped".to_owned())),
        }
        Ok(prepared)
    }

    /// Starts a job, held to what was prepared for it.
    pub async fn submit(&self, job: NewJob, prepared: Option<Prepared>) -> Result<JobStream, Lost> {
        let id = prepared.as_ref().map_or_else(|| self.routes.new_id(), |prepared| prepared.id);
        let life = prepared.as_ref().and_then(|prepared| prepared.life);
        let spans = &job.prompt.images;
        let pictures: Pictures =
            spans.iter().map(|span| (span.image.hash(), span.grid, span.image.clone())).collect();
        let images = spans.iter().map(|span| ImageMark {
            start: span.start,
            grid: span.grid,
            hash: span.image.hash(),
        });
        let request = Request::Submit(Submission {
            id,
            images: images.collect(),
            tokens: job.prompt.tokens,
            sampling: job.sampling,
            is_prepared: prepared.is_some(),
            n_max: job.n_max,
            n_logprobs: job.n_logprobs,
            affinity: job.affinity,
        });
        let line = self.routes.submit(id, life, &request, pictures)?;
        if let Some(mut prepared) = prepared {
            prepared.life = None;
        }
        Ok(JobStream { line, routes: self.routes.clone(), has_ended: false })
    }

    /// Ends the process: gently, and after two seconds not so.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // An error is a supervisor that is gone, and the process with it.
        let _ = self.state.clone().wait_for(|state| *state == State::Stopped).await;
    }
}

/// Stops a job for a while, whoever reads its events.
#[derive(Debug)]
pub struct Brake {
    id: JobId,
    is_paused: Arc<AtomicBool>,
    routes: Arc<Routes>,
}

impl Brake {
    /// Holds the job where it is, or lets it go on.
    pub fn hold(&self, is_held: bool) {
        self.routes.pause(self.id, &self.is_paused, is_held);
    }
}

impl JobStream {
    /// The job's name.
    pub fn id(&self) -> JobId {
        self.line.id
    }

    /// What holds the job without an event being taken.
    pub fn brake(&self) -> Brake {
        let (is_paused, routes) = (self.line.is_paused.clone(), self.routes.clone());
        Brake { id: self.line.id, is_paused, routes }
    }

    /// The next event; `None` after the last. It may be dropped while it waits.
    pub async fn next(&mut self) -> Option<JobEvent> {
        if self.has_ended {
            return None;
        }
        let event = self.line.events.recv().await;
        // Only a queue that was full ends without a last event.
        let event = event.unwrap_or_else(|| JobEvent::Failed("its reader was too slow".to_owned()));
        self.has_ended = event.is_last();
        self.routes.taken(&self.line);
        Some(event)
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        if !self.has_ended {
            self.routes.cancel(self.line.id, None);
        }
    }
}
