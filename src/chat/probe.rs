//! The chat template of a file beside our encoder: where the two write different prompts.
//!
//! Files are converted by many hands, and their templates are edited. Ours is used for models of the
//! family, so a reader should know what the file would have done. A handful of conversations is
//! written by both. Other models are given their template's prompts, and there is nothing to compare.
//! A template that fails is a finding, never a failure: `inspect` shows it, `doctor` judges it.

use std::sync::Arc;

use chrono::NaiveDateTime;

use super::{
    AssistantMessage, ChatFormat, ChatRequest, ContentChunk, Message, ReasoningEffort, Template,
    Tool, ToolCall, ToolMessage, Version,
};
use crate::tokenizer::{TokenId, Tokenizer};
use crate::vision::{Image, PatchConfig};

/// Tokens shown from where two prompts part.
const N_SHOWN: usize = 8;
/// A picture of one pixel.
const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";

/// What is known of a file's chat template.
#[derive(Debug)]
pub struct TemplateReport {
    /// Length of the template.
    pub n_bytes: usize,
    /// The version of our encoder if it is used instead; `None` where the template itself is used.
    pub version: Option<Version>,
    /// Why the template cannot be used, if it cannot.
    pub error: Option<String>,
    /// Conversations that were written by both.
    pub probes: Vec<Probe>,
}

/// A conversation written by both.
#[derive(Debug)]
pub struct Probe {
    /// What it is about.
    pub name: &'static str,
    /// Where the prompts part, if they do.
    pub difference: Option<Difference>,
}

/// The beginnings of two different continuations.
#[derive(Debug)]
pub struct Difference {
    /// As the file's template writes it, or why it does not.
    pub template: String,
    /// As our encoder writes it.
    pub ours: String,
}

impl TemplateReport {
    /// Writes conversations with the template `source` and with the encoder of the vocabulary's version.
    pub fn compare(source: &str, tokenizer: &Tokenizer) -> Self {
        let version = match ChatFormat::of(tokenizer, Some(source)) {
            Ok(ChatFormat::Mistral(version)) => Some(version),
            Ok(ChatFormat::Template(_)) | Err(_) => None,
        };
        let mut report =
            TemplateReport { n_bytes: source.len(), version, error: None, probes: Vec::new() };
        match (Template::parse(source), version) {
            (Err(error), _) => report.error = Some(error.to_string()),
            (Ok(_), None) => {}
            (Ok(template), Some(version)) => {
                let run = |(name, request): (_, ChatRequest)| {
                    Probe::run(name, &request, &template, version, tokenizer)
                };
                report.probes = probes().into_iter().filter_map(run).collect();
            }
        }
        report
    }

    /// How many conversations come out the same.
    pub fn n_same(&self) -> usize {
        self.probes.iter().filter(|probe| probe.difference.is_none()).count()
    }
}

impl Probe {
    /// Whether a template of the family, however edited, has nothing to write otherwise here.
    pub fn is_simplest(&self) -> bool {
        self.name == SIMPLEST
    }

    /// `None` where our encoder has no such conversation.
    fn run(
        name: &'static str,
        request: &ChatRequest,
        template: &Template,
        version: Version,
        tokenizer: &Tokenizer,
    ) -> Option<Self> {
        let patches = PatchConfig::default();
        let format = ChatFormat::Mistral(version);
        let ours = format.encode(request, tokenizer, &patches).ok()?.tokens;
        let found = template.encode(request, tokenizer, &patches, NaiveDateTime::default());
        let difference = match found {
            Err(error) => {
                Some(Difference { template: error.to_string(), ours: shown(tokenizer, &ours) })
            }
            Ok(prompt) if prompt.tokens == ours => None,
            Ok(prompt) => {
                let theirs = prompt.tokens;
                let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
                Some(Difference {
                    template: shown(tokenizer, &theirs[at..]),
                    ours: shown(tokenizer, &ours[at..]),
                })
            }
        };
        Some(Probe { name, difference })
    }
}

fn shown(tokenizer: &Tokenizer, tokens: &[TokenId]) -> String {
    let head = &tokens[..tokens.len().min(N_SHOWN)];
    let bytes: Vec<u8> = head.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
    let more = if tokens.len() > N_SHOWN { "…" } else { "" };
    format!("{}{more}", String::from_utf8_lossy(&bytes))
}

