//! From what a request says to what the engine is told: a prompt, rules, sampling, a limit.
//!
//! Everything that can be wrong with a request is found here or before, so that it is told as an answer of
//! its own and not within a stream. The defaults of sampling are the model card's, which depend on the
//! reasoning effort.

use std::collections::HashMap;

use super::{Asked, SamplingWishes, Source};
use crate::chat::{
    self, ChatRequest, ContentChunk, EncodeError, ReasoningEffort, ReplyLimits, ReplyParser,
};
use crate::constraint::{ConstraintError, ReplyRules};
use crate::engine::{Prompt, SamplingError, SamplingParams};
use crate::runner::ModelFacts;
use crate::server::App;
use crate::server::http::ApiError;
use crate::tokenizer::{TokenId, Tokenizer};

/// What the engine is told.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) prompt: Prompt,
    /// What replies must be like.
    pub(super) rules: Option<ReplyRules>,
    pub(super) sampling: SamplingParams,
    /// Most tokens of a reply, at least 1.
    pub(super) n_max: usize,
    pub(super) notes: Vec<String>,
    /// Functions by the names that the model is given, where the client's are others.
    pub(super) declared: HashMap<String, String>,
    /// The conversation that replies go on from; `None` for plain text.
    request: Option<Box<ChatRequest>>,
}

impl Plan {
    /// Plans replies.
    pub(super) fn of(
        app: &App,
        source: Source,
        asked: &Asked,
        facts: &ModelFacts,
    ) -> Result<Self, ApiError> {
        let text_rules = match &source {
            Source::Text(_, format) => chat::text_rules(format)?,
            Source::Chat(_) => None,
        };
        let Encoded { prompt, request, declared, mut notes } = Encoded::of(app, source, facts)?;
        let place = if request.is_some() { "messages" } else { "prompt" };
        let n_max = limit(app, asked, facts, prompt.tokens.len(), place)?;
        let (rules, effort) = match &request {
            Some(request) => {
                let (reasoning_budget, single_call) = (asked.reasoning_budget, asked.single_call);
                let limits = ReplyLimits { reasoning_budget, single_call };
                let rules = chat::reply_rules(request, &app.format, &app.tokenizer, limits)?;
                (rules, request.reasoning_effort)
            }
            None => (text_rules, ReasoningEffort::None),
        };
        notes.extend(rules.iter().flat_map(|rules| rules.notes.iter().cloned()));
        let late_end = (asked.n_min > 0).then_some((app.tokenizer.eos(), asked.n_min));
        let sampling = SamplingParams { late_end, ..sampling(&asked.sampling, effort) };
        sampling.check(app.tokenizer.n_vocab())?;
        Ok(Plan { prompt, rules, sampling, n_max, notes, declared, request })
    }

    /// A parser of one reply.
    pub(super) fn parser<'a>(&self, tokenizer: &'a Tokenizer, stop: &[String]) -> ReplyParser<'a> {
        let parser = match &self.request {
            Some(request) => ReplyParser::new(tokenizer).continuing(request),
            None => ReplyParser::raw(tokenizer),
        };
        parser.with_stop(stop.iter().cloned())
    }

    /// Tokens of the pictures.
    pub(super) fn n_image(&self) -> usize {
        self.prompt.images.iter().map(|span| span.grid.n_tokens()).sum()
    }
}

/// A prompt, and what it was made of.
pub(super) struct Encoded {
    pub(super) prompt: Prompt,
    request: Option<Box<ChatRequest>>,
    declared: HashMap<String, String>,
    notes: Vec<String>,
}

impl Encoded {
    /// Normalises and encodes.
    pub(super) fn of(app: &App, source: Source, facts: &ModelFacts) -> Result<Self, ApiError> {
        let request = match source {
            Source::Chat(request) => request,
            Source::Text(tokens, _) => {
                check_tokens(&tokens, app.tokenizer.n_vocab())?;
                let prompt = Prompt { tokens, images: Vec::new() };
                let (declared, notes) = (HashMap::new(), Vec::new());
                return Ok(Encoded { prompt, request: None, declared, notes });
            }
        };
        let names: Vec<String> = request.tools.iter().map(|tool| tool.name.clone()).collect();
        let (request, changes) = app.format.normalise(*request);
        let patches = match facts.patches {
            Some(patches) => patches,
            None => {
                check_blind(&request)?;
                Default::default()
            }
        };
        let prompt = app.format.encode(&request, &app.tokenizer, &patches)?;
        let notes = changes.iter().map(ToString::to_string).collect();
        let given = request.tools.iter().map(|tool| tool.name.clone());
        let declared = given.zip(names).filter(|(given, declared)| given != declared).collect();
        Ok(Encoded { prompt, request: Some(Box::new(request)), declared, notes })
    }
}

