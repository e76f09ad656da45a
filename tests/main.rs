//! All integration tests in one binary.

mod bench;
mod model;
