//! GGUF files: mapped, header checked from first to last byte, offered as metadata and tensors.
//!
//! [`Gguf`] is all parts of one model. Its constructors are the only way in, and they return only
//! files whose header holds together: after them every tensor's bytes are known to lie inside its
//! file, and every key that GGUF or this model family names has the type it must have. Whether the
//! content is a model that can run is `model`'s question.

mod error;
mod file;
mod keys;
mod metadata;
mod payload;
mod read;
mod split;
mod tensors;
mod types;
mod value;
mod write;

pub use error::{GgufError, Item, Label, Place, Problem, escape};
pub use file::{Gguf, Part, Warning};
pub use metadata::Metadata;
pub(crate) use payload::{NotFinite, not_finite};
pub use tensors::TensorInfo;
pub(crate) use tensors::shape;
pub use types::TensorType;
pub use value::{Array, Strings, Value};
pub use write::{HeaderBuilder, Layout};