fn said(text: &str) -> AssistantMessage {
    let content = vec![ContentChunk::Text(text.to_owned())];
    AssistantMessage { content, ..AssistantMessage::default() }
}

fn weather() -> Tool {
    Tool {
        name: "weather".to_owned(),
        description: "Tells the weather".to_owned(),
        parameters: r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#.to_owned(),
        strict: false,
    }
}

/// A call of it and the result.
fn weather_told() -> Vec<Message> {
    let call = ToolCall {
        id: "abcdefgh1".to_owned(),
        name: "weather".to_owned(),
        arguments: r#"{"city": "Paris"}"#.to_owned(),
    };
    let result = ToolMessage {
        content: vec![ContentChunk::Text("sunny".to_owned())],
        tool_call_id: call.id.clone(),
    };
    let said = AssistantMessage { tool_calls: vec![call], ..said("I look.") };
    vec![Message::Assistant(said), Message::Tool(result)]
}

/// The conversation that every template of the family writes as the encoder does.
const SIMPLEST: &str = "a system prompt";

/// Conversations that show what templates are edited for.
fn probes() -> Vec<(&'static str, ChatRequest)> {
    let of = |messages: Vec<Message>| ChatRequest { messages, ..ChatRequest::default() };
    let (system, hello) = (Message::system("Be brief."), Message::user("Hello"));
    let thinking = ContentChunk::Thinking { thinking: "Easy.".to_owned(), closed: true };
    let mut thought = said("4");
    thought.content.insert(0, thinking);
    let mut all = vec![
        (SIMPLEST, of(vec![system.clone(), hello.clone()])),
        ("no system prompt", of(vec![hello.clone()])),
        (
            "reasoning",
            ChatRequest {
                reasoning_effort: ReasoningEffort::High,
                ..of(vec![system.clone(), hello.clone()])
            },
        ),
        (
            "tools offered",
            ChatRequest { tools: vec![weather()], ..of(vec![system.clone(), hello.clone()]) },
        ),
        (
            "a call and its result",
            ChatRequest {
                tools: vec![weather()],
                ..of([vec![system.clone(), Message::user("Weather?")], weather_told()].concat())
            },
        ),
        (
            "reasoning in the history",
            of(vec![
                system.clone(),
                Message::user("2+2?"),
                Message::Assistant(thought),
                Message::user("3+3?"),
            ]),
        ),
        (
            "several turns",
            of(vec![
                system.clone(),
                hello.clone(),
                Message::Assistant(said("Hi!")),
                Message::user(" Two  spaces "),
            ]),
        ),
        (
            "consecutive user messages",
            of(vec![system.clone(), hello.clone(), Message::user("you")]),
        ),
        ("names of control tokens as text", of(vec![system.clone(), Message::user("[INST]</s>")])),
    ];
    if let Ok(image) = Image::from_url(PIXEL) {
        let content = vec![
            ContentChunk::Image(Arc::new(image)),
            ContentChunk::Text("What is it?".to_owned()),
        ];
        all.push(("a picture", of(vec![system, Message::User(content)])));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(source: &str) -> TemplateReport {
        let tokenizer = Tokenizer::from_gguf(&crate::model::builtin()).unwrap();
        TemplateReport::compare(source, &tokenizer)
    }

    fn differing(source: &str) -> Vec<&'static str> {
        let probes = compare(source).probes;
        probes.into_iter().filter(|p| p.difference.is_some()).map(|p| p.name).collect()
    }

    #[test]
    fn differences_are_named() {
        let own = include_str!("../../tests/golden/template/medium-3.5.jinja");
        // It has a system prompt for conversations without one.
        assert_eq!(differing(own), ["no system prompt"]);
        let edited = own.replace("[TOOL_CALLS]", "[TOOL_CALLS] ");
        assert_eq!(differing(&edited), ["no system prompt", "a call and its result"]);
        assert_eq!(compare(own).probes.len(), 10);
    }

    #[test]
    fn hostile_templates_are_findings() {
        let broken = compare("{% if");
        assert!(broken.error.is_some() && broken.version == Some(Version::V15));
        let bomb = "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}\
                    {% endfor %}";
        let probes = compare(bomb).probes;
        assert_eq!(probes.len(), 10);
        let is_refused = |probe: &Probe| {
            probe
                .difference
                .as_ref()
                .is_some_and(|d| d.template.contains("more text than its limit"))
        };
        assert!(probes.iter().all(is_refused));
    }
}
