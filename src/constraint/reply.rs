//! A reply as it is written, and what may come next in it.
//!
//! The control tokens are followed here, by their ids: `[THINK]`, `[TOOL_CALLS]`, `[ARGS]` and the end are
//! open where the rules say so, all others never. Text between them is free, or a matcher's. Matchers
//! start where their part of the reply starts; before that they cost nothing.

use super::budget::Thought;
use super::matcher::Matcher;
use super::rules::{Begun, CallRules, CallStyle, ReplyRules, TextRules};
use super::{Allowed, ConstraintError, Grammar, Grammars, Language, Mask};
use crate::tokenizer::{TokenId, Tokenizer};

/// Letters and digits of a call's id.
const ID_LENGTH: usize = 9;

/// How errors call it.
const FORMAT: &str = "the response format";

/// Holds one reply to its rules.
#[derive(Debug)]
pub struct Constraint {
    grammars: Grammars,
    rules: ReplyRules,
    /// What the text is held to.
    text: Option<Grammar>,
    control: Control,
    phase: Phase,
    /// Token ids of the tools' names, in the tools' order.
    names: Vec<Vec<TokenId>>,
    mask: Mask,
    forbidden: Vec<TokenId>,
    broken: Option<ConstraintError>,
}

#[derive(Debug)]
struct Control {
    think: Option<TokenId>,
    end_think: Option<TokenId>,
    tool_calls: Option<TokenId>,
    args: Option<TokenId>,
    /// Where calls have ids.
    call_id: Option<TokenId>,
    eos: TokenId,
    all: Vec<TokenId>,
}

#[derive(Debug)]
enum Phase {
    Reasoning(Thought),
    /// Nothing or text was said.
    Text {
        /// `None` where the text is free or forbidden.
        matcher: Option<Box<Matcher>>,
        may_reason: bool,
    },
    /// After `[TOOL_CALLS]`: the name so far.
    Name(Vec<TokenId>),
    /// After `[CALL_ID]`: the place of the tool, and the length of the id so far.
    Id(usize, usize),
    /// After `[ARGS]`.
    Arguments(Box<Arguments>),
    /// After `[TOOL_CALLS]` where calls are free.
    Calls,
    /// After a call.
    Called,
    Ended,
}

#[derive(Debug)]
struct Arguments {
    matcher: Matcher,
    /// The place of the tool.
    tool: usize,
    /// What was written; `None` where there is nothing left to fall back to.
    ids: Option<Vec<TokenId>>,
}

/// Control tokens that are open at some point.
type Open = [Option<TokenId>; 3];

impl Control {
    fn new(tokenizer: &Tokenizer, rules: &ReplyRules) -> Result<Self, ConstraintError> {
        let find = |name: &'static str, purpose: Option<&'static str>| match (
            tokenizer.control_token(name),
            purpose,
        ) {
            (None, Some(purpose)) => Err(ConstraintError::ControlToken { name, purpose }),
            (found, _) => Ok(found),
        };
        let reasoning = rules.may_reason || rules.begun == Begun::Reasoning;
        let reasoning = reasoning.then_some("reasoning");
        let style = rules.calls.as_ref().map(|calls| calls.style);
        let calls = style.map(|_| "calling tools");
        let held = style.filter(|style| *style != CallStyle::Free).and(calls);
        Ok(Self {
            think: find("[THINK]", reasoning)?,
            end_think: find("[/THINK]", reasoning)?,
            tool_calls: find("[TOOL_CALLS]", calls)?,
            args: find("[ARGS]", held)?,
            call_id: match style {
                Some(CallStyle::WithId) => find("[CALL_ID]", None)?,
                _ => None,
            },
            eos: tokenizer.eos(),
            all: tokenizer.control_tokens().collect(),
        })
    }
}

