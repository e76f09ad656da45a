//! A chat completion as one body.

use serde::Serialize;

use super::answer::{Answer, Detail, Part, WireCall};
use super::wire::{ChatLogprobs, finish_name};
use crate::chat::{
    AssistantMessage, ContentChunk, FinishReason, ReplyCollector, ReplyEvent, ToolCall,
};
use crate::server::request::{ScoredToken, Usage};
use crate::tokenizer::Tokenizer;

/// Gathers the replies of one answer.
#[derive(Debug)]
pub(super) struct ChatBody {
    answer: Answer,
    choices: Vec<Gathered>,
}

#[derive(Debug, Clone, Default)]
struct Gathered {
    reply: ReplyCollector,
    tokens: Vec<ScoredToken>,
}

#[derive(Serialize)]
struct WireChoice<'a> {
    index: usize,
    message: WireMessage<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_details: Option<[Detail<'a>; 1]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireCall<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(Option<&'a str>),
    Parts(Vec<Part<'a>>),
}

impl ChatBody {
    /// A body for an answer.
    pub(super) fn new(answer: Answer) -> Self {
        let choices = vec![Gathered::default(); answer.n];
        ChatBody { answer, choices }
    }

    /// Takes a piece of reply `choice`.
    pub(super) fn push(&mut self, choice: usize, event: &ReplyEvent, tokens: Vec<ScoredToken>) {
        let Some(gathered) = self.choices.get_mut(choice) else { return };
        let is_reasoning = matches!(event, ReplyEvent::Reasoning(_));
        if self.answer.hides_reasoning && is_reasoning {
            return;
        }
        gathered.reply.push(event);
        gathered.tokens.extend(tokens);
    }

    /// The body.
    pub(super) fn finish(self, usage: &Usage, tokenizer: &Tokenizer) -> String {
        let ChatBody { answer, choices } = self;
        let said: Vec<Said> = choices.into_iter().map(Said::new).collect();
        let choice = |(index, said)| WireChoice::new(index, said, &answer, tokenizer);
        let choices: Vec<WireChoice<'_>> = said.iter().enumerate().map(choice).collect();
        let body = answer.head.piece("chat.completion", &choices, Some(usage));
        serde_json::to_string(&body).expect("our answers have string keys only")
    }
}

/// A complete reply.
struct Said {
    message: AssistantMessage,
    /// All texts of the message, and all its reasoning.
    text: String,
    reasoning: String,
    reason: FinishReason,
    tokens: Vec<ScoredToken>,
}

impl Said {
    fn new(Gathered { reply, tokens }: Gathered) -> Self {
        let reason = reply.finish().unwrap_or(FinishReason::Stop);
        let message = reply.into_message();
        let (mut text, mut reasoning) = (String::new(), String::new());
        for chunk in &message.content {
            match chunk {
                ContentChunk::Text(more) => text.push_str(more),
                ContentChunk::Thinking { thinking, .. } => reasoning.push_str(thinking),
                ContentChunk::Image(_) => {}
            }
        }
        Said { message, text, reasoning, reason, tokens }
    }

    /// The content where reasoning is a part of it. A text alone stays a text.
    fn parts<'a>(&'a self) -> Content<'a> {
        let part = |chunk: &'a ContentChunk| match chunk {
            ContentChunk::Text(text) => Some(Part::Text { text }),
            ContentChunk::Thinking { thinking, closed } => {
                Some(Part::thinking(thinking, Some(*closed)))
            }
            ContentChunk::Image(_) => None,
        };
        match self.reasoning.is_empty() {
            true => Content::Text(Some(&self.text)),
            false => Content::Parts(self.message.content.iter().filter_map(part).collect()),
        }
    }
}

impl<'a> WireChoice<'a> {
    fn new(index: usize, said: &'a Said, answer: &Answer, tokenizer: &'a Tokenizer) -> Self {
        let calls = &said.message.tool_calls;
        let (has_chunks, has_reasoning) = (answer.has_chunks(), !said.reasoning.is_empty());
        let beside = (!has_chunks && has_reasoning).then_some(said.reasoning.as_str());
        let content = match has_chunks {
            true => said.parts(),
            // OpenAI's clients tell a call without words by this.
            false => Content::Text(
                (calls.is_empty() || !said.text.is_empty()).then_some(said.text.as_str()),
            ),
        };
        let call = |(index, call): (usize, &'a ToolCall)| {
            WireCall::new(index, &call.id, &call.name, &call.arguments)
        };
        let message = WireMessage {
            role: "assistant",
            content,
            reasoning_content: beside,
            reasoning: beside,
            reasoning_details: beside.and_then(|text| answer.details(text)),
            tool_calls: calls.iter().enumerate().map(call).collect(),
            refusal: None,
        };
        WireChoice {
            index,
            message,
            logprobs: ChatLogprobs::new(&said.tokens, tokenizer),
            finish_reason: finish_name(said.reason),
        }
    }
}
