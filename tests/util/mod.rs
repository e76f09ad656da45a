//! What tests of several parts need.
//!
//! Each file makes one kind of input, from valid to hostile.

pub(crate) mod checkpoint;
pub(crate) mod gguf_writer;
pub(crate) mod http;
