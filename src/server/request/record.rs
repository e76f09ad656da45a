//! The line that the log has of each request.
//!
//! It tells numbers and names. Of the conversation it shows two tokens: those at which the cache and the
//! prompt part, because they are what explains a prompt that is computed again.

use std::fmt::Write;

use super::relay::Relay;
use super::{Asked, Origin, Usage};
use crate::chat::FinishReason;
use crate::scheduler::Start;
use crate::server::App;
use crate::server::http::{ApiError, RequestId};
use crate::tokenizer::{TokenId, Tokenizer};

/// Characters of a token or a name that a line shows.
const MAX_SHOWN: usize = 40;

/// How a generation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All replies are finished.
    Done,
    /// With an error, which the client was told.
    Failed(ApiError),
    /// The client went away.
    Gone,
    /// The client did not read.
    Slow,
}

/// What a request's lines begin with.
#[derive(Debug)]
pub(super) struct Record {
    head: String,
}

impl Record {
    pub(super) fn of(origin: &Origin, asked: &Asked) -> Self {
        let model = shown(&asked.model);
        Record { head: format!("{} {} {model}", origin.request_id, origin.protocol) }
    }

    /// Tells of a request that was not begun.
    pub(super) fn refused(&self, app: &App, error: &ApiError) {
        app.log.line(&format!("{}: {}", self.head, fault(error)));
    }

    /// Tells and counts what a generation took.
    pub(super) fn ended(&self, app: &App, outcome: &Outcome, relay: &Relay<'_>) {
        let usage = relay.usage();
        app.metrics.n_prompt.add(usage.n_prompt as u64);
        app.metrics.n_cached.add(usage.n_cached as u64);
        let outcome = match outcome {
            Outcome::Done => format!("200 {}", finish(relay)),
            Outcome::Failed(error) => fault(error),
            Outcome::Gone => "the client went away".to_owned(),
            Outcome::Slow => "the client does not read".to_owned(),
        };
        let numbers = numbers(&usage);
        let cache = relay.found().map(|start| cache(start, &app.tokenizer)).unwrap_or_default();
        app.log.line(&format!("{}: {outcome}, {numbers}{cache}", self.head));
    }
}

/// Tells of a request that was no more than read, or not even that, unless it was told already.
pub(crate) fn refused(app: &App, id: &RequestId, path: &str, error: &ApiError) {
    if !error.is_logged {
        app.log.line(&format!("{} {}: {}", id.as_str(), shown(path), fault(error)));
    }
}

/// An error as programs see it, and what it says.
fn fault(error: &ApiError) -> String {
    let code = error.code().unwrap_or(error.type_name());
    format!("{} {code}: {}", error.status().as_u16(), plain(&error.message))
}

fn finish(relay: &Relay<'_>) -> String {
    let name = |reason| match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool calls",
        FinishReason::Cancelled => "cancelled",
    };
    let mut names: Vec<&str> = relay.reasons().map(name).collect();
    names.dedup();
    names.join(" and ")
}

fn numbers(usage: &Usage) -> String {
    let spent = &usage.spent;
    let mut line = format!(
        "prompt {} ({} reused, {} computed{}), {} generated{}",
        usage.n_prompt,
        usage.n_cached,
        spent.n_prefilled,
        speed(spent.n_prefilled, spent.prefill_s),
        usage.n_completion,
        // The first token comes out of the prompt's last pass.
        speed(spent.n_generated.saturating_sub(1), spent.decode_s),
    );
    if spent.waited_s >= 0.1 {
        let _ = write!(line, ", waited {:.1} s", spent.waited_s);
    }
    line
}

fn speed(n: usize, seconds: f64) -> String {
    match n > 0 && seconds > 0.0 {
        true => format!(" at {:.1} t/s", n as f64 / seconds),
        false => String::new(),
    }
}

/// Why tokens of the prompt had to be computed.
fn cache(start: &Start, tokenizer: &Tokenizer) -> String {
    match &start.miss {
        Some(miss) => {
            let (kept, asked) = (token(tokenizer, miss.kept), token(tokenizer, miss.asked));
            format!(", cache left at token {}: kept {kept}, asked {asked}", miss.at)
        }
        None if start.n_reused == 0 => ", nothing was kept".to_owned(),
        None => String::new(),
    }
}

fn token(tokenizer: &Tokenizer, id: TokenId) -> String {
    match tokenizer.is_control(id) {
        true => format!("control token {id}"),
        false => format!("\"{}\"", shown(&String::from_utf8_lossy(tokenizer.token_bytes(id)))),
    }
}

/// A text of bounded length on one line.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect()
}

/// A message on one line.
fn plain(message: &str) -> String {
    message.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{Miss, Spent};

    #[test]
    fn a_line_tells_speeds_and_where_the_cache_was_left() {
        let spent = Spent {
            n_prefilled: 100,
            n_generated: 21,
            waited_s: 0.25,
            prefill_s: 0.5,
            decode_s: 2.0,
        };
        let usage =
            Usage { n_prompt: 1000, n_cached: 900, n_completion: 21, spent, ..Usage::default() };
        assert_eq!(
            numbers(&usage),
            "prompt 1000 (900 reused, 100 computed at 200.0 t/s), 21 generated at 10.0 t/s, waited 0.2 s"
        );
        let tokenizer = Tokenizer::from_gguf(&crate::model::builtin()).unwrap();
        let [kept, asked] = ["\n", "a"].map(|text| tokenizer.encode(text)[0]);
        let miss = Some(Miss { at: 900, kept, asked });
        let line = cache(&Start { n_prompt: 1000, n_reused: 900, miss }, &tokenizer);
        assert_eq!(line, r#", cache left at token 900: kept "\n", asked "a""#);
        let bos = token(&tokenizer, tokenizer.bos());
        assert_eq!(bos, format!("control token {}", tokenizer.bos()));
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
    }
}