/// Compiles the language of the text and the arguments of strict tools; gives the former.
fn compile(grammars: &Grammars, rules: &ReplyRules) -> Result<Option<Grammar>, ConstraintError> {
    let tools = rules.calls.iter().flat_map(|calls| &calls.tools);
    let strict = tools.filter(|tool| !tool.falls_back).map(|tool| (&tool.arguments, &tool.field));
    let text = match &rules.text {
        TextRules::Held(language, field) => Some((language, field)),
        TextRules::Free | TextRules::Forbidden => None,
    };
    let (languages, fields): (Vec<_>, Vec<_>) =
        text.into_iter().chain(strict).map(|(language, field)| (language.clone(), field)).unzip();
    let compiled = grammars
        .compile_all(&languages)
        .map_err(|(place, error)| error.at(fields.get(place).map_or("", |field| field.as_str())))?;
    Ok(compiled.into_iter().next().filter(|_| text.is_some()))
}

impl Constraint {
    /// A reply at its beginning, or where the prompt has left it. What it must be held to is compiled here,
    /// so that what cannot be kept is an error now and not in the middle of a reply.
    pub fn new(grammars: &Grammars, rules: ReplyRules) -> Result<Self, ConstraintError> {
        let tokenizer = grammars.tokenizer();
        let control = Control::new(tokenizer, &rules)?;
        let text = compile(grammars, &rules)?;
        let tools = rules.calls.iter().flat_map(|calls| &calls.tools);
        let names = tools.map(|tool| tokenizer.encode(&tool.name)).collect();
        let mut constraint = Self {
            grammars: grammars.clone(),
            text,
            control,
            phase: Phase::Ended,
            names,
            mask: Mask::default(),
            forbidden: Vec::new(),
            broken: None,
            rules,
        };
        constraint.phase = match &constraint.rules.begun {
            Begun::Nothing => constraint.text(constraint.rules.may_reason),
            Begun::Reasoning => constraint.reasoning(),
            Begun::Reasoned => constraint.text(false),
            Begun::Text(text) => {
                constraint.text_after(text).map_err(|error| error.at("messages"))?
            }
            Begun::Calls if constraint.is_free() => Phase::Calls,
            Begun::Calls => Phase::Called,
        };
        Ok(constraint)
    }

    /// What the caller should know of that is no error, such as arguments that are held to less than
    /// their schema.
    pub fn notes(&self) -> &[String] {
        &self.rules.notes
    }

