//! gust runs quantized GGUF files of Mistral Medium 3.5 (and its siblings).
//!
//! The way of a request, from top to bottom; nothing flows back:
//!
//! ```text
//! cmd, term            a command line, or a line typed into the REPL
//!   vision             files of pictures   -> pixels, a grid of tokens
//!   chat::ChatFormat   messages            -> token ids         (v15 and older, or a template)
//!   engine::Session    full prompt         -> reused prefix + forward passes
//!   model              tokens and pictures -> logits            (the graphs, on ggml)
//!   engine::Sampler    logits              -> one token id      (that constraint allows)
//!   chat::ReplyParser  token id            -> ReplyEvent         (reasoning, text, tool calls)
//!   term               ReplyEvent          -> characters
//! ```
//!
//! The server goes the same way with two processes: `server` encodes and parses, `runner` carries token ids
//! to and fro, and `scheduler` takes the session's place, with many requests in each forward pass.
//!
//! `src/README.md` is the map of the house.

pub mod bench;
pub mod chat;
pub mod cli;
pub mod cmd;
pub mod constraint;
mod contain;
pub mod convert;
pub mod doctor;
pub mod engine;
pub mod export;
pub mod ggml;
pub mod gguf;
pub mod imatrix;
pub mod mapped;
pub mod model;
pub mod perplexity;
pub mod plan;
pub mod quantize;
#[cfg(feature = "rpc")]
pub mod remote;
pub mod runner;
pub mod scheduler;
mod server;
pub mod split;
pub mod term;
pub mod tokenizer;
pub mod vision;

#[cfg(fuzzing)]
pub use server::answer_to_body;
