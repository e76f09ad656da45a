//! Many requests on one engine: continuous batching over one pool of KV cells.
//!
//! A [`Job`] is token ids in, token ids out. Each [`Scheduler::step`] runs one forward pass with a row for
//! every reply that is being written and a share of somebody's prompt. The scheduler is a plain state
//! machine without threads, clocks or channels of its own, so tests drive it step by step; `worker` owns the
//! thread that calls it.

use crate::constraint::Constraint;
use crate::engine::{End, ImageMark, SamplingParams};
use crate::tokenizer::TokenId;
use crate::vision::ImageHash;

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
    /// Seconds from its first forward pass to its first token.
    pub prefill_s: f64,
    /// Seconds from its first token to its last.
    pub decode_s: f64,
}

/// What a step tells about a job. `Ended` or `Failed` is its last event.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Event {
    /// It has a slot.
    Started(JobId, Start),
    /// So many tokens of its prompt are done.
    Progress(JobId, usize),
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
    /// Jobs that wait for one.
    pub n_waiting: usize,
    /// Cells in use, by running jobs and by what is kept.
    pub n_cells_used: usize,
    /// All cells.
    pub n_cells: usize,
    /// Timelines that are kept without a job.
    pub n_kept: usize,
}