    /// Whether the reply is complete.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    fn is_free(&self) -> bool {
        self.rules.calls.as_ref().is_some_and(|calls| calls.style == CallStyle::Free)
    }

    fn reasoning(&self) -> Phase {
        Phase::Reasoning(Thought::new(self.rules.reasoning_budget))
    }

    fn text(&self, may_reason: bool) -> Phase {
        let may_reason = may_reason && self.rules.reasoning_budget != Some(0);
        let matcher = match self.rules.text {
            TextRules::Held(..) => self.text.as_ref().map(|grammar| Box::new(grammar.start())),
            TextRules::Free | TextRules::Forbidden => None,
        };
        Phase::Text { matcher, may_reason }
    }

    fn text_after(&self, text: &str) -> Result<Phase, ConstraintError> {
        let mut phase = self.text(false);
        if let Phase::Text { matcher: Some(matcher), .. } = &mut phase {
            let ids = self.grammars.tokenizer().encode(text);
            if matcher.take(&ids)? < ids.len() {
                let problem = "the text to be continued does not have the format that is asked for";
                return Err(ConstraintError::field("", problem));
            }
        }
        Ok(phase)
    }

    /// What may come next.
    pub fn allowed(&mut self) -> Result<Allowed<'_>, ConstraintError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.fall_back_if_stuck()?;
        let control = &self.control;
        let may_call_again = self.rules.calls.as_ref().is_some_and(|calls| !calls.is_single);
        let call_again = control.tool_calls.filter(|_| may_call_again);
        let mask = &mut self.mask;
        let open: Open = match &mut self.phase {
            Phase::Reasoning(thought) => match control.end_think {
                Some(end) if thought.must_close() => return Ok(Allowed::One(end)),
                end => return Ok(all_but(control, &mut self.forbidden, [end, None, None])),
            },
            Phase::Text { matcher, may_reason } => {
                let calls = self.rules.calls.as_ref();
                let must_call = calls.is_some_and(|calls| calls.is_required);
                let think = control.think.filter(|_| *may_reason);
                let call = control.tool_calls.filter(|_| calls.is_some());
                match matcher {
                    None if matches!(self.rules.text, TextRules::Free) => {
                        let eos = (!must_call).then_some(control.eos);
                        return Ok(all_but(control, &mut self.forbidden, [think, call, eos]));
                    }
                    None => {
                        mask.clear();
                        [think, call, None]
                    }
                    Some(matcher) => {
                        matcher.fill(mask).map_err(|error| error.of(FORMAT))?;
                        let eos = (matcher.can_end()? && !must_call).then_some(control.eos);
                        [think, call.filter(|_| matcher.is_untouched()), eos]
                    }
                }
            }
            Phase::Name(so_far) => {
                mask.clear();
                let mut is_whole = false;
                for name in self.names.iter().filter_map(|name| name.strip_prefix(&so_far[..])) {
                    match name.first() {
                        Some(&id) => mask.allow(id),
                        None => is_whole = true,
                    }
                }
                [control.args, control.call_id, None].map(|id| id.filter(|_| is_whole))
            }
            Phase::Id(_, ID_LENGTH..) => {
                return Ok(match control.args {
                    Some(args) => Allowed::One(args),
                    None => Allowed::One(control.eos),
                });
            }
            Phase::Id(_, length) => {
                mask.clear();
                let tokenizer = self.grammars.tokenizer();
                for id in 0..TokenId::try_from(tokenizer.n_vocab()).unwrap_or(TokenId::MAX) {
                    let text = tokenizer.token_bytes(id);
                    let fits = (1..=ID_LENGTH - *length).contains(&text.len());
                    if fits && text.iter().all(u8::is_ascii_alphanumeric) {
                        mask.allow(id);
                    }
                }
                [None; 3]
            }
            Phase::Calls => {
                let eos = Some(control.eos);
                return Ok(all_but(control, &mut self.forbidden, [call_again, eos, None]));
            }
            Phase::Arguments(arguments) => {
                let can_end = arguments.matcher.can_end()?;
                [call_again.filter(|_| can_end), can_end.then_some(control.eos), None]
            }
            Phase::Called => {
                mask.clear();
                [call_again, Some(control.eos), None]
            }
            Phase::Ended => return Ok(Allowed::One(control.eos)),
        };
        control.all.iter().for_each(|&id| mask.forbid(id));
        open.into_iter().flatten().for_each(|id| mask.allow(id));
        match (mask.only(), mask.iter().next()) {
            (Some(only), _) => Ok(Allowed::One(only)),
            (None, Some(_)) => Ok(Allowed::Only(mask)),
            (None, None) => {
                let problem = "no token may come next".to_owned();
                Err(self.broken.insert(ConstraintError::Run { problem }).clone())
            }
        }
    }

    /// Takes the token that was chosen. What goes wrong with it is told by the next [`allowed`](Self::allowed).
    pub fn accept(&mut self, id: TokenId) {
        if self.broken.is_none()
            && let Err(error) = self.advance(id)
        {
            self.broken = Some(error);
        }
    }

    fn advance(&mut self, id: TokenId) -> Result<(), ConstraintError> {
        let is = |control: Option<TokenId>| control == Some(id);
        match &mut self.phase {
            Phase::Reasoning(thought) => {
                if is(self.control.end_think) {
                    self.phase = self.text(false);
                } else {
                    thought.push(self.grammars.tokenizer().token_bytes(id));
                }
            }
            _ if id == self.control.eos => self.phase = Phase::Ended,
            Phase::Text { may_reason: true, .. } if is(self.control.think) => {
                self.phase = self.reasoning();
            }
            Phase::Text { .. } | Phase::Arguments(_) | Phase::Called | Phase::Calls
                if is(self.control.tool_calls) =>
            {
                self.phase = if self.is_free() { Phase::Calls } else { Phase::Name(Vec::new()) };
            }
            Phase::Calls => {}
            Phase::Text { matcher, may_reason } => {
                *may_reason = false;
                if let Some(matcher) = matcher {
                    take(matcher, id)?;
                }
            }
            Phase::Name(so_far) => {
                let called = self.names.iter().position(|name| name == so_far);
                if is(self.control.args) {
                    self.phase = self.arguments(called)?;
                } else if is(self.control.call_id) {
                    self.phase = Phase::Id(called.ok_or_else(|| misfit(id))?, 0);
                } else {
                    so_far.push(id);
                }
            }
            Phase::Id(called, _) if is(self.control.args) => {
                let called = *called;
                self.phase = self.arguments(Some(called))?;
            }
            Phase::Id(_, length) => *length += self.grammars.tokenizer().token_bytes(id).len(),
            Phase::Arguments(arguments) => {
                let taken = take(&mut arguments.matcher, id);
                arguments.ids.iter_mut().for_each(|ids| ids.push(id));
                // Where only the schema is at fault, there is something to fall back to.
                if arguments.ids.is_none() || arguments.matcher.can_end().is_ok() {
                    taken?;
                }
            }
            Phase::Called | Phase::Ended => return Err(misfit(id)),
        }
        Ok(())
    }

    fn arguments(&mut self, called: Option<usize>) -> Result<Phase, ConstraintError> {
        let tools = self.rules.calls.as_ref().map(|calls: &CallRules| &calls.tools);
        let tool = called.and_then(|called| Some((called, tools?.get(called)?)));
        let Some((called, tool)) = tool else {
            let problem = "a function that does not exist was called".to_owned();
            return Err(ConstraintError::Run { problem });
        };
        let mut ids = tool.falls_back.then(Vec::new);
        let grammar = match self.grammars.compile(&tool.arguments) {
            Err(error) if tool.falls_back => {
                self.rules.notes.push(fallen_back(&tool.name, &error));
                ids = None;
                self.grammars.compile(&Language::JsonObject)?
            }
            compiled => compiled.map_err(|error| error.of(&arguments_of(&tool.name)))?,
        };
        Ok(Phase::Arguments(Box::new(Arguments { matcher: grammar.start(), tool: called, ids })))
    }

    /// Arguments whose schema cannot be followed any further become any object, where that will do.
    fn fall_back_if_stuck(&mut self) -> Result<(), ConstraintError> {
        let Phase::Arguments(arguments) = &mut self.phase else { return Ok(()) };
        let Err(error) = arguments.matcher.fill(&mut self.mask) else { return Ok(()) };
        let tools = self.rules.calls.iter().flat_map(|calls| &calls.tools);
        let name = tools.skip(arguments.tool).map(|tool| tool.name.as_str()).next().unwrap_or("");
        let error = match arguments.ids.take() {
            Some(ids) => {
                let mut matcher = self.grammars.compile(&Language::JsonObject)?.start();
                if matcher.take(&ids)? == ids.len() {
                    let note = fallen_back(name, &error);
                    self.rules.notes.push(note);
                    arguments.matcher = matcher;
                    return Ok(());
                }
                error
            }
            None => error,
        };
        Err(self.broken.insert(error.of(&arguments_of(name))).clone())
    }
}

fn arguments_of(name: &str) -> String {
    format!("the arguments of {name}")
}

fn fallen_back(name: &str, error: &ConstraintError) -> String {
    format!("{} are held to any JSON object: {error}", arguments_of(name))
}

fn all_but<'a>(control: &Control, forbidden: &'a mut Vec<TokenId>, open: Open) -> Allowed<'a> {
    forbidden.clear();
    forbidden.extend(control.all.iter().filter(|id| !open.contains(&Some(**id))));
    Allowed::AllBut(forbidden)
}

fn take(matcher: &mut Matcher, id: TokenId) -> Result<(), ConstraintError> {
    match matcher.take(&[id])? {
        1 => Ok(()),
        _ => Err(misfit(id)),
    }
}

fn misfit(id: TokenId) -> ConstraintError {
    ConstraintError::Run { problem: format!("token {id} does not fit") }
}
