//! Replies token by token: what is open, what is closed, and what random models make of it.

mod versions;
use std::sync::LazyLock;

use serde_json::Value;

use super::super::{AssistantMessage, Message, ReplyEvent, ReplyParser, ToolCall};
use super::*;
use crate::engine::{Sampler, SamplingParams};
use crate::tokenizer::TokenId;

const FORMAT: ChatFormat = ChatFormat::Mistral(Version::V15);

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_gguf(&crate::model::builtin()).unwrap());
static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&TOKENIZER));

fn tool(name: &str, parameters: &str, strict: bool) -> Tool {
    let (description, parameters) = (String::new(), parameters.to_owned());
    Tool { name: name.to_owned(), description, parameters, strict }
}

fn tools() -> Vec<Tool> {
    let weather = r#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
                      "required": ["city"], "additionalProperties": false}"#;
    let time = r#"{"type": "object", "properties": {"zone": {"enum": ["utc", "local"]}},
                   "required": ["zone"], "additionalProperties": false}"#;
    vec![tool("get_weather", weather, true), tool("get_weather_time", time, false)]
}

fn request(tool_choice: ToolChoice) -> ChatRequest {
    let messages = vec![Message::user("Hi")];
    ChatRequest { messages, tools: tools(), tool_choice, ..ChatRequest::default() }
}

fn constrain(request: &ChatRequest, budget: Option<u32>) -> Constraint {
    constraint(request, &FORMAT, &GRAMMARS, &TOKENIZER, budget)
        .unwrap()
        .expect("there is something to hold")
}

fn control(name: &str) -> TokenId {
    TOKENIZER.control_token(name).unwrap()
}

