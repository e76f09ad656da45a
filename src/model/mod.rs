//! What a model is: its facts, its shape, its tensors, and whether a file really holds them.
//!
//! [`validate`] is the gate between a file and everything that computes: behind it every number is
//! in range, every tensor has the expected name, shape and class of type, and the vocabulary is
//! consistent, so that nothing below needs to look again.

mod builtin;
mod cuts;
mod error;
mod hparams;
mod keys;
mod kv_cache;
mod linear;
mod loader;
mod medium;
mod memory;
mod metadata;
mod mix;
mod parts;
mod placement;
mod projector;
mod rope;
mod spec;
mod text_graph;
mod vision_graph;
mod vision_spec;
mod vision_weights;
mod vocab;
mod weights;

pub use builtin::{builtin, builtin_mmproj};
pub use cuts::cuts;
pub use error::ModelError;
pub(crate) use error::listed;
pub use hparams::{Hparams, YarnPolicy};
pub(crate) use hparams::{MAX_HEAD_LEN, MAX_HEADS, MAX_VOCAB, MAX_WIDTH};
pub(crate) use keys::MAX_LAYERS;
pub use kv_cache::{CellPool, Cells, KvCache};
pub use linear::Linear;
pub use medium::{MEDIUM_3_5, ModelSpec, StatedYarn, medium_3_5};
pub use memory::{kv_bytes, kv_bytes_per_token, weight_bytes};
pub use metadata::metadata_of;
pub use mix::{Facts, MIXES, Mix, Part, fitting};
pub use placement::{Override, Placement};
pub use projector::{Activation, Projector};
pub use rope::{AttnTemperature, Rope, RopeScaling};
pub use spec::{Architecture, ExpectedTensor, TypeClass, check_tensors, expected_tensors};
pub use text_graph::{
    ImageInputs, InputSums, ListShape, SummedInput, TextGraph, TextInputs, TextShape,
};
pub use vision_graph::{VisionGraph, VisionStage, VisionState, lay_out};
pub use vision_spec::{check_mmproj, check_vision_tensors, expected_vision_tensors};
pub use vision_weights::{VisionLayer, VisionWeights};
pub use vocab::{check_vocab, vocab_faults};
pub use weights::{Layer, Weights};

use crate::gguf::Gguf;
pub use crate::gguf::Warning;

/// Reads the shape of the model in `gguf` and checks everything that does not need its weights.
pub fn validate(gguf: &Gguf, yarn: YarnPolicy) -> Result<(Hparams, Vec<Warning>), ModelError> {
    let (hparams, mut warnings) = Hparams::from_gguf(gguf, yarn)?;
    check_vocab(gguf, &hparams)?;
    warnings.extend(check_tensors(gguf, &hparams)?);
    Ok((hparams, warnings))
}
