//! From a schema, an expression or a grammar to a matcher at its first token.
//!
//! llguidance does the work, on a thread with a stack of its own size, with its limits set, its first mask
//! computed before anybody relies on it, and its panics caught. Its messages name no place in a schema, so
//! a schema that fails is searched for the innermost part that fails in the same way.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokTrie, TokenId};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::schema::pattern::{Scope, translate};
use super::schema::{self, Root};
use super::vocab::Vocabulary;
use super::{ConstraintError, Language, lark};
use crate::contain;
use crate::tokenizer::Tokenizer;

/// Reserved, not used: a schema's definitions may lead thousands of levels down.
const STACK_BYTES: usize = 1 << 28;
/// Threads that compile, and grammars that are not worth another one.
const MAX_THREADS: usize = 4;
const FEW: usize = 8;
/// Rules of a grammar that are followed side by side; an object has four for each optional property.
const MAX_ITEMS: usize = 40_000;
/// How far a grammar is tried before a reply is held to it, in tokens.
const N_PROBES: usize = 6;
/// What is said of grammars that the engine gives up on, and of those that it can never end.
const TOO_LARGE: &str = "it allows too many things at once to be followed";
const CONTROL_TOKEN: &str = "it asks for a control token, which is not for grammars to say";
/// How often parts of a failing schema are tried.
const MAX_TRIES: usize = 64;
/// No part is tried after this time.
const MAX_SEARCH: Duration = Duration::from_secs(2);

/// The vocabulary, ready for grammars.
pub(super) fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, ConstraintError> {
    let fault = |problem: String| ConstraintError::Vocabulary { problem };
    let env: TokEnv = Arc::new(Vocabulary::new(tokenizer)?);
    let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
    // Token sets that a JSON string allows as a whole; masks within strings are put together from them.
    let slices = SlicedBiasComputer::json_slices();
    let mut factory = ParserFactory::new(&env, capabilities, &slices)
        .map_err(|error| fault(first_line(&error.to_string())))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        verbose_errors: false,
        max_items_in_row: MAX_ITEMS,
        step_max_items: 8 * MAX_ITEMS,
        step_lexer_fuel: 4_000_000,
        ..ParserLimits::default()
    };
    Ok(factory)
}

/// Does `work` for each item, on a few threads on which recursion has room.
pub(super) fn on_large_stacks<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, ConstraintError> + Sync,
) -> Vec<Result<R, ConstraintError>> {
    let fault = |problem: &str| ConstraintError::Run { problem: problem.to_owned() };
    let guarded =
        |item: &T| contain::panics(|| work(item)).unwrap_or_else(|| Err(fault("it panicked")));
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let n_threads = n_threads.min(MAX_THREADS).min(items.len().div_ceil(FEW));
    let chunks = items.chunks(items.len().div_ceil(n_threads.max(1)).max(1));
    thread::scope(|scope| {
        let mut started = Vec::new();
        for chunk in chunks {
            let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let work = || chunk.iter().map(guarded).collect::<Vec<_>>();
            started.push((chunk.len(), builder.spawn_scoped(scope, work)));
        }
        let done = started.into_iter().flat_map(|(n_items, thread)| -> Vec<_> {
            match thread.map(|thread| thread.join()) {
                Ok(Ok(results)) => results,
                _ => (0..n_items).map(|_| Err(fault("its thread ended"))).collect(),
            }
        });
        done.collect()
    })
}

/// A matcher whose first mask is known to allow something.
pub(super) fn matcher(
    factory: &ParserFactory,
    language: &Language,
) -> Result<Matcher, ConstraintError> {
    match language {
        Language::JsonObject => from_schema(factory, "{\"type\": \"object\"}", Root::Object),
        Language::JsonSchema(text) => from_schema(factory, text, Root::Value),
        Language::Arguments(text) => from_schema(factory, text, Root::Object),
        Language::Regex(pattern) => start(factory, TopLevelGrammar::from_lark(regex(pattern)?))
            .map_err(|problem| ConstraintError::field("", problem)),
        Language::Lark(grammar) => {
            let grammar = lark::checked(grammar)?;
            start(factory, TopLevelGrammar::from_lark(grammar))
                .map_err(|problem| ConstraintError::field("", problem))
        }
    }
}

/// An expression as a grammar.
pub(super) fn regex(pattern: &str) -> Result<String, ConstraintError> {
    let pattern = translate(pattern, Scope::Whole);
    pattern
        .map(|pattern| format!("start: /(?:{pattern})/"))
        .map_err(|problem| ConstraintError::field("", problem))
}

fn from_schema(
    factory: &ParserFactory,
    text: &str,
    root: Root,
) -> Result<Matcher, ConstraintError> {
    let document = schema::parse(text)?;
    let normal = schema::normalise(&document, "#", root)?;
    start(factory, TopLevelGrammar::from_json_schema(with_options(normal))).map_err(|problem| {
        let (pointer, problem) = culprit(factory, &document, problem);
        ConstraintError::schema(pointer, problem)
    })
}

