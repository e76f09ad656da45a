//! The `gguf` layer.