/// Ids of a reply in which control tokens are spelt out.
fn ids(reply: &str) -> Vec<TokenId> {
    let names = ["[THINK]", "[/THINK]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "</s>"];
    let mut ids = Vec::new();
    let mut rest = reply;
    while !rest.is_empty() {
        let next = names.iter().filter_map(|name| Some((rest.find(name)?, *name))).min();
        let (at, name) = next.unwrap_or((rest.len(), ""));
        TOKENIZER.encode_into(&rest[..at], &mut ids);
        ids.extend((!name.is_empty()).then(|| control(name)));
        rest = &rest[at + name.len()..];
    }
    ids
}

/// Whether every token of the reply is open when its turn comes.
fn allows(mut constraint: Constraint, reply: &str) -> bool {
    ids(reply).into_iter().all(|id| {
        let is_open = constraint.allowed().unwrap().contains(id);
        constraint.accept(id);
        is_open
    })
}

#[track_caller]
fn check(request: &ChatRequest, good: &[&str], bad: &[&str]) {
    for reply in good {
        assert!(allows(constrain(request, None), reply), "should be open: {reply}");
    }
    for reply in bad {
        assert!(!allows(constrain(request, None), reply), "should be closed: {reply}");
    }
}

const CALL: &str = "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Rome\"}";
const OTHER: &str = "[TOOL_CALLS]get_weather_time[ARGS]{\"zone\": \"utc\"}";

#[test]
fn auto_allows_text_and_calls_of_the_tools() {
    let (call, text_call) = (&format!("{CALL}</s>"), &format!("Sure.{CALL}{OTHER}</s>"));
    let good = ["Hello</s>", call, text_call, "</s>"];
    let bad = [
        "[THINK]",
        "[ARGS]",
        "[TOOL_CALLS]get[ARGS]",
        "[TOOL_CALLS][ARGS]",
        "[TOOL_CALLS]other",
        "[TOOL_CALLS]get_weather[ARGS]{\"town\"",
        "[TOOL_CALLS]get_weather[ARGS] {",
        "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Rome\"</s>",
        "[TOOL_CALLS]get_weather</s>",
        "[TOOL_CALLS]get_weather_time[ARGS]{\"zone\": \"mars\"}",
        "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Rome\"} and",
        "Hi[THINK]",
        "[/THINK]",
    ];
    check(&request(ToolChoice::Auto), &good, &bad);
}

#[test]
fn none_required_and_named_are_kept_to() {
    let (call, both, named) =
        (&format!("{CALL}</s>"), &format!("{CALL}{OTHER}</s>"), &format!("{OTHER}</s>"));
    check(&request(ToolChoice::None), &["Hello</s>"], &[call, "Hello[TOOL_CALLS]"]);
    check(&request(ToolChoice::Required), &[call, both], &["</s>", "Hello"]);
    let name = ToolChoice::Named("get_weather_time".to_owned());
    check(&request(name), &[named], &[call, "</s>", "Hi", &format!("{OTHER}{OTHER}")]);
}

#[test]
fn reasoning_is_free_and_comes_first() {
    let high = |tool_choice| ChatRequest {
        reasoning_effort: ReasoningEffort::High,
        ..request(tool_choice)
    };
    let think = "[THINK]Any {thing} goes: [1] \"x";
    let call = format!("{think}[/THINK]{CALL}</s>");
    check(
        &high(ToolChoice::Required),
        &[&call, &format!("{CALL}</s>")],
        &[
            &format!("{think}</s>"),
            &format!("{think}[TOOL_CALLS]"),
            &format!("{think}[/THINK]Hi"),
            &format!("{think}[/THINK][THINK]"),
            &format!("{think}[THINK]"),
        ],
    );
    let format = ResponseFormat::JsonSchema(r#"{"const": {"a": 1}}"#.to_owned());
    let both = ChatRequest { response_format: format, ..high(ToolChoice::Auto) };
    check(
        &both,
        &["{\"a\": 1}</s>", &format!("{think}[/THINK]{{\"a\": 1}}</s>"), &call],
        &[
            "Hi",
            "</s>",
            "{[TOOL_CALLS]",
            "{\"a\": 1}[TOOL_CALLS]",
            "{\"a\": 1} ",
            &format!("{CALL}{{"),
        ],
    );
    check(
        &ChatRequest { tool_choice: ToolChoice::None, ..both },
        &["{\"a\": 1}</s>"],
        &[&call, CALL],
    );
}

#[test]
fn formats_hold_the_text() {
    let format = |response_format| ChatRequest {
        messages: vec![Message::user("Hi")],
        response_format,
        ..ChatRequest::default()
    };
    check(
        &format(ResponseFormat::JsonObject),
        &["{\"a\": [1, {}]}</s>"],
        &["[1]", "```json", "\n", "{\n", "[THINK]"],
    );
    check(
        &format(ResponseFormat::Regex("ab+".to_owned())),
        &["ab</s>", "abbb</s>"],
        &["a</s>", "abc"],
    );
    let grammar = "start: \"x\" start | \"y\"".to_owned();
    check(&format(ResponseFormat::Lark(grammar)), &["xxy</s>"], &["xx</s>", "yy"]);
}

#[test]
fn a_reply_that_has_begun_is_continued() {
    let prefixed = |content: Vec<ContentChunk>, tool_calls, tool_choice, response_format| {
        let last = AssistantMessage { content, tool_calls, prefix: true };
        let messages = vec![Message::user("Hi"), Message::Assistant(last)];
        let effort = ReasoningEffort::High;
        ChatRequest { messages, response_format, reasoning_effort: effort, ..request(tool_choice) }
    };
    let text = |text: &str| ContentChunk::Text(text.to_owned());
    let thinking = |closed| ContentChunk::Thinking { thinking: "So".to_owned(), closed };
    let schema = || ResponseFormat::JsonSchema(r#"{"const": {"a": 1}}"#.to_owned());
    let open = prefixed(vec![thinking(false)], vec![], ToolChoice::Required, schema());
    check(&open, &[&format!(" on[/THINK]{CALL}</s>")], &["[THINK]", "</s>", CALL]);
    let closed = prefixed(vec![thinking(true)], vec![], ToolChoice::Auto, schema());
    check(&closed, &["{\"a\": 1}</s>", CALL], &["[THINK]", "Hi"]);
    let begun = prefixed(vec![thinking(true), text("{\"a\"")], vec![], ToolChoice::Auto, schema());
    check(&begun, &[": 1}</s>"], &["{", "[THINK]", CALL, "</s>"]);
    let call = ToolCall { id: String::new(), name: "f".to_owned(), arguments: "{}".to_owned() };
    let called = prefixed(vec![], vec![call], ToolChoice::Required, schema());
    check(&called, &["</s>", &format!("{CALL}</s>")], &["Hi", "[THINK]", "{"]);
    let other = prefixed(vec![text("Hello")], vec![], ToolChoice::Auto, schema());
    let error = constraint(&other, &FORMAT, &GRAMMARS, &TOKENIZER, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "messages: the text to be continued does not have the format that is asked for"
    );
}

#[test]
fn a_budget_closes_the_reasoning() {
    let mut request = ChatRequest {
        messages: vec![Message::user("Hi")],
        reasoning_effort: ReasoningEffort::High,
        ..ChatRequest::default()
    };
    assert!(constraint(&request, &FORMAT, &GRAMMARS, &TOKENIZER, None).unwrap().is_none());
    let mut constraint = constrain(&request, Some(8));
    constraint.accept(control("[THINK]"));
    let word = TOKENIZER.encode(" a")[0];
    let mut n = 0;
    while !matches!(constraint.allowed().unwrap(), crate::constraint::Allowed::One(_)) {
        constraint.accept(word);
        n += 1;
    }
    assert_eq!(n, 10);
    assert!(constraint.allowed().unwrap().contains(control("[/THINK]")));
    constraint.accept(control("[/THINK]"));
    assert!(!constraint.allowed().unwrap().contains(control("[THINK]")));
    assert!(constraint.allowed().unwrap().contains(TOKENIZER.eos()));
    assert!(!constrain(&request, Some(0)).allowed().unwrap().contains(control("[THINK]")));
    request.reasoning_effort = ReasoningEffort::None;
    assert!(
        super::constraint(&request, &FORMAT, &GRAMMARS, &TOKENIZER, Some(8)).unwrap().is_none()
    );
}

#[test]
fn faults_name_their_field() {
    type Change = fn(&mut ChatRequest);
    let message = |change: Change| {
        let mut request = request(ToolChoice::Auto);
        change(&mut request);
        constraint(&request, &FORMAT, &GRAMMARS, &TOKENIZER, None).unwrap_err().to_string()
    };
    let cases: [(Change, &str); 12] = [
        (|r| r.tools[1].name.clear(), "tools[1].function.name: \"\" is not 1 to 64"),
        (|r| r.tools[0].name = "a".repeat(65), "tools[0].function.name: \"aaa"),
        (|r| r.tools[0].name = "a b".to_owned(), "tools[0].function.name: \"a b\" is not"),
        (
            |r| r.tools[1].name = r.tools[0].name.clone(),
            "tools[1].function.name: \"get_weather\" is the",
        ),
        (|r| r.tools = vec![r.tools[0].clone(); 129], "tools: 129 tools, at most 128"),
        (
            |r| r.tools[0].parameters = "[]".to_owned(),
            "tools[0].function.parameters: expected a JSON schema",
        ),
        (|r| r.tools[0].parameters = "{".to_owned(), "tools[0].function.parameters: not JSON"),
        (
            |r| r.tools[0].parameters = r#"{"not": {}}"#.to_owned(),
            "tools[0].function.parameters: #/not: this keyword",
        ),
        (
            |r| r.tool_choice = ToolChoice::Named("x".to_owned()),
            "tool_choice: there is no tool \"x\"",
        ),
        (
            |r| (r.tools, r.tool_choice) = (vec![], ToolChoice::Required),
            "tool_choice: a call is required",
        ),
        (
            |r| r.response_format = ResponseFormat::JsonSchema("{\"if\": 1}".to_owned()),
            "response_format.json_schema.schema: #/if: ",
        ),
        (
            |r| r.response_format = ResponseFormat::Regex("(".to_owned()),
            "response_format.regex: a parenthesis",
        ),
    ];
    for (change, expected) in cases {
        let found = message(change);
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn arguments_that_cannot_be_enforced_are_any_object() {
    let mut request = request(ToolChoice::Auto);
    request.tools[1].parameters = r#"{"properties": {"a": {"not": {}}}}"#.to_owned();
    let first = constrain(&request, None);
    assert_eq!(first.notes().len(), 1);
    assert!(
        first.notes()[0].starts_with("tools[1].function.parameters: #/properties/a/not: "),
        "{:?}",
        first.notes()
    );
    assert!(allows(first, "[TOOL_CALLS]get_weather_time[ARGS]{\"x\": [1]}</s>"));
    // Found out only when it is compiled.
    request.tools[1].parameters =
        r#"{"required": ["a"], "additionalProperties": false}"#.to_owned();
    let mut late = constrain(&request, None);
    assert!(late.notes().is_empty());
    ids("[TOOL_CALLS]get_weather_time[ARGS]{\"x\": [1]}")
        .into_iter()
        .for_each(|id| late.accept(id));
    assert!(late.allowed().unwrap().contains(TOKENIZER.eos()));
    assert!(late.notes()[0].contains("held to any JSON object"), "{:?}", late.notes());
}

/// Generates with logits that know nothing; panics where a reply does not end.
fn babble(request: &ChatRequest, seed: u64) -> Vec<ReplyEvent> {
    let n_vocab = TOKENIZER.n_vocab();
    let params = match seed % 3 {
        0 => SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        1 => SamplingParams::default(),
        _ => SamplingParams {
            temperature: 2.0,
            top_k: 50,
            repetition_penalty: 1.3,
            logit_bias: (0..1300).map(|id| (id, f32::NEG_INFINITY)).collect(),
            ..SamplingParams::default()
        },
    };
    let params = SamplingParams { seed: Some(seed), ..params };
    let constraint = constrain(request, Some(20));
    let mut sampler = Sampler::new(params, n_vocab).unwrap().with_constraint(constraint);
    let mut parser = ReplyParser::new(&TOKENIZER);
    let mut events = Vec::new();
    let mut state = seed;
    for _ in 0..2000 {
        let mut logits: Vec<f32> = (0..n_vocab)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1u64 << 20) as f32
            })
            .collect();
        logits[seed as usize % n_vocab] = f32::NAN;
        let id = sampler.sample(&mut logits).unwrap();
        sampler.accept(id);
        events.extend(parser.push(id));
        if id == TOKENIZER.eos() {
            events.extend(parser.finish(super::super::FinishReason::Stop));
            return events;
        }
    }
    panic!("no end: {events:?}");
}

#[test]
fn random_models_end_by_themselves_with_valid_replies() {
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": -5, "maximum": 500},
        "s": {"type": "string", "maxLength": 8}, "l": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
        "required": ["n", "l"], "additionalProperties": false}"#;
    let format = ResponseFormat::JsonSchema(schema.to_owned());
    let json = ChatRequest {
        response_format: format,
        reasoning_effort: ReasoningEffort::High,
        tools: vec![],
        ..request(ToolChoice::Auto)
    };
    let regex = ResponseFormat::Regex("[a-f]{2,9}-[0-9]{4}".to_owned());
    let regex = ChatRequest { response_format: regex, tools: vec![], ..request(ToolChoice::Auto) };
    for seed in 0..20 {
        let (mut text, mut arguments, mut n_calls) = (String::new(), Vec::new(), 0);
        for event in babble(&json, seed) {
            match event {
                ReplyEvent::Text(more) => text.push_str(&more),
                ReplyEvent::Finished { malformed, .. } => assert!(!malformed),
                _ => {}
            }
        }
        let value: Value = serde_json::from_str(&text).unwrap();
        let n = value["n"].as_f64().unwrap();
        assert!((-5.0..=500.0).contains(&n) && n.fract() == 0.0, "{text}");
        assert!(value["l"].as_array().unwrap().len() <= 3, "{text}");
        for event in babble(&request(ToolChoice::Required), seed) {
            match event {
                ReplyEvent::ToolCallStarted { .. } => {
                    n_calls += 1;
                    arguments.push(String::new());
                }
                ReplyEvent::ToolCallArguments(more) => {
                    arguments.last_mut().unwrap().push_str(&more)
                }
                ReplyEvent::Text(text) => panic!("{text}"),
                _ => {}
            }
        }
        assert!(n_calls > 0);
        assert!(
            arguments.iter().all(|json| serde_json::from_str::<Value>(json).unwrap().is_object())
        );
        let events = babble(&regex, seed);
        let text: String = events
            .iter()
            .filter_map(|e| match e {
                ReplyEvent::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let (letters, digits) = text.split_once('-').unwrap_or_else(|| panic!("{events:?}"));
        assert!((2..=9).contains(&letters.len()) && digits.len() == 4, "{text}");
    }
}
