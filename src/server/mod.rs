//! The local HTTP server: OpenAI's, Mistral's and Anthropic's protocols in front of one runner.
//!
//! ```text
//! http        sockets, limits, keys, hosts; errors and streams as bytes
//!   request   a body -> a conversation, what is asked of the reply, a place in the queue -> ReplyItems
//!     openai, anthropic, responses      ReplyItems -> each protocol's JSON
//! ```
//!
//! Everything here is bounded: bodies, headers, connections, queue, buffers. Text, roles and JSON end here;
//! the runner sees token ids.

mod anthropic;
mod drain;
mod http;
mod logprobs;
mod metrics;
mod names;
mod openai;
mod request;
mod responses;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::chat::ChatFormat;
use crate::runner::{ModelFacts, Runner, State};
use crate::tokenizer::Tokenizer;

pub(crate) use drain::Drain;
pub(crate) use http::{Access, Keys};
pub(crate) use metrics::Metrics;
pub(crate) use names::Names;
pub(crate) use request::Queue;
pub(crate) use run::{Start, WrongUsage, run};

/// What every request needs.
#[derive(Debug)]
pub(crate) struct App {
    /// The model's tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// How its conversations are written.
    pub(crate) format: ChatFormat,
    /// What the model is called.
    pub(crate) names: Names,
    /// Limits and permissions.
    pub(crate) config: Config,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Whether the server is to end.
    pub(crate) drain: Drain,
    /// Where lines about requests go.
    pub(crate) log: Log,
    /// The engine's process.
    pub(crate) runner: Runner,
    /// Who may run, and who waits.
    pub(crate) queue: Arc<Queue>,
    /// What the engine's process told of the model the last time it opened it.
    known: watch::Sender<Option<Arc<ModelFacts>>>,
    /// What the model's file says of itself.
    pub(crate) about: About,
    /// Between sockets and handlers.
    pub(crate) front: http::Front,
}

impl App {
    /// What is known of the opened model; `None` until it was opened once.
    pub(crate) fn facts(&self) -> Option<Arc<ModelFacts>> {
        match self.runner.state() {
            State::Ready(facts) => Some(facts),
            _ => self.known.borrow().clone(),
        }
    }
}

/// What a model's file says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    /// The model's name for people.
    pub(crate) name: String,
    /// The file.
    pub(crate) label: String,
    /// How conversations are written.
    pub(crate) format: String,
    /// When the server was started, in seconds since 1970.
    pub(crate) created: i64,
}

/// How handlers share it.
pub(crate) type SharedApp = Arc<App>;

/// What the flags decide.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Requests that run side by side.
    pub(crate) n_slots: usize,
    /// Requests that may wait.
    pub(crate) n_queue: usize,
    /// Most tokens of a reply, whatever is asked.
    pub(crate) n_max: Option<u32>,
    /// Most bytes of a body.
    pub(crate) n_body: usize,
    /// Which dialect answers have; by the request if `None`.
    pub(crate) dialect: Option<Dialect>,
    /// Which pictures may be fetched.
    pub(crate) fetch: FetchRule,
    /// How long running replies may go on when the server is to end.
    pub(crate) drain: Duration,
}

/// How chat completions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Reasoning beside the content, usage in a chunk of its own.
    OpenAi,
    /// Reasoning as chunks of the content, usage in the last choice's chunk.
    Mistral,
}

/// Which pictures may be fetched from other servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FetchRule {
    /// None at all.
    pub(crate) is_off: bool,
    /// Hosts, lower-case, that may have private addresses and plain http.
    pub(crate) trusted: Vec<String>,
}

/// Where lines about requests go.
#[derive(Clone)]
pub(crate) struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// Lines go to `sink`.
    pub(crate) fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            n_slots: 8,
            n_queue: 64,
            n_max: None,
            n_body: 32 << 20,
            dialect: None,
            fetch: FetchRule::default(),
            drain: Duration::from_secs(10),
        }
    }
}

#[cfg(any(test, fuzzing))]
mod tests;

#[cfg(fuzzing)]
pub use tests::answer_to_body;
