//! How a model's conversations are written, by the flags and the model's file.
//!
//! A flag decides; without one, models of the family have our encoder, and others the template
//! that their file carries.

use std::sync::Arc;

use anyhow::Context;

use crate::chat::{ChatFormat, MAX_TEMPLATE_BYTES, Template};
use crate::cli::FormatArgs;
use crate::term::files::read_text;
use crate::tokenizer::Tokenizer;

/// The format that the flags choose, if they do: known, with its faults, before any model is loaded.
pub(super) fn of_flags(args: &FormatArgs) -> anyhow::Result<Option<ChatFormat>> {
    if let Some(path) = &args.chat_template {
        let source = read_text(path, MAX_TEMPLATE_BYTES as u64)?;
        let template = Template::parse(&source).with_context(|| path.display().to_string())?;
        return Ok(Some(ChatFormat::Template(Arc::new(template))));
    }
    Ok(args.chat_version.map(ChatFormat::Mistral))
}

/// The format of a model for which no flag chooses one; `template` is the one of its file.
pub(super) fn of_model(
    tokenizer: &Tokenizer,
    template: Option<&str>,
) -> anyhow::Result<ChatFormat> {
    ChatFormat::of(tokenizer, template).context("the model's own chat template")
}
