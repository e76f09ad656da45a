//! What OpenAI's, Mistral's and OpenRouter's clients ask of a reply.
//!
//! Every field that a known client sends is read, accepted without effect, or refused by name; the lists at
//! the end say which. A field that nobody knows is passed over, and told in the log once.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use super::fields::{self, fault, shown};
use super::{Asked, SamplingWishes};
use crate::chat::Fields;
use crate::server::App;
use crate::server::http::ApiError;

/// Likeliest tokens that are told with each token.
const MAX_LOGPROBS: u64 = 20;
/// Beyond this a limit is a mistake, and would not fit many clients' numbers.
const MAX_TOKENS: u64 = (1 << 31) - 1;
/// Names of unknown fields that are remembered as told.
const MAX_UNKNOWN: usize = 256;

/// What only the writers of answers want to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChatExtras {
    /// `stream_options.include_usage`.
    pub(crate) include_usage: bool,
    /// `stream_options.stream_tool_calls`, which only Mistral's clients send.
    pub(crate) stream_tool_calls: bool,
    /// Whether a field of OpenRouter's protocol is there: `reasoning` or `include_reasoning`.
    pub(crate) is_openrouter: bool,
}

impl ChatExtras {
    /// Reads them.
    pub(crate) fn of(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let options = fields::object(fields, "stream_options")?;
        let option = |name| -> Result<bool, ApiError> {
            match &options {
                Some(options) => Ok(fields::flag(options, name)? == Some(true)),
                None => Ok(false),
            }
        };
        Ok(ChatExtras {
            include_usage: option("include_usage")?,
            stream_tool_calls: option("stream_tool_calls")?,
            is_openrouter: fields.any(&["reasoning", "include_reasoning"]).is_some(),
        })
    }
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            model: String::new(),
            stream: false,
            sampling: SamplingWishes::default(),
            n_max: None,
            n_min: 0,
            stop: Vec::new(),
            n: 1,
            n_logprobs: None,
            single_call: false,
            reasoning_budget: None,
        }
    }
}

impl Asked {
    /// Reads a chat completion's fields. The budget of reasoning is the conversation reader's:
    /// `Reading::options` has it.
    pub(crate) fn openai(fields: &Fields<'_>, app: &App) -> Result<Self, ApiError> {
        note_unknown(fields, &[READ, ACCEPTED, FORM, CHAT], app);
        Self::chat(fields, app)
    }

    /// The same for text with a gap, whose answer is a chat completion.
    pub(crate) fn openai_fim(fields: &Fields<'_>, app: &App) -> Result<Self, ApiError> {
        note_unknown(fields, &[READ, ACCEPTED, FORM, FIM], app);
        Self::chat(fields, app)
    }

    fn chat(fields: &Fields<'_>, app: &App) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let single_call = fields::flag(fields, "parallel_tool_calls")? == Some(false);
        Ok(Asked { n_logprobs: chat_logprobs(fields)?, single_call, ..common(fields, app)? })
    }

    /// The same for completions of plain text, where `logprobs` is a number.
    pub(crate) fn openai_text(fields: &Fields<'_>, app: &App) -> Result<Self, ApiError> {
        note_unknown(fields, &[READ, ACCEPTED, FORM, TEXT], app);
        let asked = common(fields, app)?;
        if fields::whole(fields, "best_of", 1..=u64::MAX)?.is_some_and(|n| n != asked.n as u64) {
            let problem = "more replies than n are not written to choose from; leave it out";
            return Err(fault("best_of", problem));
        }
        let n_logprobs = fields::whole(fields, "logprobs", 0..=MAX_LOGPROBS)?;
        Ok(Asked { n_logprobs: n_logprobs.map(|n| n as usize), ..asked })
    }
}

/// What chats and texts have in common.
fn common(fields: &Fields<'_>, app: &App) -> Result<Asked, ApiError> {
    let stream = fields::flag(fields, "stream")? == Some(true);
    if !stream && fields.get("stream_options").is_some() {
        return Err(fault("stream_options", "only a stream has options; set stream to true"));
    }
    let n_max = n_max(fields)?;
    Ok(Asked {
        model: model(fields, app)?,
        stream,
        sampling: sampling(fields, app)?,
        n_max,
        n_min: n_min(fields, n_max)?,
        stop: fields::stops(fields, "stop")?,
        n: n_replies(fields, app)?,
        ..Asked::default()
    })
}

