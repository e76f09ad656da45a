//! Which tokens may come next, where a schema, a grammar or a budget decides.
//!
//! [`Grammars`] turns a [`Language`] into a [`Grammar`], once: agents send the same tools with every turn.
//! [`Constraint`] is the shape of one reply: reasoning first, which is free, then text or calls, each held to
//! its grammar. The sampler asks it for a mask before it chooses, and tells it what it chose.
//! `schema` is the gate in front of the grammar engine, llguidance; what it cannot enforce is refused there.

mod budget;
mod compile;
mod error;
mod lark;
mod mask;
mod matcher;
mod reply;
mod rules;
mod schema;
mod vocab;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::ParserFactory;

pub use error::ConstraintError;
pub use mask::{Allowed, Mask};
pub use matcher::Grammar;
pub use reply::Constraint;
pub use rules::{Begun, CallRules, CallStyle, ReplyRules, TextRules, ToolRules};

use crate::tokenizer::Tokenizer;

/// Grammars that are kept.
const MAX_KEPT: usize = 256;
/// Bytes of their sources, together and each: a grammar can take up a thousand times as much memory.
const MAX_KEPT_BYTES: usize = 1 << 19;
const MAX_KEPT_SOURCE: usize = 1 << 16;

/// A set of texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Language {
    /// Any JSON object.
    JsonObject,
    /// JSON that obeys this schema.
    JsonSchema(String),
    /// A JSON object that obeys this schema, even where the schema does not say that it is one.
    Arguments(String),
    /// Texts that this regular expression matches as a whole, in JavaScript's dialect.
    Regex(String),
    /// Texts of this Lark grammar, in llguidance's dialect.
    Lark(String),
}

impl Language {
    fn n_bytes(&self) -> usize {
        match self {
            Language::JsonObject => 0,
            Language::JsonSchema(text)
            | Language::Arguments(text)
            | Language::Regex(text)
            | Language::Lark(text) => text.len(),
        }
    }
}

/// Whether a language is one that can be held to, as far as its syntax and its keywords tell. It needs no
/// vocabulary and is cheap; compiling may still find more.
pub fn check(language: &Language) -> Result<(), ConstraintError> {
    // Schemas may lead as far down here as when they are compiled.
    let checked = compile::on_large_stacks(&[language], |language| match language {
        Language::JsonObject => Ok(()),
        Language::JsonSchema(text) => schema::written(text, schema::Root::Value).map(drop),
        Language::Arguments(text) => schema::written(text, schema::Root::Object).map(drop),
        Language::Regex(pattern) => compile::regex(pattern).map(drop),
        Language::Lark(grammar) => lark::checked(grammar).map(drop),
    });
    checked.into_iter().collect()
}

/// The grammars of one model's vocabulary. A clone shares them all.
#[derive(Clone)]
pub struct Grammars(Arc<Shared>);

struct Shared {
    tokenizer: Tokenizer,
    /// Built when first needed: it takes a third of a second at the full vocabulary.
    factory: OnceLock<Result<ParserFactory, ConstraintError>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    grammars: HashMap<Language, Grammar>,
    /// Oldest first.
    order: VecDeque<Language>,
    n_bytes: usize,
}

impl Kept {
    fn insert(&mut self, language: &Language, grammar: &Grammar) {
        if language.n_bytes() > MAX_KEPT_SOURCE
            || self.grammars.insert(language.clone(), grammar.clone()).is_some()
        {
            return;
        }
        self.n_bytes += language.n_bytes();
        self.order.push_back(language.clone());
        while self.order.len() > MAX_KEPT || self.n_bytes > MAX_KEPT_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.n_bytes -= oldest.n_bytes();
            self.grammars.remove(&oldest);
        }
    }
}

impl Grammars {
    /// The grammars of this vocabulary. Costs nothing before the first one is compiled.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let tokenizer = tokenizer.clone();
        Self(Arc::new(Shared { tokenizer, factory: OnceLock::new(), kept: Mutex::default() }))
    }

    /// Compiles, or takes what was compiled before.
    pub fn compile(&self, language: &Language) -> Result<Grammar, ConstraintError> {
        self.compile_all(std::slice::from_ref(language))
            .map_err(|(_, error)| error)?
            .pop()
            .ok_or(ConstraintError::Run { problem: "nothing was compiled".to_owned() })
    }

    /// Compiles several; an error comes with the place in the list.
    pub fn compile_all(
        &self,
        languages: &[Language],
    ) -> Result<Vec<Grammar>, (usize, ConstraintError)> {
        let mut found: Vec<Option<Grammar>> = {
            let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
            languages.iter().map(|language| kept.grammars.get(language).cloned()).collect()
        };
        let missing: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
        let compiled = compile::on_large_stacks(&missing, |&place| {
            let factory = self.0.factory.get_or_init(|| compile::factory(&self.0.tokenizer));
            let factory = factory.as_ref().map_err(Clone::clone)?;
            compile::matcher(factory, &languages[place]).map(Grammar::new)
        });
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, grammar) in missing.into_iter().zip(compiled) {
            let grammar = grammar.map_err(|error| (place, error))?;
            kept.insert(&languages[place], &grammar);
            found[place] = Some(grammar);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Forgets what was compiled; texts that have begun go on.
    pub fn forget(&self) {
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("n_vocab", &self.0.tokenizer.n_vocab()).finish()
    }
}

#[cfg(test)]
mod tests;
