//! The `tokenizer` layer.
