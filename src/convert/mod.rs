//! From a folder of safetensors to what a GGUF file shall hold.
//!
//! [`Checkpoint::open`] reads Hugging Face's layout and Mistral's own, checks everything that does not need
//! the weights' values, and offers every tensor under its GGUF name as a [`Source`](crate::export::Source).
//! Both layouts give the same data: from here on nobody asks where a tensor came from.

mod about;
mod chat_template;
mod checkpoint;
mod config;
mod description;
#[cfg(test)]
mod description_tests;
mod error;
mod general;
mod generation;
mod img_break;
mod index;
mod json;
mod layout;
mod metadata;
mod model_card;
mod names;
mod naming;
mod params;
mod plan;
mod positions;
mod quantization;
mod safetensors;
#[cfg(test)]
mod safetensors_tests;
mod side_file;
mod tensors;
mod tower;
mod vocabulary;

pub use about::About;
pub use checkpoint::{Checkpoint, Kind, NamedSource, Reading};
pub use error::CheckpointError;
pub use layout::Layout;
pub use metadata::{LICENSE, SYSTEM_PROMPT, text_metadata, vision_metadata};
pub use plan::{Places, Plan, main_encoding, plan};
pub use safetensors::{Dtype, HeaderError, StoredTensor, read_safetensors};
