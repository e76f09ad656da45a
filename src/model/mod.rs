//! The `model` layer.
