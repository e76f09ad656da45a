//! Many requests on one engine: continuous batching over one pool of KV cells.
//!
//! A [`Job`] is token ids in, token ids out. Each [`Scheduler::step`] runs one forward pass with a row for
//! every reply that is being written and a share of somebody's prompt. The scheduler is a plain state
//! machine without threads or channels of its own, so tests drive it step by step; `runner` owns the thread
//! that calls it. Time decides nothing but how much of a prompt goes into a step, and how long a job may be
//! paused in a slot that another waits for.
//!
//! What a job has computed is kept when it ends, however it ends, and the next prompt with the same
//! beginning starts from there. Cells are never reserved: when they run short, kept timelines go, and
//! then the youngest job starts over later, which its reader sees as a pause. The oldest job never waits for
//! cells, so all jobs end.

mod admit;
mod job;
mod kept;
mod logprobs;
mod pictures;
mod plan;
mod room;
mod step;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::constraint::Constraint;
use crate::engine::{End, Engine, ImageMark, SamplingParams};
use crate::tokenizer::TokenId;
use crate::vision::{ImageHash, ImagePatches};

use job::{Reply, Running, Waiting};
use kept::Kept;
use pictures::Tower;
use plan::Pace;

/// How long a job may be paused in a slot that another waits for. Most readers stop for a moment only, and who
/// gives up a slot has to wait for the next.
const PAUSED_MAX: Duration = Duration::from_secs(5);

/// Names a job; chosen by whoever submits it, and never again for another.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct JobId(pub u64);

/// One reply to be written.
#[derive(Debug)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The full prompt, at least one token, all of them below the vocabulary's size.
    pub tokens: Vec<TokenId>,
    /// The pictures that some of the tokens stand for, in order.
    pub images: Vec<ImageMark>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// What the reply must be like.
    pub constraint: Option<Constraint>,
    /// Most tokens of the reply, at least one.
    pub n_max: usize,
    /// Whether each token comes with its log-probability, and with how many of the likeliest.
    pub n_logprobs: Option<usize>,
    /// Requests with the same key belong to one conversation or agent; only a hint.
    pub affinity: Option<u64>,
}

/// What a job's prompt found in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Start {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, tokens that need not be computed.
    pub n_reused: usize,
    /// Where the best timeline that was kept parts from the prompt; `None` where nothing was kept, or where
    /// the prompt goes on from its end.
    pub miss: Option<Miss>,
}

/// The first token at which a prompt is not what was kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Miss {
    /// Its index.
    pub at: usize,
    /// What was kept there.
    pub kept: TokenId,
    /// What the prompt has there.
    pub asked: TokenId,
}

/// A token's log-probability under the raw logits: before temperature, penalties and mask.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Logprobs {
    /// Of the token itself.
    pub chosen: f32,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

/// What a job took.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spent {
    /// Prompt tokens computed, pictures' and recomputed ones included.
    pub n_prefilled: usize,
    /// Tokens written.
    pub n_generated: usize,
    /// Seconds from its submission to its first forward pass.
    pub waited_s: f64,
    /// Seconds from its first forward pass to its first token, or until now.
    pub prefill_s: f64,
    /// Seconds from its first token to its last.
    pub decode_s: f64,
}

/// What a step tells about a job. `Ended` or `Failed` is its last event; of a job that was cancelled nothing
/// more is told.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// It has a slot.
    Started(JobId, Start),
    /// So many tokens of its prompt are done, and this is what they took.
    Progress(JobId, usize, Spent),
    /// It cannot go on without this picture's pixels: [`Scheduler::picture`] is awaited.
    NeedsPicture(JobId, ImageHash),
    /// Its next token.
    Token(JobId, TokenId, Option<Logprobs>),
    /// It is complete.
    Ended(JobId, End, Spent),
    /// It cannot be completed; other jobs are not concerned.
    Failed(JobId, String),
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Load {
    /// Jobs that have a slot.
    pub n_running: usize,
    /// Jobs that had one, gave it up and wait for another: cells ran short, or their readers did not read.
    pub n_suspended: usize,
    /// Jobs that wait for their first.
    pub n_waiting: usize,
    /// Cells in use, by running jobs and by what is kept.
    pub n_cells_used: usize,
    /// All cells.
    pub n_cells: usize,
    /// Timelines that are kept without a job.
    pub n_kept: usize,
}

