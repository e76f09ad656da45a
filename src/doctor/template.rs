//! The chat template that a file brings along for programs that need one.
//!
//! This program writes conversations by the rules of the vocabulary's version and needs no template, so
//! a fault here harms users of other programs. A template is foreign if it writes the simplest of
//! conversations otherwise than the model was trained on; what it does with rarer ones is often edited on
//! purpose. The template of the built-in model is the one that belongs to its version.

use super::{Area, Edit, Finding, Findings, Subject, as_repaired, key_place};
use crate::chat::{ChatFormat, TemplateReport, Version};
use crate::gguf::{Gguf, Value, escape};
use crate::model;
use crate::tokenizer::Tokenizer;

const KEY: &str = "tokenizer.chat_template";

/// Conversations that templates of the family are known to write otherwise, and may: they greet with a
/// system prompt of their own, and refuse neighbours of one role.
const TOLERATED: &[&str] = &["no system prompt", "consecutive user messages"];

/// Looks at the template of a language model; `given` is what the user wants in its place.
pub(super) fn examine(gguf: &Gguf, given: Option<&str>, all: &mut Vec<Finding>) {
    let repaired = as_repaired(gguf, Subject::Model, all);
    let Some(tokenizer) = repaired.and_then(|gguf| Tokenizer::from_gguf(&gguf).ok()) else {
        return;
    };
    let Ok(ChatFormat::Mistral(version)) = ChatFormat::of(&tokenizer, Some("")) else { return };
    let findings = &mut Findings::new(gguf, Area::Template, Subject::Model, all);
    let own = || given.map(str::to_owned).or_else(|| template_of(version));
    let Ok(Some(source)) = gguf.metadata().str(KEY) else {
        let finding = findings.warning("chat-template-missing", key_place(KEY));
        finding
            .expected(format!("a template of {}", version.name()))
            .found("nothing")
            .means("other programs write conversations in a format that they guess");
        return replace(finding, own());
    };
    let report = TemplateReport::compare(source, &tokenizer);
    if let Some(error) = &report.error {
        let finding = findings.error("chat-template-broken", key_place(KEY));
        finding
            .expected("a template that can be rendered")
            .found(escape(error.as_bytes()))
            .means("other programs cannot write conversations");
        return replace(finding, own());
    }
    let differing: Vec<_> =
        report.probes.iter().filter(|probe| probe.difference.is_some()).collect();
    if let Some(difference) =
        differing.iter().find(|probe| probe.is_simplest()).and_then(|p| p.difference.as_ref())
    {
        let finding = findings.error("chat-template-foreign", key_place(KEY));
        finding
            .expected(escape(difference.ours.as_bytes()))
            .found(escape(difference.template.as_bytes()))
            .means("in other programs the model sees conversations that it was not trained on");
        return replace(finding, own());
    }
    let names: Vec<_> =
        differing.iter().map(|probe| probe.name).filter(|name| !TOLERATED.contains(name)).collect();
    if !names.is_empty() {
        let finding = findings.note("chat-template-differs", key_place(KEY));
        finding
            .expected(format!("the prompts of {}", version.name()))
            .found(format!("others with {}", names.join(", ")))
            .means(
                "other programs write these conversations otherwise than the model was trained on",
            );
        let how = "gust inspect shows the differences; --template FILE with --fix replaces it";
        match given {
            Some(given) if given != source => replace(finding, own()),
            _ => finding.by_hand(how),
        }
    }
}

fn replace(finding: &mut Finding, template: Option<String>) {
    match template {
        Some(text) => {
            let how = format!("set a template of {} bytes", text.len());
            finding.fix(how, vec![Edit::Set(KEY.to_owned(), Value::String(text))]);
        }
        None => finding.by_hand("pass the model's chat_template.jinja with --template"),
    }
}

/// The template that belongs to a version, where there is one in this program.
fn template_of(version: Version) -> Option<String> {
    let source = model::builtin().metadata().str(KEY).ok()??.to_owned();
    (version == Version::V15).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_at_hand_is_of_its_version() {
        let tokenizer = Tokenizer::from_gguf(&model::builtin()).unwrap();
        assert_eq!(Version::of(&tokenizer), Version::V15);
        let report = TemplateReport::compare(&template_of(Version::V15).unwrap(), &tokenizer);
        assert_eq!((report.n_same(), report.probes.len()), (10, 10));
        assert_eq!(template_of(Version::V13), None);
    }
}
