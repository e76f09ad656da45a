//! All integration tests in one binary.

mod engine;
mod model;
mod tidy;
mod tokenizer;
mod types;
