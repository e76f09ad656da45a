//! Chat completions, completions and fill-in-the-middle, as OpenAI and Mistral have them.
//!
//! ```text
//! chat, completions, fim     handlers: a request -> a generation -> an answer
//!   chunks, message, text    writers: ReplyItems -> JSON, as a stream or as one body
//!     answer, wire           what they share
//! dialect                    which of the two protocols a client of chat completions reads
//! ```

mod answer;
mod chat;
mod chunks;
mod completions;
mod dialect;
mod fim;
mod message;
mod reply;
#[cfg(test)]
mod tests;
mod text;
mod wire;

pub(crate) use chat::chat_completions;
pub(crate) use completions::completions;
pub(crate) use fim::fim_completions;