/// The model's name as the client wrote it, checked; the first served name if it is absent.
pub(crate) fn model(fields: &Fields<'_>, app: &App) -> Result<String, ApiError> {
    app.names.check(fields::text(fields, "model")?.as_deref())
}

/// How tokens are to be drawn: the same fields in every protocol.
pub(crate) fn sampling(fields: &Fields<'_>, app: &App) -> Result<SamplingWishes, ApiError> {
    let top_k = fields::signed(fields, "top_k", -1..=i128::from(i32::MAX))?;
    let seed = |name| fields::signed(fields, name, i128::from(i64::MIN)..=i128::from(u64::MAX));
    let seed = agreed(("seed", seed("seed")?), ("random_seed", seed("random_seed")?))?;
    let above_0 = |high: f32| (Bound::Excluded(0.0), Bound::Included(high));
    let penalty = |name| fields::float(fields, name, -2.0..=2.0);
    Ok(SamplingWishes {
        temperature: fields::float(fields, "temperature", 0.0..=10.0)?,
        // -1 and 0 both stand for all tokens.
        top_k: top_k.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: fields::float(fields, "top_p", above_0(1.0))?,
        min_p: fields::float(fields, "min_p", 0.0..=1.0)?,
        repetition_penalty: fields::float(fields, "repetition_penalty", above_0(10.0))?,
        frequency_penalty: penalty("frequency_penalty")?,
        presence_penalty: penalty("presence_penalty")?,
        logit_bias: fields::logit_bias(fields, "logit_bias", app.tokenizer.n_vocab())?,
        // A negative seed is as good as any: its bits are kept.
        seed: seed.map(|seed| seed as u64),
    })
}

fn n_max(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let limit = |name| fields::whole(fields, name, 1..=MAX_TOKENS);
    let (old, new) = ("max_tokens", "max_completion_tokens");
    Ok(agreed((old, limit(old)?), (new, limit(new)?))?.map(|n| n as u32))
}

fn n_min(fields: &Fields<'_>, n_max: Option<u32>) -> Result<u32, ApiError> {
    let n_min = fields::whole(fields, "min_tokens", 0..=MAX_TOKENS)?.map_or(0, |n| n as u32);
    match n_max.filter(|&n_max| n_min > n_max) {
        Some(n_max) => {
            Err(fault("min_tokens", &format!("{n_min}, but at most {n_max} are written")))
        }
        None => Ok(n_min),
    }
}

fn n_replies(fields: &Fields<'_>, app: &App) -> Result<usize, ApiError> {
    let n = fields::whole(fields, "n", 1..=u64::MAX)?.unwrap_or(1);
    let n_slots = app.config.n_slots;
    match usize::try_from(n).ok().filter(|&n| n <= n_slots) {
        Some(n) => Ok(n),
        None => Err(fault("n", &format!("{n} replies, but at most {n_slots} run side by side"))),
    }
}

fn chat_logprobs(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let is_on = fields::flag(fields, "logprobs")? == Some(true);
    let n = fields::whole(fields, "top_logprobs", 0..=MAX_LOGPROBS)?;
    match (is_on, n) {
        (true, n) => Ok(Some(n.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fault("top_logprobs", "needs logprobs; set it to true")),
    }
}

/// One wish under two names; both may say the same.
fn agreed<T: PartialEq + Display>(
    (name, one): (&str, Option<T>),
    (other_name, other): (&str, Option<T>),
) -> Result<Option<T>, ApiError> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => {
            let problem = format!("{other}, but {name} is {one}: they mean the same, send one");
            Err(fault(other_name, &problem))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// What a client would miss in the answer is refused.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (name, problem) in [
        ("web_search_options", "this server does not search the web"),
        ("audio", "the model neither hears nor speaks"),
        ("prompt_logprobs", "log-probabilities are told of the reply only; see logprobs"),
    ] {
        if fields.get(name).is_some_and(|node| !matches!(node.raw(), "false")) {
            return Err(fault(name, &format!("{problem}; leave it out")));
        }
    }
    if let Some(node) = fields.get("modalities") {
        for kind in node.items()? {
            let found = kind.text()?;
            if found != "text" {
                let problem = format!("expected \"text\", found {:?}", shown(&found));
                return Err(fault(kind.place(), &problem));
            }
        }
    }
    Ok(())
}

