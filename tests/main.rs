//! All integration tests in one binary.

mod answer;
mod model;
mod tokenizer;