/// White space as the model was taught to write it, and one spelling of every string: no `\u0061`, by
/// which a name could be said twice.
pub(super) fn with_options(mut schema: Value) -> Value {
    if let Value::Object(schema) = &mut schema {
        let options = json!({
            "item_separator": ", ",
            "key_separator": ": ",
            "whitespace_flexible": false,
            "json_allowed_escapes": "nrbtf\\\"",
        });
        schema.insert("x-guidance".to_owned(), options);
    }
    schema
}

fn start(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let problem = |error: anyhow::Error| explained(&first_line(&error.to_string()));
    let parser = factory.create_parser(grammar).map_err(problem)?;
    let mut matcher = Matcher::new(Ok(parser));
    let trie = factory.tok_env().tok_trie();
    let openers = ["{", "[", "\""].map(|text| trie.token_id(text.as_bytes()));
    let open = open_text(trie, &mut matcher).map_err(problem)?;
    // What is too large often shows only within an object or a string.
    let middle = open.get(open.len() / 2).copied();
    for opener in openers.into_iter().flatten().filter(|id| open.contains(id)).chain(middle) {
        probe(trie, matcher.deep_clone(), opener, openers[2]).map_err(problem)?;
    }
    Ok(matcher)
}

/// Follows a grammar for a few tokens from `opener` on, and from there into a name or a string.
fn probe(
    trie: &TokTrie,
    mut matcher: Matcher,
    opener: TokenId,
    quote: Option<TokenId>,
) -> anyhow::Result<()> {
    let mut next = opener;
    for _ in 0..N_PROBES {
        matcher.consume_token(next)?;
        let open = open_text(trie, &mut matcher)?;
        next = match (open.get(open.len() / 2), quote.filter(|id| open.contains(id))) {
            (_, Some(quote)) if next == opener => quote,
            (Some(&id), _) => id,
            (None, _) => break,
        };
    }
    Ok(())
}

/// The tokens of text that may come next; none where the text must end.
fn open_text(trie: &TokTrie, matcher: &mut Matcher) -> anyhow::Result<Vec<TokenId>> {
    let mut open = Vec::new();
    if matcher.is_stopped() && !matcher.is_error() {
        return Ok(open);
    }
    // Control tokens have no bytes; a grammar can name them, but never gets them.
    matcher.compute_mask()?.iter_set_entries(|id| {
        let id = TokenId::try_from(id).ok();
        open.extend(id.filter(|&id| !trie.token(id).is_empty() && id != trie.eos_token()));
    });
    if open.is_empty() && !matcher.is_accepting()? {
        return Err(anyhow::anyhow!(CONTROL_TOKEN));
    }
    Ok(open)
}

/// The innermost part of a schema that fails in the same way, and what is said of it.
fn culprit(factory: &ParserFactory, document: &Value, mut problem: String) -> (String, String) {
    const UNSATISFIABLE: &str = "no value obeys this";
    let mut pointer = "#".to_owned();
    let mut n_tries = 0;
    let begin = Instant::now();
    let mut fault_of = |part: &str, outer: &str| {
        n_tries += 1;
        let normal = schema::normalise(document, part, Root::Value).ok();
        let normal = normal.filter(|_| n_tries <= MAX_TRIES && begin.elapsed() < MAX_SEARCH)?;
        let inner =
            start(factory, TopLevelGrammar::from_json_schema(with_options(normal))).err()?;
        let both = |text| inner.starts_with(text) && outer.starts_with(text);
        (outer.contains(&inner) || both(UNSATISFIABLE)).then_some(inner)
    };
    for _ in 0..schema::MAX_DEPTH {
        let parts = schema::children(document, &pointer).into_iter();
        let mut parts = parts.filter(|part| *part != pointer);
        let found = parts.find_map(|part| fault_of(&part, &problem).map(|inner| (part, inner)));
        match found {
            Some(found) => (pointer, problem) = found,
            None => break,
        }
    }
    (pointer, problem)
}

/// Messages come with the state, a backtrace or remarks on later lines.
pub(super) fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("no reason is known").chars().take(400).collect()
}

fn explained(problem: &str) -> String {
    // Its own words for these are of regular expressions and of rows.
    if ["regex is empty", "expressions constructed", "Current row", "fuel", "too many", "too large"]
        .iter()
        .any(|words| problem.contains(words))
    {
        return TOO_LARGE.to_owned();
    }
    match problem {
        "NoExtensionBias" => "it allows no text at all".to_owned(),
        "ParserTooComplex" | "LexerTooComplex" => TOO_LARGE.to_owned(),
        _ => match problem.strip_prefix("Unsatisfiable schema: ") {
            Some(reason) => format!("no value obeys this: {reason}"),
            None => problem.trim_end_matches('.').to_owned(),
        },
    }
}
