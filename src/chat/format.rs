//! How a model's conversations are written: which encoder speaks for it.
//!
//! Models of the family are encoded by the rules of their [`Version`], whatever template their file
//! carries, because only that is equal to what they were trained on.

use super::{ChatRequest, EncodeError, Version, encode};
use crate::engine::Prompt;
use crate::tokenizer::Tokenizer;
use crate::vision::PatchConfig;

/// A way to turn conversations into prompts.
#[derive(Debug, Clone)]
pub enum ChatFormat {
    /// Mistral's own, of this version.
    Mistral(Version),
}

impl ChatFormat {
    /// Encodes a conversation up to the place where the model goes on. Pictures take the tokens that
    /// `patches` gives them.
    pub fn encode(
        &self,
        request: &ChatRequest,
        tokenizer: &Tokenizer,
        patches: &PatchConfig,
    ) -> Result<Prompt, EncodeError> {
        match self {
            ChatFormat::Mistral(version) => encode::encode(request, *version, tokenizer, patches),
        }
    }
}
