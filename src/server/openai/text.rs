//! Completions of plain text: one object for pieces and wholes, a choice for each reply to each prompt.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::wire::{DONE, Head, finish_name, push_event, push_failure};
use crate::chat::{FinishReason, ReplyEvent};
use crate::server::http::ApiError;
use crate::server::logprobs::{finite, token_text};
use crate::server::request::{ReplyItem, ScoredToken, Usage};
use crate::tokenizer::{Tokenizer, Utf8Stream};

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct TextAnswer {
    /// What is the same in all its pieces.
    pub(super) head: Head,
    /// Prompts, each with what stands before its replies: itself, or nothing.
    pub(super) echoes: Vec<String>,
    /// Replies to each prompt.
    pub(super) n: usize,
    /// Whether a stream's usage comes in a chunk of its own.
    pub(super) has_usage_chunk: bool,
}

/// The writer of an answer. Items are those of the replies to prompt `prompt`.
#[derive(Debug)]
pub(super) struct TextWriter {
    answer: TextAnswer,
    tokenizer: Tokenizer,
    choices: Vec<Choice>,
    usage: Usage,
    n_done: usize,
    /// The choice that ended last; in a stream, its end is not yet written.
    held: Option<usize>,
}

#[derive(Debug, Default)]
struct Choice {
    /// What is not written yet.
    text: String,
    tokens: Vec<ScoredToken>,
    reason: Option<FinishReason>,
    /// Where the next token's text begins, in characters.
    offset: usize,
    utf8: Utf8Stream,
}

const OBJECT: &str = "text_completion";

#[derive(Serialize)]
struct WireChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Option<TextLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct TextLogprobs<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

impl TextWriter {
    /// The writer of an answer.
    pub(super) fn new(answer: TextAnswer, tokenizer: Tokenizer) -> Self {
        let echoes = answer.echoes.iter().flat_map(|echo| std::iter::repeat_n(echo, answer.n));
        let choice = |echo: &String| Choice {
            text: echo.clone(),
            offset: echo.chars().count(),
            ..Choice::default()
        };
        let choices = echoes.map(choice).collect();
        let usage = Usage::default();
        TextWriter { answer, tokenizer, choices, usage, n_done: 0, held: None }
    }

    /// Takes an item; says whether the answer is complete by it.
    pub(super) fn take(&mut self, prompt: usize, item: ReplyItem) -> Result<bool, ApiError> {
        match item {
            ReplyItem::Started(_) => {}
            ReplyItem::Event { choice, event, tokens } => {
                let index = prompt * self.answer.n + choice;
                if let Some(choice) = self.choices.get_mut(index) {
                    choice.tokens.extend(tokens);
                    match event {
                        ReplyEvent::Text(text) | ReplyEvent::Reasoning(text) => {
                            choice.text.push_str(&text);
                        }
                        ReplyEvent::Finished { reason, .. } => choice.reason = Some(reason),
                        ReplyEvent::ToolCallStarted { .. } | ReplyEvent::ToolCallArguments(_) => {}
                    }
                }
            }
            ReplyItem::Done(usage) => {
                self.usage = sum(&self.usage, &usage);
                self.n_done += 1;
            }
            ReplyItem::Failed(error, usage) => {
                self.usage = sum(&self.usage, &usage);
                return Err(error);
            }
        }
        Ok(self.n_done == self.answer.echoes.len())
    }

    /// The whole answer.
    pub(super) fn finish(mut self) -> String {
        let mut choices = std::mem::take(&mut self.choices);
        let tokenizer = &self.tokenizer;
        let choices = choices.iter_mut().enumerate();
        let choices =
            choices.map(|(index, choice)| choice.wire(index, tokenizer)).collect::<Vec<_>>();
        serde_json::to_string(&self.answer.head.piece(OBJECT, &choices, Some(&self.usage)))
            .expect("our answers have string keys only")
    }

    /// Appends the events that an item becomes.
    pub(super) fn push(&mut self, prompt: usize, item: ReplyItem, out: &mut String) {
        let index = match &item {
            ReplyItem::Event { choice, .. } => Some(prompt * self.answer.n + choice),
            _ => None,
        };
        match self.take(prompt, item) {
            Ok(false) => {}
            Ok(true) => return self.end(out),
            Err(error) => {
                self.release(None, out);
                return push_failure(&error, &self.usage, out);
            }
        }
        let Some(choice) = index.and_then(|index| self.choices.get(index)) else { return };
        if choice.reason.is_some() {
            self.release(None, out);
            self.held = index;
        } else if !choice.text.is_empty() {
            self.write(index, None, out);
        }
    }

    fn end(&mut self, out: &mut String) {
        let usage = self.usage;
        if self.answer.has_usage_chunk {
            self.release(None, out);
            self.write(None, Some(&usage), out);
        } else {
            self.release(Some(&usage), out);
        }
        out.push_str(DONE);
    }

    fn release(&mut self, usage: Option<&Usage>, out: &mut String) {
        if let Some(index) = self.held.take() {
            self.write(Some(index), usage, out);
        }
    }

    /// Writes what choice `index` has, or nothing of any choice.
    fn write(&mut self, index: Option<usize>, usage: Option<&Usage>, out: &mut String) {
        let mut choices = std::mem::take(&mut self.choices);
        let choice = index.map(|index| choices[index].wire(index, &self.tokenizer));
        push_event(&self.answer.head.piece(OBJECT, choice.as_slice(), usage), out);
        if let Some(index) = index {
            choices[index].text.clear();
            choices[index].tokens.clear();
        }
        self.choices = choices;
    }
}

impl Choice {
    fn wire<'a>(&'a mut self, index: usize, tokenizer: &'a Tokenizer) -> WireChoice<'a> {
        let logprobs = (!self.tokens.is_empty()).then(|| {
            let mut logprobs = TextLogprobs::default();
            for scored in &self.tokens {
                logprobs.tokens.push(token_text(scored.id, tokenizer));
                logprobs.token_logprobs.push(finite(scored.logprobs.chosen).into());
                logprobs.text_offset.push(self.offset);
                self.offset += self.utf8.push(&tokenizer.decode(&[scored.id])).chars().count();
                let mut top = Map::new();
                for &(id, logprob) in &scored.logprobs.top {
                    // Pieces of characters may look alike; the likeliest keeps the name.
                    let name = token_text(id, tokenizer).into_owned();
                    top.entry(name).or_insert_with(|| finite(logprob).into());
                }
                logprobs.top_logprobs.push(top);
            }
            logprobs
        });
        let finish_reason = self.reason.map(finish_name);
        WireChoice { index, text: &self.text, logprobs, finish_reason }
    }
}

/// What two prompts took together.
fn sum(a: &Usage, b: &Usage) -> Usage {
    let mut spent = a.spent;
    spent.n_prefilled += b.spent.n_prefilled;
    spent.n_generated += b.spent.n_generated;
    spent.waited_s += b.spent.waited_s;
    spent.prefill_s += b.spent.prefill_s;
    spent.decode_s += b.spent.decode_s;
    Usage {
        n_prompt: a.n_prompt + b.n_prompt,
        n_cached: a.n_cached + b.n_cached,
        n_image: a.n_image + b.n_image,
        n_completion: a.n_completion + b.n_completion,
        n_reasoning: a.n_reasoning + b.n_reasoning,
        spent,
    }
}
