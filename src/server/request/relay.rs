//! Events of a request's jobs become pieces of its replies.
//!
//! A state machine without clocks of others, sockets and tasks: what comes in decides what comes out, up to
//! the times that are told in the usage.

use std::collections::HashMap;
use std::time::Instant;

use super::{ReplyItem, ScoredToken, Usage};
use crate::chat::{FinishReason, ReplyEvent, ReplyParser};
use crate::engine::End;
use crate::runner::JobEvent;
use crate::scheduler::{Logprobs, Spent, Start};
use crate::server::http::{ApiError, ErrorKind};
use crate::tokenizer::TokenId;

/// All replies of one request.
pub(super) struct Relay<'a> {
    choices: Vec<Choice<'a>>,
    n_prompt: usize,
    n_image: usize,
    /// What the first job to start found in the cache.
    start: Option<Start>,
    /// The client's names of functions that the model knows by another.
    declared: HashMap<String, String>,
}

/// One reply.
struct Choice<'a> {
    /// `None` once it is finished.
    parser: Option<ReplyParser<'a>>,
    /// Tokens that no event has told yet.
    scored: Vec<ScoredToken>,
    n_tokens: usize,
    n_reasoning: usize,
    /// What reading the prompt took so far, as the runner says: its events come in bunches, and their times here
    /// tell nothing.
    read: Spent,
    first: Option<Instant>,
    last: Option<Instant>,
    /// What the runner says at the end; not of a reply that was stopped from here.
    spent: Option<Spent>,
    reason: Option<FinishReason>,
}

/// What an event comes to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) items: Vec<ReplyItem>,
    /// Whether the job is of no use any more.
    pub(super) is_over: bool,
}

impl<'a> Relay<'a> {
    /// Replies that are about to be submitted.
    pub(super) fn new(parsers: Vec<ReplyParser<'a>>, n_prompt: usize, n_image: usize) -> Self {
        let choice = |parser| Choice {
            parser: Some(parser),
            scored: Vec::new(),
            n_tokens: 0,
            n_reasoning: 0,
            read: Spent::default(),
            first: None,
            last: None,
            spent: None,
            reason: None,
        };
        let choices = parsers.into_iter().map(choice).collect();
        Relay { choices, n_prompt, n_image, start: None, declared: HashMap::new() }
    }

    /// Gives functions back the names that the client knows them by.
    pub(super) fn with_names(mut self, declared: HashMap<String, String>) -> Self {
        self.declared = declared;
        self
    }

    /// Takes the next event of reply `index`.
    pub(super) fn take(&mut self, index: usize, event: JobEvent) -> Taken {
        let mut taken = Taken::default();
        match event {
            JobEvent::Started(start) => self.start(start, &mut taken),
            JobEvent::Progress(_, spent) => self.choices[index].read = spent,
            JobEvent::Token(id, logprobs) => {
                self.choices[index].push(index, id, logprobs, &mut taken);
            }
            JobEvent::Ended(end, spent) => {
                self.choices[index].spent = Some(spent);
                let reason = match end {
                    End::Eos => FinishReason::Stop,
                    End::MaxTokens | End::ContextFull => FinishReason::Length,
                };
                self.choices[index].finish(index, reason, &mut taken);
            }
            JobEvent::Failed(why) => self.fail(ApiError::new(ErrorKind::Engine, why), &mut taken),
            JobEvent::Lost(why) => self.fail(lost(&why), &mut taken),
        }
        for item in &mut taken.items {
            if let ReplyItem::Event { event: ReplyEvent::ToolCallStarted { name, .. }, .. } = item
                && let Some(declared) = self.declared.get(name.as_str())
            {
                name.clone_from(declared);
            }
        }
        if taken.is_over && self.choices.iter().all(|choice| choice.parser.is_none()) {
            taken.items.push(ReplyItem::Done(self.usage()));
        }
        taken
    }

    fn start(&mut self, start: Start, taken: &mut Taken) {
        if self.start.is_none() {
            self.start = Some(start.clone());
            taken.items.push(ReplyItem::Started(start));
        }
    }

    fn fail(&mut self, error: ApiError, taken: &mut Taken) {
        taken.items.push(ReplyItem::Failed(error, self.usage()));
    }

    /// What the first job to start found in the cache.
    pub(super) fn found(&self) -> Option<&Start> {
        self.start.as_ref()
    }

    /// Tokens that were written.
    pub(super) fn n_written(&self) -> usize {
        self.choices.iter().map(|choice| choice.n_tokens).sum()
    }

    /// Why the replies ended, as far as they have.
    pub(super) fn reasons(&self) -> impl Iterator<Item = FinishReason> + '_ {
        self.choices.iter().filter_map(|choice| choice.reason)
    }

    /// What it took so far.
    pub(super) fn usage(&self) -> Usage {
        let mut spent = Spent::default();
        for choice in &self.choices {
            let one = choice.spent();
            spent.n_prefilled += one.n_prefilled;
            spent.n_generated += one.n_generated;
            spent.waited_s = spent.waited_s.max(one.waited_s);
            spent.prefill_s = spent.prefill_s.max(one.prefill_s);
            spent.decode_s = spent.decode_s.max(one.decode_s);
        }
        Usage {
            n_prompt: self.n_prompt,
            n_cached: self.start.as_ref().map_or(0, |start| start.n_reused),
            n_image: self.n_image,
            n_completion: self.n_written(),
            n_reasoning: self.choices.iter().map(|choice| choice.n_reasoning).sum(),
            spent,
        }
    }
}

