//! The engine.

pub mod sampler;

pub use sampler::{Sampler, SamplingError, SamplingParams};
