//! Replies of a random model under constraints, judged by another implementation of JSON Schema.
//!
//! `GUST_GENERATIONS` says how many replies of each kind; a few by default.

use std::ops::ControlFlow;
use std::sync::Arc;

use gust::chat::{
    ChatFormat, ChatRequest, FinishReason, Message, ReasoningEffort, ReplyEvent, ReplyParser,
    ResponseFormat, Tool, ToolChoice, Version, constraint,
};
use gust::constraint::{Allowed, ConstraintError, Grammars, Language};
use gust::engine::{End, Engine, Generation, Prompt, Sampler, SamplingParams, Session};
use gust::ggml::DType;
use gust::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::model::{golden_file, open};

const FORMAT: ChatFormat = ChatFormat::Mistral(Version::V15);
/// More than any reply of a bounded kind takes.
const MAX_TOKENS: usize = 1500;

fn n_generations() -> u64 {
    std::env::var("GUST_GENERATIONS").map_or(25, |n| n.parse().unwrap())
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 20 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "height": { "type": "number", "exclusiveMinimum": 0, "maximum": 2.5, "multipleOf": 0.25 },
            "born": { "type": "string", "format": "date" },
            "kind": { "enum": ["cat", "dog", null, 3] },
            "tags": { "type": "array", "items": { "type": "string", "pattern": "^[a-z]{1,5}$" }, "maxItems": 3 },
            "next": { "anyOf": [{ "type": "boolean" }, { "$ref": "#/$defs/leaf" }] },
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false,
        "$defs": { "leaf": { "type": "object", "properties": { "id": { "type": "string", "format": "uuid" } },
                             "required": ["id"], "additionalProperties": false } },
    })
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value, strict| Tool {
        name: name.to_owned(),
        description: String::new(),
        parameters: parameters.to_string(),
        strict,
    };
    let city = json!({ "properties": { "city": { "type": "string", "maxLength": 10 } }, "required": ["city"], "additionalProperties": false });
    vec![tool("person", person(), true), tool("person_in", city, false)]
}

/// Reasoning, text, calls, and whether the model ended the reply.
#[derive(Debug, Default)]
struct Reply {
    text: String,
    calls: Vec<(String, String)>,
    is_ended: bool,
}

fn reply(engine: &Arc<Engine>, grammars: &Grammars, request: &ChatRequest, seed: u64) -> Reply {
    let tokenizer = engine.tokenizer();
    let temperature = [0.7, 1.0, 5.0][seed as usize % 3];
    let params = SamplingParams { temperature, top_p: 1.0, seed: Some(seed), ..Default::default() };
    let constraint = constraint(request, &FORMAT, grammars, tokenizer, Some(12)).unwrap().unwrap();
    let n_vocab = engine.hparams().n_vocab as usize;
    let sampler = Sampler::new(params, n_vocab).unwrap().with_constraint(constraint);
    let mut session = Session::new(engine);
    let mut logits = Vec::new();
    let prompt = Prompt::from(&[tokenizer.bos(), 1000 + seed as u32 % 200][..]);
    session.sync(&prompt, &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut generation = Generation::new(&mut session, sampler, logits, MAX_TOKENS);
    let mut parser = ReplyParser::new(tokenizer);
    let mut events = Vec::new();
    for id in &mut generation {
        events.extend(parser.push(id.unwrap()));
    }
    let is_ended = generation.end() == Some(End::Eos);
    events.extend(parser.finish(FinishReason::Stop));
    let mut reply = Reply { is_ended, ..Reply::default() };
    for event in events {
        match event {
            ReplyEvent::Text(more) => reply.text.push_str(&more),
            ReplyEvent::ToolCallStarted { name, .. } => reply.calls.push((name, String::new())),
            ReplyEvent::ToolCallArguments(more) => {
                reply.calls.last_mut().unwrap().1.push_str(&more)
            }
            ReplyEvent::Finished { malformed, .. } => assert!(!malformed),
            ReplyEvent::Reasoning(_) => {}
        }
    }
    reply
}

/// `None` where its author does not take the schema, or not the dialect of its expressions.
fn judge_of(schema: &Value) -> Option<jsonschema::Validator> {
    jsonschema::options().should_validate_formats(true).build(schema).ok()
}

fn judge(schema: &Value, text: &str) {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // A number without bounds may be any number of JSON, and some are too large for a double.
        Err(error) if error.to_string().contains("number out of range") => return,
        Err(error) => panic!("{error}: {text}"),
    };
    let judge = judge_of(schema).expect("the schema is one");
    if let Err(error) = judge.validate(&value) {
        panic!("{error}: {text} for {schema}");
    }
}

fn request(format: ResponseFormat, seed: u64) -> ChatRequest {
    let reasoning_effort =
        if seed.is_multiple_of(2) { ReasoningEffort::High } else { ReasoningEffort::None };
    let messages = vec![Message::user("Hi")];
    ChatRequest { messages, response_format: format, reasoning_effort, ..ChatRequest::default() }
}

