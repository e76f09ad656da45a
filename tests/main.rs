//! The integration tests, one binary.
//!
//! Each module tests one part, through the program or its library; `util` is what they share.

mod answer;
mod bench;
mod builds;
mod chat;
mod checkpoint;
mod constraint;
mod convert;
#[cfg(feature = "rpc")]
mod devices;
mod doctor;
mod engine;
mod export;
mod gguf;
mod imatrix;
mod model;
mod plan;
mod quantize;
#[cfg(feature = "rpc")]
mod remote;
mod runner;
mod server;
mod tidy;
mod tokenizer;
mod types;
mod util;
mod vision;
mod vision_tower;
