//! The engine in a process of its own, and the way to it.
//!
//! `gust serve` starts its own program again as `gust runner`, which opens the model and runs the scheduler.
//! Whatever kills that process (a failed assertion of ggml, a GPU's fault, a truncated file, the kernel's
//! OOM killer) ends the requests that were in it with an error, and it is started again. Between the two go
//! frames over the runner's stdin and stdout: token ids, pixels, sampling and rules in, token ids out.
//! No text, no sockets and no JSON reach the runner.
//!
//! `child` is the runner's side: three threads around the scheduler. [`Runner`] is the front's: `supervisor`
//! keeps a process alive, `routes` knows which request each report belongs to, `outgoing` what is to be sent, and
//! `front` is what callers hold of them. `frame` lies between the two sides.

mod child;
mod frame;
mod front;
mod outgoing;
mod routes;
mod supervisor;

pub use child::{refuse, serve};
pub use frame::FrameError;
pub use front::{Brake, JobStream, Lost, NewJob, PrepareError, Prepared, Runner};
pub use supervisor::{PATIENCE, RunnerCommand};

use crate::constraint::ReplyRules;
use crate::engine::{End, ImageMark, SamplingParams};
use crate::scheduler::{Event, JobId, Load, Logprobs, Spent, Start};
use crate::tokenizer::{TokenId, Tokenizer};
use crate::vision::{ImageHash, ImagePatches, PatchConfig};

/// What the front has to know of an opened model.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelFacts {
    /// Most tokens of one request, and of all that are kept.
    pub n_ctx: usize,
    /// The context that the model was trained for.
    pub n_ctx_train: usize,
    /// How pictures are cut; `None` if the model cannot see.
    pub patches: Option<PatchConfig>,
    /// Requests that run side by side.
    pub n_slots: usize,
    /// [`vocabulary_hash`] of its tokenizer: the front's must have the same.
    pub vocabulary: [u8; 32],
}

/// Names a vocabulary: ids mean the same to two tokenizers with the same hash.
pub fn vocabulary_hash(tokenizer: &Tokenizer) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // Every list and every token goes in with its length, so that no two vocabularies run together.
    hasher.update(&(tokenizer.n_vocab() as u64).to_le_bytes());
    for id in 0..tokenizer.n_vocab() as TokenId {
        let bytes = tokenizer.token_bytes(id);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
        hasher.update(&[u8::from(tokenizer.is_control(id))]);
    }
    hasher.update(&tokenizer.bos().to_le_bytes());
    hasher.update(&tokenizer.eos().to_le_bytes());
    hasher.finalize().into()
}

/// What the front asks of the runner.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum Request {
    /// Compiles what the reply to job `id` must be like; answered by [`Report::Prepared`].
    Prepare(JobId, ReplyRules),
    /// Starts a job; what was prepared under its id holds its reply.
    Submit(Submission),
    /// Ends a job, or forgets what was prepared for it.
    Cancel(JobId),
    /// Does not advance the job until it is resumed: its reader is slow.
    Pause(JobId),
    /// Advances it again.
    Resume(JobId),
    /// The pixels that were asked for.
    Picture(ImageHash, ImagePatches),
}

/// One reply to be written.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Submission {
    /// Its name, unique for the front's life.
    pub id: JobId,
    /// The full prompt.
    pub tokens: Vec<TokenId>,
    /// Its pictures.
    pub images: Vec<ImageMark>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Whether a [`Request::Prepare`] with this id went before.
    pub is_prepared: bool,
    /// Most tokens of the reply.
    pub n_max: usize,
    /// Log-probabilities, see [`crate::scheduler::Job::n_logprobs`].
    pub n_logprobs: Option<usize>,
    /// See [`crate::scheduler::Job::affinity`].
    pub affinity: Option<u64>,
}

/// What the runner tells the front.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum Report {
    /// The model is open.
    Ready(ModelFacts),
    /// It cannot be opened; the runner ends.
    Refused(String),
    /// It cannot be opened with these flags, whatever the file; the runner ends.
    WrongUsage(String),
    /// What was to be compiled: the notes about it, or the field at fault and what is wrong with it.
    Prepared(JobId, Result<Vec<String>, (String, String)>),
    /// Events of one step, in their order, and how busy it is since.
    Step(Vec<Event>, Load),
}

/// What happens to a job, as the front sees it. After `Ended`, `Failed` or `Lost` nothing follows.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    /// It has a slot.
    Started(Start),
    /// So many tokens of its prompt are done, and this is what they took.
    Progress(usize, Spent),
    /// Its next token.
    Token(TokenId, Option<Logprobs>),
    /// It is complete.
    Ended(End, Spent),
    /// It could not be completed.
    Failed(String),
    /// The runner has died.
    Lost(String),
}

/// How the runner does.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It opens the model, for the first time or again after what the text tells.
    Loading(Option<String>),
    /// It serves.
    Ready(std::sync::Arc<ModelFacts>),
    /// It cannot be started, for this reason; tried again now and then.
    Failed(String),
    /// It cannot be started with these flags; tried again, since devices may come back.
    WrongUsage(String),
    /// It was told to end.
    Stopped,
}
