//! How a model's conversations are written, by the flags and the model's file.
//!
//! A flag decides; without one, models of the family have our encoder, and others the template
//! that their file carries.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use crate::chat::{ChatFormat, MAX_TEMPLATE_BYTES, Template};
use crate::cli::ReplyArgs;
use crate::tokenizer::Tokenizer;

/// The format to use; `template` is the one of the model's file.
pub(super) fn choose(
    args: &ReplyArgs,
    tokenizer: &Tokenizer,
    template: Option<&str>,
) -> anyhow::Result<ChatFormat> {
    if let Some(path) = &args.chat_template {
        let source = read(path)?;
        let template = Template::parse(&source).with_context(|| path.display().to_string())?;
        return Ok(ChatFormat::Template(Arc::new(template)));
    }
    match args.chat_version {
        Some(version) => Ok(ChatFormat::Mistral(version)),
        None => ChatFormat::of(tokenizer, template).context("the model's own chat template"),
    }
}

/// At most one byte more than a template may have, so that `parse` can say what is wrong.
fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEMPLATE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    String::from_utf8(bytes).with_context(|| format!("{shown} is not UTF-8"))
}