fn check_tokens(tokens: &[TokenId], n_vocab: usize) -> Result<(), ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::invalid("prompt", "prompt: there is nothing to go on from"));
    }
    match tokens.iter().find(|&&id| id as usize >= n_vocab) {
        Some(id) => {
            let problem = format!("prompt: {id} is no token, expected 0 to {}", n_vocab - 1);
            Err(ApiError::invalid("prompt", problem))
        }
        None => Ok(()),
    }
}

/// A model without a vision tower is shown no pictures.
fn check_blind(request: &ChatRequest) -> Result<(), ApiError> {
    let is_image = |chunk: &ContentChunk| matches!(chunk, ContentChunk::Image(_));
    match request.messages.iter().position(|message| message.content().iter().any(is_image)) {
        Some(i) => {
            let place = format!("messages[{i}].content");
            let problem =
                "the served model has no vision tower; send text only, or serve one with --mmproj";
            Err(ApiError::invalid(&place, format!("{place}: {problem}")))
        }
        None => Ok(()),
    }
}

/// Tokens that a reply may have to the prompt that stands in field `place`.
fn limit(
    app: &App,
    asked: &Asked,
    facts: &ModelFacts,
    n_prompt: usize,
    place: &str,
) -> Result<usize, ApiError> {
    let n_free = facts.n_ctx.saturating_sub(n_prompt);
    if n_free == 0 {
        return Err(ApiError::context_length(n_prompt, facts.n_ctx, place));
    }
    let limits = [asked.n_max, app.config.n_max];
    Ok(limits.into_iter().flatten().map(|n| n as usize).fold(n_free, usize::min).max(1))
}

/// Fills what was not asked for with the model card's values for the effort.
fn sampling(wishes: &SamplingWishes, effort: ReasoningEffort) -> SamplingParams {
    let (temperature, top_p) = match effort {
        ReasoningEffort::High => (0.7, 0.95),
        ReasoningEffort::None => (0.1, 1.0),
    };
    SamplingParams {
        temperature: wishes.temperature.unwrap_or(temperature),
        top_k: wishes.top_k.unwrap_or(0),
        top_p: wishes.top_p.unwrap_or(top_p),
        min_p: wishes.min_p.unwrap_or(0.0),
        repetition_penalty: wishes.repetition_penalty.unwrap_or(1.0),
        frequency_penalty: wishes.frequency_penalty.unwrap_or(0.0),
        presence_penalty: wishes.presence_penalty.unwrap_or(0.0),
        logit_bias: wishes.logit_bias.clone(),
        late_end: None,
        seed: wishes.seed,
    }
}

impl From<SamplingError> for ApiError {
    fn from(error: SamplingError) -> Self {
        let param = match &error {
            SamplingError::Range { name, .. } => *name,
            SamplingError::Bias { .. } | SamplingError::BiasToken { .. } => "logit_bias",
        };
        ApiError::invalid(param, error.to_string())
    }
}

impl From<EncodeError> for ApiError {
    fn from(error: EncodeError) -> Self {
        let param = match &error {
            EncodeError::BadFirst { .. } => "messages[0]".to_owned(),
            EncodeError::BadOrder { index, .. }
            | EncodeError::LastIsAssistant { index }
            | EncodeError::PrefixNotLast { index }
            | EncodeError::BadChunk { index, .. }
            | EncodeError::EmptyAssistant { index }
            | EncodeError::BadCallId { index, .. }
            | EncodeError::BadPairing { index, .. } => format!("messages[{index}]"),
            EncodeError::BadFunctionName { place, .. } => place.clone(),
            EncodeError::BadParameters { index, .. } | EncodeError::BadSchema { index, .. } => {
                format!("tools[{index}]")
            }
            EncodeError::NoEffort { .. } => "reasoning_effort".to_owned(),
            EncodeError::NoMessages
            | EncodeError::MissingControlToken { .. }
            | EncodeError::Template(_) => "messages".to_owned(),
        };
        ApiError::invalid(param, error.to_string())
    }
}