impl Choice<'_> {
    fn push(&mut self, index: usize, id: TokenId, logprobs: Option<Logprobs>, taken: &mut Taken) {
        let Some(parser) = &mut self.parser else { return };
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.n_tokens += 1;
        // The tokens that open and close the reasoning are part of it.
        let was_reasoning = parser.is_reasoning();
        let events = parser.push(id);
        self.n_reasoning += usize::from(was_reasoning || parser.is_reasoning());
        let is_stopped = parser.is_stopped();
        self.scored.extend(logprobs.map(|logprobs| ScoredToken { id, logprobs }));
        self.tell(index, events, taken);
        if is_stopped {
            self.finish(index, FinishReason::Stop, taken);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, taken: &mut Taken) {
        let Some(parser) = self.parser.take() else { return };
        let events = parser.finish(reason);
        self.tell(index, events, taken);
        taken.is_over = true;
    }

    fn tell(&mut self, choice: usize, events: Vec<ReplyEvent>, taken: &mut Taken) {
        for event in events {
            if let ReplyEvent::Finished { reason, .. } = &event {
                self.reason = Some(*reason);
            }
            let tokens = std::mem::take(&mut self.scored);
            taken.items.push(ReplyItem::Event { choice, event, tokens });
        }
    }

    /// The runner's word, or what was seen from here.
    fn spent(&self) -> Spent {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64(),
            _ => 0.0,
        };
        self.spent.unwrap_or_else(|| Spent {
            n_generated: self.n_tokens,
            decode_s: between(self.first, self.last),
            ..self.read
        })
    }
}

