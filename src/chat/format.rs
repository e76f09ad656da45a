//! How a model's conversations are written: which encoder speaks for it.
//!
//! Models of the family are encoded by the rules of their [`Version`], whatever template their file
//! carries, because only that is equal to what they were trained on. A [`Template`] is for others,
//! and for who asks for one.

use std::sync::Arc;

use super::{
    Change, ChatRequest, EncodeError, Template, TemplateError, Version, encode, normalise,
};
use crate::engine::Prompt;
use crate::tokenizer::Tokenizer;
use crate::vision::PatchConfig;

/// A way to turn conversations into prompts.
#[derive(Debug, Clone)]
pub enum ChatFormat {
    /// Mistral's own, of this version.
    Mistral(Version),
    /// A template's.
    Template(Arc<Template>),
}

impl ChatFormat {
    /// The format of a model: our encoder's for the family, known by its control tokens, else that
    /// of the template which its file carries.
    pub fn of(tokenizer: &Tokenizer, template: Option<&str>) -> Result<Self, TemplateError> {
        let is_family =
            ["[INST]", "[/INST]"].iter().all(|name| tokenizer.control_token(name).is_some());
        match template {
            Some(source) if !is_family => {
                Ok(ChatFormat::Template(Arc::new(Template::parse(source)?)))
            }
            _ => Ok(ChatFormat::Mistral(Version::of(tokenizer))),
        }
    }

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
            ChatFormat::Template(template) => {
                let now = chrono::Local::now().naive_local();
                Ok(template.encode(request, tokenizer, patches, now)?)
            }
        }
    }

    /// The version whose replies are to be expected.
    pub(super) fn version(&self, tokenizer: &Tokenizer) -> Version {
        match self {
            ChatFormat::Mistral(version) => *version,
            ChatFormat::Template(_) => Version::of(tokenizer),
        }
    }

    /// The conversation as this format can hold it, and what was altered. Templates have rules of
    /// their own and say so themselves.
    pub fn normalise(&self, request: ChatRequest) -> (ChatRequest, Vec<Change>) {
        match self {
            ChatFormat::Mistral(version) => normalise(request, *version),
            ChatFormat::Template(_) => normalise(request, Version::V15),
        }
    }
}