/// All jobs of one engine.
#[derive(Debug)]
pub struct Scheduler {
    engine: Arc<Engine>,
    n_slots: usize,
    paused_max: Duration,
    /// The oldest first, as everywhere.
    running: Vec<Running>,
    waiting: Vec<Waiting>,
    kept: Kept,
    tower: Tower,
    pace: Pace,
    /// Told by the next step.
    pending: Vec<Event>,
    n_submitted: u64,
    /// Whether something happened since that may let a waiting job start.
    may_admit: bool,
    /// Whether the next one waits for cells, and not for a slot.
    lacks_room: bool,
    /// Tokens that each running job could have in the next pass, and those that it gets.
    wants: Vec<usize>,
    shares: Vec<usize>,
    logits: Vec<f32>,
}

impl Scheduler {
    /// A scheduler of at most `n_slots` running jobs, at least one and no more than a pass has rows.
    pub fn new(engine: &Arc<Engine>, n_slots: usize) -> Self {
        Scheduler {
            engine: engine.clone(),
            n_slots: n_slots.clamp(1, engine.n_batch()),
            paused_max: PAUSED_MAX,
            running: Vec::new(),
            waiting: Vec::new(),
            kept: Kept::default(),
            tower: Tower::new(engine),
            pace: Pace::default(),
            pending: Vec::new(),
            n_submitted: 0,
            may_admit: false,
            lacks_room: false,
            wants: Vec::new(),
            shares: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// One with less patience, or more.
    #[cfg(test)]
    pub(crate) fn with_paused_max(mut self, paused_max: Duration) -> Self {
        self.paused_max = paused_max;
        self
    }

    /// Takes a job. One that cannot run is told as failed by the next step.
    pub fn submit(&mut self, job: Job) {
        let id = job.id;
        match Reply::new(job, self.n_submitted, &self.engine) {
            Ok(reply) => self.waiting.push(Waiting { reply, after: None }),
            Err(problem) => self.pending.push(Event::Failed(id, problem)),
        }
        self.n_submitted += 1;
        self.may_admit = true;
    }

    /// Ends a job at once and without a word. What it has computed is kept.
    pub fn cancel(&mut self, id: JobId) {
        self.pending.retain(|event| !matches!(event, Event::Failed(failed, _) if *failed == id));
        self.waiting.retain(|waiting| waiting.reply.id != id);
        if let Some(running) = self.running.iter_mut().find(|running| running.reply.id == id) {
            running.leaves = Some(true);
        }
        self.sweep();
        self.may_admit = true;
    }

    /// Holds a job where it is, or lets it go on.
    pub fn pause(&mut self, id: JobId, is_paused: bool) {
        let running = self.running.iter_mut().map(|running| &mut running.reply);
        let mut replies = running.chain(self.waiting.iter_mut().map(|waiting| &mut waiting.reply));
        if let Some(reply) = replies.find(|reply| reply.id == id) {
            reply.paused = is_paused.then(|| reply.paused.unwrap_or_else(Instant::now));
        }
        self.may_admit = true;
    }

    /// The pixels of a picture that was asked for. Jobs whose prompt has another size for it fail.
    pub fn picture(&mut self, hash: ImageHash, patches: ImagePatches) {
        if self.tower.has(hash) {
            return;
        }
        let size = self.engine.patch_config().map(|config| config.size(patches.grid));
        let is_whole = size.is_some_and(|(cols, rows)| patches.pixels.len() == 3 * cols * rows);
        for job in self.running.iter_mut().filter(|job| job.wants(hash)) {
            let grid = job.awaits.map(|mark| mark.grid);
            if !is_whole || grid != Some(patches.grid) {
                job.leaves = Some(true);
                let problem = "the pixels of a picture are not of the size that its tokens tell";
                self.pending.push(Event::Failed(job.reply.id, problem.to_owned()));
            }
        }
        self.sweep();
        if self.running.iter().any(|job| job.wants(hash)) {
            self.tower.add(hash, patches);
        }
    }

    /// Whether a step would do nothing.
    pub fn is_idle(&self) -> bool {
        let is_still = |job: &Running| job.reply.is_paused() || job.is_stuck();
        let is_free = self.running.len() < self.n_slots;
        self.pending.is_empty()
            && self.tower.is_idle()
            && self.running.iter().all(is_still)
            && !(self.may_admit && is_free && !self.waiting.is_empty())
            && self.idle_for() != Some(Duration::ZERO)
    }

    /// How long it stays idle if nothing is asked of it; `None` is for ever.
    pub fn idle_for(&self) -> Option<Duration> {
        self.next_to_leave().map(|(_, time)| time)
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let n_cells = self.engine.n_ctx();
        let n_suspended = self.waiting.iter().filter(|waiting| waiting.reply.is_started).count();
        Load {
            n_running: self.running.len(),
            n_suspended,
            n_waiting: self.waiting.len() - n_suspended,
            n_cells_used: n_cells - self.engine.n_cells_free(),
            n_cells,
            n_kept: self.kept.len(),
        }
    }
}

#[cfg(test)]
mod tests;