impl From<ConstraintError> for ApiError {
    fn from(error: ConstraintError) -> Self {
        let param = match &error {
            ConstraintError::Schema { place, .. } | ConstraintError::Field { place, .. } => {
                Some(place.clone()).filter(|place| !place.is_empty())
            }
            ConstraintError::Vocabulary { .. }
            | ConstraintError::ControlToken { .. }
            | ConstraintError::Run { .. } => None,
        };
        let kind = crate::server::http::ErrorKind::InvalidRequest;
        ApiError::new(kind, error.to_string()).about(param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Message, ResponseFormat, ToolChoice};
    use crate::server::Config;
    use crate::server::http::ErrorKind;

    fn facts(n_ctx: usize) -> ModelFacts {
        let (patches, vocabulary) = (None, [0; 32]);
        ModelFacts { n_ctx, n_ctx_train: n_ctx, patches, n_slots: 4, vocabulary }
    }

    fn chat(effort: ReasoningEffort) -> ChatRequest {
        let messages = vec![Message::user("hello")];
        ChatRequest { messages, reasoning_effort: effort, ..ChatRequest::default() }
    }

    fn plan(request: ChatRequest, asked: &Asked, n_ctx: usize) -> Result<Plan, ApiError> {
        let app = App::for_tests(Config::default());
        Plan::of(&app, Source::Chat(Box::new(request)), asked, &facts(n_ctx))
    }

    #[test]
    fn the_effort_sets_what_is_not_asked_for() {
        let asked = |temperature| Asked {
            sampling: SamplingWishes { temperature, ..SamplingWishes::default() },
            ..Asked::default()
        };
        for (effort, temperature, expected) in [
            (ReasoningEffort::None, None, (0.1, 1.0)),
            (ReasoningEffort::High, None, (0.7, 0.95)),
            (ReasoningEffort::High, Some(0.0), (0.0, 0.95)),
        ] {
            let sampling = plan(chat(effort), &asked(temperature), 1000).unwrap().sampling;
            assert_eq!((sampling.temperature, sampling.top_p), expected);
        }
    }

    #[test]
    fn a_reply_ends_at_the_context_s_end_at_the_latest() {
        let n_prompt =
            plan(chat(ReasoningEffort::None), &Asked::default(), 1000).unwrap().prompt.tokens.len();
        for (n_max, n_ctx, expected) in [
            (None, n_prompt + 7, Some(7)),
            (Some(5), n_prompt + 7, Some(5)),
            (Some(2_000_000_000), n_prompt + 7, Some(7)),
            (None, n_prompt + 1, Some(1)),
            (None, n_prompt, None),
            (Some(1), n_prompt - 1, None),
        ] {
            let asked = Asked { n_max, ..Asked::default() };
            match (plan(chat(ReasoningEffort::None), &asked, n_ctx), expected) {
                (Ok(plan), Some(expected)) => assert_eq!(plan.n_max, expected),
                (Err(error), None) => {
                    assert_eq!(error.kind, ErrorKind::ContextLength { n_prompt, n_ctx });
                }
                (plan, expected) => panic!("{plan:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn faults_have_their_field() {
        let with = |change: fn(&mut ChatRequest)| {
            let mut request = chat(ReasoningEffort::None);
            change(&mut request);
            plan(request, &Asked::default(), 1000).unwrap_err().param
        };
        let schema = with(|request| {
            let schema = r#"{"type":"object","not":{}}"#.to_owned();
            request.response_format = ResponseFormat::JsonSchema(schema);
        });
        assert_eq!(schema.as_deref(), Some("response_format.json_schema.schema"));
        let choice = with(|request| request.tool_choice = ToolChoice::Required);
        assert_eq!(choice.as_deref(), Some("tool_choice"));
        let empty = with(|request| request.messages.clear());
        assert_eq!(empty.as_deref(), Some("messages"));
        let app = App::for_tests(Config::default());
        for tokens in [vec![], vec![100_000_000]] {
            let source = Source::Text(tokens, ResponseFormat::Text);
            let planned = Plan::of(&app, source, &Asked::default(), &facts(100));
            assert_eq!(planned.unwrap_err().param.as_deref(), Some("prompt"));
        }
        let source = Source::Text(vec![app.tokenizer.bos(); 9], ResponseFormat::Text);
        let error = Plan::of(&app, source, &Asked::default(), &facts(9)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ContextLength { n_prompt: 9, n_ctx: 9 });
        assert_eq!(error.param.as_deref(), Some("prompt"));
    }

    #[test]
    fn a_text_has_its_form_and_its_least_length() {
        let app = App::for_tests(Config::default());
        let tokens = vec![app.tokenizer.bos()];
        let planned = |format, n_min| {
            let asked = Asked { n_min, ..Asked::default() };
            Plan::of(&app, Source::Text(tokens.clone(), format), &asked, &facts(100))
        };
        let free = planned(ResponseFormat::Text, 0).unwrap();
        assert!(free.rules.is_none() && free.sampling.late_end.is_none());
        let held = planned(ResponseFormat::JsonObject, 5).unwrap();
        assert!(held.rules.is_some_and(|rules| !rules.may_reason && rules.calls.is_none()));
        assert_eq!(held.sampling.late_end, Some((app.tokenizer.eos(), 5)));
        let broken = ResponseFormat::JsonSchema("{\"type\": 5}".to_owned());
        let error = planned(broken, 0).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("response_format.json_schema.schema"));
    }
}