/// Tells fields that are in none of the lists, each once in the life of the process.
pub(crate) fn note_unknown(fields: &Fields<'_>, known: &[&[&str]], app: &App) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_known = |name: &&str| known.iter().any(|list| list.contains(name));
    for name in fields.names().filter(|name| !is_known(name)) {
        let name = shown(name);
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_UNKNOWN && told.insert(name.clone()) {
            app.log.line(&format!("requests have a field {name:?} that is not known and ignored"));
        }
    }
}

/// Fields with an effect, of chats and of texts.
const READ: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "random_seed",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "stop",
    "n",
    "logprobs",
    "prompt_cache_key",
    "user",
];

/// Fields that are accepted and change nothing: either what they ask for is so anyway, or there is nobody
/// here whom they would concern.
const ACCEPTED: &[&str] = &[
    "guardrails",
    "metadata",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safe_prompt",
    "safety_identifier",
    "service_tier",
    "store",
];

/// The names under which servers take the form of an answer.
const FORM: &[&str] = &[
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "output_config",
    "output_format",
    "response_format",
    "structured_outputs",
    "text",
];

/// Fields of chats only; the conversation's reader takes most of them.
const CHAT: &[&str] = &[
    "audio",
    "chat_template_kwargs",
    "continue_final_message",
    "document_image_limit",
    "document_page_limit",
    "enable_thinking",
    "function_call",
    "functions",
    "include_reasoning",
    "messages",
    "modalities",
    "parallel_tool_calls",
    "prediction",
    "prompt_logprobs",
    "prompt_mode",
    "reasoning",
    "reasoning_effort",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
    "web_search_options",
];

/// Fields of texts only.
const TEXT: &[&str] = &["best_of", "echo", "prompt", "suffix"];