#[test]
fn a_random_model_ends_every_reply_and_all_are_valid() {
    let engine = open(&golden_file("gqa2-head-wide.gguf"), DType::F16, true);
    let grammars = Grammars::new(engine.tokenizer());
    let schema = person();
    let parameters: Vec<Value> =
        tools().iter().map(|tool| serde_json::from_str(&tool.parameters).unwrap()).collect();
    for seed in 0..n_generations() {
        let held = request(ResponseFormat::JsonSchema(schema.to_string()), seed);
        let found = reply(&engine, &grammars, &held, seed);
        assert!(found.is_ended && found.calls.is_empty(), "{seed}: {found:?}");
        judge(&schema, &found.text);

        let tool_choice = ToolChoice::Required;
        let called =
            ChatRequest { tools: tools(), tool_choice, ..request(ResponseFormat::Text, seed) };
        let found = reply(&engine, &grammars, &called, seed);
        assert!(
            found.is_ended && !found.calls.is_empty() && found.text.is_empty(),
            "{seed}: {found:?}"
        );
        for (name, arguments) in &found.calls {
            judge(&parameters[usize::from(name == "person_in")], arguments);
        }

        let pattern = "^(?:yes|no|[A-Z][a-z]{0,8}), \\d{1,3}(?:\\.\\d)?$";
        let found = reply(
            &engine,
            &grammars,
            &request(ResponseFormat::Regex(pattern.to_owned()), seed),
            seed,
        );
        let is_match = fancy_regex::Regex::new(pattern).unwrap().is_match(&found.text).unwrap();
        assert!(found.is_ended && is_match, "{seed}: {found:?}");
    }
}

#[test]
fn a_long_answer_ends_at_the_token_limit() {
    let engine = open(&golden_file("gqa2-head-wide.gguf"), DType::F16, true);
    let grammars = Grammars::new(engine.tokenizer());
    let endless = json!({ "type": "string", "minLength": 100_000 }).to_string();
    let found = reply(&engine, &grammars, &request(ResponseFormat::JsonSchema(endless), 1), 1);
    assert!(!found.is_ended);
    assert!(found.text.starts_with('"') && found.text.len() >= MAX_TOKENS - 1);
}

/// Schemas of all kinds of keywords. Whatever is written under one obeys it, wherever the writing leads.
fn schemas() -> Vec<Value> {
    let node = json!({ "type": "object", "properties": { "v": { "type": "integer" }, "l": { "$ref": "#/$defs/n" } }, "required": ["v"], "additionalProperties": false });
    let mut schemas =
        vec![person(), json!({}), json!({ "type": "object" }), json!({ "type": "array" })];
    schemas.extend([
        json!({ "$ref": "#/$defs/n", "$defs": { "n": node } }),
        json!({ "properties": { "a": { "type": "integer" }, "b": { "type": "string" } }, "additionalProperties": { "type": "boolean" } }),
        json!({ "type": "object", "patternProperties": { "^a": { "type": "null" }, "^b": { "type": "integer" } }, "properties": { "ab": { "enum": [null] } } }),
        json!({ "type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": { "type": "integer" } }),
        json!({ "prefixItems": [{ "const": 1.5 }, { "type": "string", "maxLength": 3 }], "items": { "type": "null" }, "minItems": 1 }),
        json!({ "items": { "enum": [[1, "a"], { "k": "v\n\"" }, 0, -2.5] }, "minItems": 2, "maxItems": 4 }),
        json!({ "oneOf": [{ "type": "integer", "minimum": -3, "exclusiveMaximum": 1000 }, { "type": "string", "format": "ipv4" }] }),
        json!({ "allOf": [{ "type": "number", "minimum": -0.5 }, { "maximum": 12.25 }] }),
        json!({ "type": "string", "pattern": "^\\S{2}[^a-z\\d]\\w.$", "maxLength": 5 }),
        json!({ "type": "string", "pattern": "x[0-9]+(y|z)" , "maxLength": 30 }),
        json!({ "type": ["integer", "null"], "multipleOf": 12, "minimum": 1, "maximum": 5000 }),
    ]);
    for format in [
        "date",
        "date-time",
        "time",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uuid",
        "duration",
    ] {
        schemas.push(json!({ "type": "string", "format": format, "maxLength": 60 }));
    }
    schemas
}