/// The error of whoever was with a runner that has died.
pub(super) fn lost(why: &str) -> ApiError {
    let message = match why.starts_with("the engine") {
        true => format!("{why}; it is being restarted"),
        false => format!("the engine stopped: {why}; it is being restarted"),
    };
    ApiError::new(ErrorKind::Unavailable { retry_after_s: 5 }, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_gguf(&crate::model::builtin()).unwrap()
    }

    fn started(n_reused: usize) -> JobEvent {
        JobEvent::Started(Start { n_prompt: 10, n_reused, miss: None })
    }

    /// Texts, finishes and ends of all items, in short.
    fn shown(items: &[ReplyItem]) -> Vec<String> {
        let item = |item: &ReplyItem| match item {
            ReplyItem::Started(start) => format!("started {}", start.n_reused),
            ReplyItem::Event { choice, event, tokens } => match event {
                ReplyEvent::Text(text) => format!("{choice} text {text:?} {}", tokens.len()),
                ReplyEvent::Reasoning(text) => format!("{choice} thought {text:?}"),
                ReplyEvent::Finished { reason, .. } => {
                    format!("{choice} {reason:?} {}", tokens.len())
                }
                event => format!("{choice} {event:?}"),
            },
            ReplyItem::Done(_) => "done".to_owned(),
            ReplyItem::Failed(error, _) => format!("failed: {}", error.message),
        };
        items.iter().map(item).collect()
    }

    #[test]
    fn two_replies_of_one_prompt_are_told_apart_and_done_together() {
        let tokenizer = tokenizer();
        let parsers = vec![ReplyParser::new(&tokenizer), ReplyParser::new(&tokenizer)];
        let mut relay = Relay::new(parsers, 10, 4);
        let mut items = Vec::new();
        let mut take = |relay: &mut Relay<'_>, index, event| {
            items.extend(relay.take(index, event).items);
        };
        take(&mut relay, 1, started(3));
        take(&mut relay, 0, started(9));
        take(&mut relay, 0, JobEvent::Progress(5, Spent::default()));
        let ids = tokenizer.encode("hello");
        for &id in &ids {
            take(&mut relay, 0, JobEvent::Token(id, None));
        }
        let spent = Spent { n_prefilled: 1, n_generated: ids.len(), ..Spent::default() };
        take(&mut relay, 0, JobEvent::Ended(End::Eos, spent));
        take(&mut relay, 1, JobEvent::Token(tokenizer.encode("x")[0], None));
        take(&mut relay, 1, JobEvent::Ended(End::MaxTokens, Spent { n_prefilled: 7, ..spent }));
        let shown = shown(&items);
        assert_eq!(shown.first().unwrap(), "started 3");
        assert_eq!(shown.iter().filter(|s| s.starts_with("started")).count(), 1);
        assert!(shown.contains(&"0 Stop 0".to_owned()) && shown.contains(&"1 Length 0".to_owned()));
        assert_eq!(shown.last().unwrap(), "done");
        let usage = relay.usage();
        assert_eq!((usage.n_prompt, usage.n_cached, usage.n_image), (10, 3, 4));
        assert_eq!((usage.n_completion, usage.n_reasoning), (ids.len() + 1, 0));
        assert_eq!(usage.spent.n_prefilled, 8);
    }

    #[test]
    fn a_stop_string_ends_the_job_from_here() {
        let tokenizer = tokenizer();
        let parser = ReplyParser::new(&tokenizer).with_stop([" three".to_owned()]);
        let mut relay = Relay::new(vec![parser], 10, 0);
        let mut items = relay.take(0, started(4)).items;
        let read = Spent { n_prefilled: 6, waited_s: 0.1, prefill_s: 0.5, ..Spent::default() };
        relay.take(0, JobEvent::Progress(10, read));
        let mut n = 0;
        for id in tokenizer.encode("one two three four") {
            let taken = relay.take(0, JobEvent::Token(id, None));
            items.extend(taken.items);
            n += 1;
            if taken.is_over {
                break;
            }
        }
        // What comes before the runner has heard of it is nobody's.
        assert!(relay.take(0, JobEvent::Token(5, None)).items.is_empty());
        let shown = shown(&items);
        assert_eq!(shown[shown.len() - 2..], ["0 Stop 0".to_owned(), "done".to_owned()]);
        let usage = relay.usage();
        let Spent { n_prefilled, n_generated, waited_s, prefill_s, .. } = usage.spent;
        assert_eq!((usage.n_completion, n_generated, n_prefilled), (n, n, 6));
        assert_eq!((waited_s, prefill_s), (0.1, 0.5), "by the runner's clock");
    }

    #[test]
    fn functions_have_the_names_that_the_client_gave_them() {
        let tokenizer = tokenizer();
        let control = |name| tokenizer.control_token(name).unwrap();
        let names = HashMap::from([("my_tool".to_owned(), "my.tool".to_owned())]);
        let relay = Relay::new(vec![ReplyParser::new(&tokenizer)], 10, 0);
        let mut relay = relay.with_names(names);
        let mut ids = vec![control("[TOOL_CALLS]")];
        ids.extend(tokenizer.encode("my_tool"));
        ids.push(control("[ARGS]"));
        let called = ids.into_iter().flat_map(|id| relay.take(0, JobEvent::Token(id, None)).items);
        let names = called.filter_map(|item| match item {
            ReplyItem::Event { event: ReplyEvent::ToolCallStarted { name, .. }, .. } => Some(name),
            _ => None,
        });
        assert_eq!(names.collect::<Vec<_>>(), ["my.tool"]);
    }

    #[test]
    fn reasoning_is_counted_with_what_opens_and_closes_it() {
        let tokenizer = tokenizer();
        let mut relay = Relay::new(vec![ReplyParser::new(&tokenizer)], 10, 0);
        let control = |name| tokenizer.control_token(name).unwrap();
        let mut ids = vec![control("[THINK]")];
        ids.extend(tokenizer.encode("thinking hard"));
        ids.push(control("[/THINK]"));
        let n_reasoning = ids.len();
        ids.extend(tokenizer.encode("answer"));
        let n = ids.len();
        for id in ids {
            relay.take(0, JobEvent::Token(id, None));
        }
        let usage = relay.usage();
        assert_eq!((usage.n_reasoning, usage.n_completion), (n_reasoning, n));
    }

    #[test]
    fn scored_tokens_come_with_the_next_event() {
        let tokenizer = tokenizer();
        let mut relay = Relay::new(vec![ReplyParser::new(&tokenizer)], 10, 0);
        let logprobs = || Some(Logprobs { chosen: -0.5, top: vec![(1, -0.5)] });
        let mut n = 0;
        let ids = tokenizer.encode("né\u{1f600}e");
        for &id in &ids {
            for item in relay.take(0, JobEvent::Token(id, logprobs())).items {
                let ReplyItem::Event { tokens, .. } = item else { panic!("{item:?}") };
                n += tokens.len();
            }
        }
        let end = relay.take(0, JobEvent::Token(tokenizer.eos(), logprobs())).items;
        assert!(end.is_empty());
        let end = relay.take(0, JobEvent::Ended(End::Eos, Spent::default())).items;
        let ReplyItem::Event { tokens, .. } = &end[0] else { panic!("{end:?}") };
        assert_eq!((n, tokens.len()), (ids.len(), 1));
    }

    #[test]
    fn a_runner_s_death_is_told_as_such() {
        let tokenizer = tokenizer();
        for (event, kind, message) in [
            (
                JobEvent::Lost("the engine stopped: signal 9".to_owned()),
                ErrorKind::Unavailable { retry_after_s: 5 },
                "the engine stopped: signal 9; it is being restarted",
            ),
            (JobEvent::Failed("no cells".to_owned()), ErrorKind::Engine, "no cells"),
        ] {
            let mut relay = Relay::new(vec![ReplyParser::new(&tokenizer)], 10, 0);
            let items = relay.take(0, event).items;
            let [ReplyItem::Failed(error, usage)] = &items[..] else { panic!("{items:?}") };
            assert_eq!((error.kind, error.message.as_str()), (kind, message));
            assert_eq!(usage.n_prompt, 10);
        }
    }
}