/// Fields of texts with a gap only.
const FIM: &[&str] = &["prompt", "suffix", "top_logprobs"];

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::server::http::ErrorKind;
    use crate::server::request::Document;
    use crate::server::{Config, SharedApp};

    fn app() -> SharedApp {
        static APP: LazyLock<SharedApp> =
            LazyLock::new(|| App::for_tests(Config { n_slots: 4, ..Config::default() }));
        APP.clone()
    }

    fn read_by(
        read: fn(&Fields<'_>, &App) -> Result<Asked, ApiError>,
        body: &str,
    ) -> Result<Asked, ApiError> {
        read(&Document::parse(body.as_bytes().to_vec())?.fields()?, &app())
    }

    fn chat(body: &str) -> Result<Asked, ApiError> {
        read_by(Asked::openai, body)
    }

    /// Each field's fault has its name.
    fn refuses(body: &str, param: &str) {
        let error = chat(body).expect_err(body);
        assert_eq!(error.param.as_deref(), Some(param), "{body}: {}", error.message);
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        assert!(error.message.starts_with(param), "{}", error.message);
    }

    #[test]
    fn numbers_are_numbers_within_their_ranges() {
        let bad = r#""5" true [] {} 1e400 1e300 "a""#;
        for (name, more) in [
            ("temperature", "-1 -0.1 10.1 1e9"),
            ("top_p", "0 -1 1.01 5"),
            ("min_p", "-1 2"),
            ("top_k", "-2 1.5 2147483648 4294967297"),
            ("repetition_penalty", "0 -1 100"),
            ("frequency_penalty", "-2.1 100"),
            ("presence_penalty", "-2.1 100"),
            ("seed", "1.5 18446744073709551616 -9223372036854775809"),
            ("random_seed", "0.5"),
            ("max_tokens", "0 -1 1.5 2147483648 4294967297"),
            ("max_completion_tokens", "0 -1 1.5 2147483648"),
            ("min_tokens", "-1 1.5 2147483648"),
            ("n", "0 -1 5 1e9 1.5"),
            ("top_logprobs", "-1 21 1e9 1.5 3"),
        ] {
            for value in bad.split(' ').chain(more.split(' ')) {
                refuses(&format!("{{\"{name}\":{value}}}"), name);
            }
            assert!(chat(&format!("{{\"{name}\":null}}")).is_ok());
        }
    }

    #[test]
    fn every_field_has_its_place() {
        let asked = chat(
            r#"{"model":"mistralai/Mistral-Medium-3.5","stream":true,"stream_options":{},
            "temperature":0,"top_k":5.0,"top_p":1,"min_p":0.1,"repetition_penalty":1.1,
            "frequency_penalty":-2,"presence_penalty":2,"logit_bias":{"7":-100,"3":1.5,"9":null},
            "seed":-1,"random_seed":-1,"max_tokens":5.0,"max_completion_tokens":5,"min_tokens":3,"stop":["a","ab"],
            "n":4,"logprobs":true,"top_logprobs":20,"parallel_tool_calls":false}"#,
        )
        .unwrap();
        let sampling = SamplingWishes {
            temperature: Some(0.0),
            top_k: Some(5),
            top_p: Some(1.0),
            min_p: Some(0.1),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            logit_bias: vec![(3, 1.5), (7, -100.0)],
            seed: Some(u64::MAX),
        };
        let expected = Asked {
            model: "mistralai/Mistral-Medium-3.5".to_owned(),
            stream: true,
            sampling,
            n_max: Some(5),
            n_min: 3,
            stop: vec!["a".to_owned(), "ab".to_owned()],
            n: 4,
            n_logprobs: Some(20),
            single_call: true,
            reasoning_budget: None,
        };
        assert_eq!(asked, expected);
        let nothing = chat("{}").unwrap();
        assert_eq!(nothing, Asked { model: "mistral-medium-3.5".to_owned(), ..Asked::default() });
        assert_eq!(chat(r#"{"top_k":-1}"#).unwrap().sampling.top_k, Some(0));
        assert_eq!(chat(r#"{"logprobs":true}"#).unwrap().n_logprobs, Some(0));
        let seed = chat(r#"{"random_seed":18446744073709551615}"#).unwrap().sampling.seed;
        assert_eq!(seed, Some(u64::MAX));
    }

    #[test]
    fn stops_are_some_strings_of_some_length() {
        let many = format!("[{}]", vec!["\"x\""; 17].join(","));
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        for value in ["\"\"", "[\"\"]", "[\"a\",\"\"]", &many, &long] {
            refuses(&format!("{{\"stop\":{value}}}"), "stop");
        }
        refuses(r#"{"stop":5}"#, "stop");
        refuses(r#"{"stop":[1]}"#, "stop[0]");
        for (value, n) in [("null", 0), ("[]", 0), ("\"x\"", 1), ("[\"a\",\"ab\"]", 2)] {
            assert_eq!(chat(&format!("{{\"stop\":{value}}}")).unwrap().stop.len(), n);
        }
    }

    #[test]
    fn biases_name_tokens_of_the_vocabulary() {
        for (value, param) in [
            ("5", "logit_bias"),
            ("[]", "logit_bias"),
            (r#"{"abc":1}"#, "logit_bias.abc"),
            (r#"{"-7":1}"#, "logit_bias.-7"),
            (r#"{"+5":1}"#, "logit_bias.+5"),
            (r#"{"05":1}"#, "logit_bias.05"),
            (r#"{" 5":1}"#, "logit_bias. 5"),
            (r#"{"100000000":1}"#, "logit_bias.100000000"),
            (r#"{"5":1e39}"#, "logit_bias.5"),
            (r#"{"5":-101}"#, "logit_bias.5"),
            (r#"{"5":"1"}"#, "logit_bias.5"),
        ] {
            refuses(&format!("{{\"logit_bias\":{value}}}"), param);
        }
        let many: Vec<String> = (0..1025).map(|i| format!("\"{i}\":1")).collect();
        refuses(&format!("{{\"logit_bias\":{{{}}}}}", many.join(",")), "logit_bias");
    }

    #[test]
    fn fields_that_contradict_or_cannot_be_met_are_named() {
        for (body, param) in [
            (r#"{"max_tokens":5,"max_completion_tokens":6}"#, "max_completion_tokens"),
            (r#"{"max_tokens":5,"min_tokens":6}"#, "min_tokens"),
            (r#"{"seed":5,"random_seed":6}"#, "random_seed"),
            (r#"{"stream_options":{"include_usage":true}}"#, "stream_options"),
            (r#"{"logprobs":false,"top_logprobs":2}"#, "top_logprobs"),
            (r#"{"logprobs":3}"#, "logprobs"),
            (r#"{"stream":1}"#, "stream"),
            (r#"{"web_search_options":{}}"#, "web_search_options"),
            (r#"{"audio":{"voice":"x"}}"#, "audio"),
            (r#"{"modalities":["text","audio"]}"#, "modalities[1]"),
            (r#"{"prompt_logprobs":1}"#, "prompt_logprobs"),
            (r#"{"model":7}"#, "model"),
        ] {
            refuses(body, param);
        }
        let error = chat(r#"{"model":"mistral-small-latest"}"#).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ModelNotFound);
        for body in [
            r#"{"safe_prompt":true,"guardrails":[{}],"service_tier":"auto","store":true}"#,
            r#"{"metadata":{},"user":"u","verbosity":"low","modalities":["text"],"min_tokens":3}"#,
            r#"{"prediction":{"type":"content","content":"x"},"prompt_mode":"reasoning"}"#,
            r#"{"never_heard_of":[1,2]}"#,
        ] {
            assert!(chat(body).is_ok(), "{body}");
        }
    }

    #[test]
    fn texts_count_their_logprobs() {
        let text = |body: &str| read_by(Asked::openai_text, body);
        assert_eq!(text(r#"{"logprobs":5,"best_of":1}"#).unwrap().n_logprobs, Some(5));
        for (body, param) in [
            (r#"{"logprobs":21}"#, "logprobs"),
            (r#"{"logprobs":true}"#, "logprobs"),
            (r#"{"n":2,"best_of":4}"#, "best_of"),
        ] {
            assert_eq!(text(body).unwrap_err().param.as_deref(), Some(param));
        }
    }

    #[test]
    fn extras_are_what_the_writers_want_to_know() {
        let extras = |body: &str| {
            ChatExtras::of(&Document::parse(body.as_bytes().to_vec()).unwrap().fields().unwrap())
        };
        let body =
            r#"{"stream_options":{"include_usage":true,"stream_tool_calls":true},"reasoning":{}}"#;
        let all = ChatExtras { include_usage: true, stream_tool_calls: true, is_openrouter: true };
        assert_eq!(extras(body), Ok(all));
        assert_eq!(extras(r#"{"reasoning":null}"#), Ok(ChatExtras::default()));
        assert!(extras(r#"{"stream_options":5}"#).is_err());
    }

    /// Any JSON value, with names that mean something more often than chance would have it.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Value, json};
        let names: Vec<&str> =
            [READ, ACCEPTED, FORM, CHAT, TEXT].into_iter().flatten().copied().collect();
        let name = prop_oneof![
            4 => proptest::sample::select(names).prop_map(str::to_owned),
            1 => ".{0,8}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(|x| json!(x)),
            any::<i64>().prop_map(|x| json!(x)),
            any::<f64>().prop_map(|x| json!(x)),
            ".{0,12}".prop_map(|x| json!(x)),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_json_makes_a_reader_panic(value in value()) {
            let text = value.to_string();
            if let Ok(document) = Document::parse(text.into_bytes()) {
                let (fields, app) = (document.fields().unwrap(), app());
                let _ = (Asked::openai(&fields, &app), Asked::openai_text(&fields, &app));
                let _ = ChatExtras::of(&fields);
            }
        }

        #[test]
        fn no_bytes_make_a_document_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Document::parse(bytes);
        }

        #[test]
        fn no_text_like_json_makes_a_document_panic(text in r#"[{}\[\],:"\\ud8c0 1-]{0,40}"#) {
            let _ = Document::parse(text.into_bytes());
        }
    }
}