/// A few random steps; the text so far, and whether it came to its end.
fn walk(
    grammars: &Grammars,
    tokenizer: &Tokenizer,
    format: ResponseFormat,
    seed: u64,
    n_steps: usize,
) -> Result<(Vec<u8>, bool), ConstraintError> {
    let request = request(format, 1);
    let mut constraint = constraint(&request, &FORMAT, grammars, tokenizer, None)?.unwrap();
    let mut random = Random(seed);
    let mut ids = Vec::new();
    while !constraint.is_ended() && ids.len() < n_steps {
        let id = match constraint.allowed()? {
            Allowed::One(id) => id,
            Allowed::Only(mask) => {
                let open: Vec<_> = mask.iter().collect();
                open[random.below(open.len())]
            }
            Allowed::AllBut(_) => panic!("the text is not free"),
        };
        constraint.accept(id);
        ids.push(id);
    }
    Ok((tokenizer.decode(&ids), constraint.is_ended()))
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(97);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn wherever_a_schema_leads_the_value_obeys_it() {
    let tokenizer = Tokenizer::from_gguf(&gust::model::builtin()).unwrap();
    let grammars = Grammars::new(&tokenizer);
    let n = n_generations().div_ceil(5);
    let mut n_judged = 0;
    for schema in schemas() {
        for seed in 0..n {
            let format = ResponseFormat::JsonSchema(schema.to_string());
            let (text, is_ended) = walk(&grammars, &tokenizer, format, seed, 400).unwrap();
            if is_ended {
                judge(&schema, &String::from_utf8(text).unwrap());
                n_judged += 1;
            }
        }
    }
    assert!(n_judged > 12 * n, "{n_judged}");
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), found));
        }
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            pointers(v, &format!("{at}/{key}"), found);
        }),
        _ => {}
    }
}

/// Plants, drops and swaps parts of schemas.
fn mutant(random: &mut Random, schemas: &[Value]) -> Value {
    let literals = json!([{}, [], null, true, false, 0, -1, 1e9, 1e-300, 2.5, "a", "^(a|b)+$", "date", "object",
        "integer", { "$ref": "#" }, { "const": "x" }, { "items": { "$ref": "#" } }, { "required": ["v", "a"] },
        ["a", "b"], [{ "type": "string" }, { "minimum": 3 }], { "allOf": [{ "maxLength": 2 }, {}] }]);
    let keys = [
        "items",
        "allOf",
        "anyOf",
        "oneOf",
        "const",
        "enum",
        "required",
        "pattern",
        "minLength",
        "minItems",
        "properties",
        "additionalProperties",
        "minimum",
        "multipleOf",
        "type",
        "not",
        "$ref",
    ];
    let mut schema = schemas[random.below(schemas.len())].clone();
    for _ in 0..=random.below(2) {
        let mut found = Vec::new();
        pointers(&schema, "", &mut found);
        let donor = &schemas[random.below(schemas.len())];
        let mut of_donor = Vec::new();
        pointers(donor, "", &mut of_donor);
        let part = match random.below(2) {
            0 => literals[random.below(22)].clone(),
            _ => donor.pointer(&of_donor[random.below(of_donor.len())]).unwrap().clone(),
        };
        let place = schema.pointer_mut(&found[random.below(found.len())]).unwrap();
        match place {
            Value::Object(map) if random.below(2) == 0 => {
                map.insert(keys[random.below(keys.len())].to_owned(), part);
            }
            Value::Object(map) if !map.is_empty() => {
                let key = map.keys().nth(random.below(map.len())).unwrap().clone();
                map.remove(&key);
            }
            _ => *place = part,
        }
    }
    schema
}

#[test]
fn broken_schemas_are_refused_or_lead_somewhere() {
    let tokenizer = Tokenizer::from_gguf(&gust::model::builtin()).unwrap();
    let grammars = Grammars::new(&tokenizer);
    let schemas = schemas();
    let mut random = Random(7);
    let mut n_taken = 0;
    for seed in 0..20 * n_generations() {
        let schema = mutant(&mut random, &schemas);
        let format = ResponseFormat::JsonSchema(schema.to_string());
        match walk(&grammars, &tokenizer, format, seed, 60) {
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            Ok((value, is_ended)) => {
                n_taken += 1;
                if is_ended && judge_of(&schema).is_some() {
                    judge(&schema, &String::from_utf8(value).unwrap());
                }
            }
        }
    }
    assert!(n_taken > n_generations(), "{n_taken}");
}

#[test]
fn a_schema_that_outgrows_its_engine_is_an_error_of_the_generation() {
    let engine = open(&golden_file("gqa2-head-wide.gguf"), DType::F16, true);
    let grammars = Grammars::new(engine.tokenizer());
    // The parser's row grows with every token of an ambiguous grammar.
    let ambiguous = "start: s\ns: s s s | s s | \"a\" | ";
    let Ok(_) = grammars.compile(&Language::Lark(ambiguous.to_owned())) else { return };
    let request = request(ResponseFormat::Lark(ambiguous.to_owned()), 1);
    let constraint =
        constraint(&request, &FORMAT, &grammars, engine.tokenizer(), None).unwrap().unwrap();
    let sampler =
        Sampler::new(SamplingParams::default(), engine.hparams().n_vocab as usize).unwrap();
    let mut session = Session::new(&engine);
    let mut logits = Vec::new();
    session
        .sync(&Prompt::from(&[1, 1065][..]), &mut logits, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    let sampler = sampler.with_constraint(constraint);
    let generation = Generation::new(&mut session, sampler, logits, 200);
    for id in generation {
        if let Err(error) = id {
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    }
}
