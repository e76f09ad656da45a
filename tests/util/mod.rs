//! What tests of several parts need.

pub(crate) mod gguf_writer;
