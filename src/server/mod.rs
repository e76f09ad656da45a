//! The local HTTP server: OpenAI's, Mistral's and Anthropic's protocols in front of one worker.
//!
//! ```text
//! http        sockets, limits, keys, hosts; errors and streams as bytes
//!   request   a body -> a conversation, what is asked of the reply, a place in the queue -> ReplyItems
//!     openai, anthropic, responses      ReplyItems -> each protocol's JSON
//! ```
//!
//! Everything here is bounded: bodies, headers, connections, queue, buffers. Text, roles and JSON end here;
//! the worker sees token ids.

mod anthropic;
mod http;
mod openai;
mod request;
mod responses;

use std::sync::Arc;

use crate::chat::ChatFormat;
use crate::tokenizer::Tokenizer;

/// What every request needs.
#[derive(Debug)]
pub(crate) struct App {
    /// The model's tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// How its conversations are written.
    pub(crate) format: ChatFormat,
}

/// How handlers share it.
pub(crate) type SharedApp = Arc<App>;
