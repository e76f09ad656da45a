//! Speed of grammars at the full vocabulary: `cargo bench --bench constraint -- tekken.json`.
//!
//! Prints a JSON line per case: milliseconds to compile (the first mask included) with nothing kept, and
//! microseconds a mask while a random model writes values. Fastest of several runs, and medians.

#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use gust::chat::{
    self, ChatFormat, ChatRequest, Message, ResponseFormat, Tool, ToolChoice, Version,
};
use gust::constraint::{Allowed, Grammars, Language, Mask};
use gust::tokenizer::{TokenId, Tokenizer};
use serde_json::{Value, json};

const FORMAT: ChatFormat = ChatFormat::Mistral(Version::V15);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [vocabulary] = args.as_slice() else {
        println!("usage: cargo bench --bench constraint -- VOCABULARY");
        return;
    };
    let bytes = std::fs::read(vocabulary).expect("the vocabulary can be read");
    let tokenizer = Tokenizer::from_tekken(&bytes).expect("it is a vocabulary");
    let first = Instant::now();
    let grammars = Grammars::new(&tokenizer);
    grammars.compile(&Language::JsonObject).expect("it is a language");
    println!("{}", json!({ "case": "vocabulary", "ms": ms(first) }));

    let tools: Vec<Tool> = (0..100).map(tool).collect();
    let n_bytes: usize = tools.iter().map(|tool| tool.parameters.len()).sum();
    for strict in [true, false] {
        let tools = tools.iter().map(|tool| Tool { strict, ..tool.clone() }).collect();
        let request = request(tools, ToolChoice::Required, ResponseFormat::Text);
        let name = format!("100 tools, {n_bytes} bytes, strict: {strict}");
        bench(&name, &request, &grammars, &tokenizer);
    }
    let of_tools: Vec<Value> = tools.iter().map(|tool| schema(&tool.parameters)).collect();
    let one = json!({ "anyOf": of_tools }).to_string();
    let format = ResponseFormat::JsonSchema(one.clone());
    let request = |format| request(Vec::new(), ToolChoice::Auto, format);
    bench(&format!("one schema, {} bytes", one.len()), &request(format), &grammars, &tokenizer);
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "born": { "type": "string", "format": "date" },
            "email": { "type": "string", "format": "email" },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 12 }, "maxItems": 4 },
        },
        "required": ["name", "age", "born", "email", "tags"],
        "additionalProperties": false,
    });
    let cases = [
        ("a small schema", ResponseFormat::JsonSchema(person.to_string())),
        ("any object", ResponseFormat::JsonObject),
        (
            "an expression",
            ResponseFormat::Regex("[A-Z][a-z]{1,20}( [A-Z][a-z]{1,20}){0,3}".to_owned()),
        ),
    ];
    for (name, format) in cases {
        bench(name, &request(format), &grammars, &tokenizer);
    }
}

fn request(tools: Vec<Tool>, tool_choice: ToolChoice, format: ResponseFormat) -> ChatRequest {
    let messages = vec![Message::user("Hi")];
    ChatRequest { messages, tools, tool_choice, response_format: format, ..ChatRequest::default() }
}

fn schema(text: &str) -> Value {
    serde_json::from_str(text).expect("it is JSON")
}

/// A tool whose schema has about 1,000 bytes.
fn tool(number: usize) -> Tool {
    let description = "What this is for, in words that the model reads and no grammar needs.";
    let mut properties = serde_json::Map::new();
    for (i, kind) in ["string", "integer", "boolean", "number"].iter().enumerate() {
        let property = json!({ "type": kind, "description": description });
        properties.insert(format!("parameter_{number}_{i}"), property);
    }
    let unit =
        json!({ "enum": ["metre", "kilometre", "mile", "yard"], "description": description });
    properties.insert("unit".to_owned(), unit);
    let list = json!({ "type": "array", "items": { "type": "string", "maxLength": 40 }, "description": description });
    properties.insert("names".to_owned(), list);
    let parameters = json!({
        "type": "object",
        "properties": properties,
        "required": [format!("parameter_{number}_0"), format!("parameter_{number}_1"), "unit"],
        "additionalProperties": false,
    });
    Tool {
        name: format!("tool_number_{number}"),
        description: description.to_owned(),
        parameters: parameters.to_string(),
        strict: true,
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn bench(name: &str, request: &ChatRequest, grammars: &Grammars, tokenizer: &Tokenizer) {
    let constraint = || {
        let made = chat::constraint(request, &FORMAT, grammars, tokenizer, None);
        made.expect("the request is good").expect("something is held")
    };
    let mut compile = f64::INFINITY;
    for _ in 0..7 {
        grammars.forget();
        let start = Instant::now();
        let mut constraint = constraint();
        constraint.allowed().expect("the first mask can be computed");
        compile = compile.min(ms(start));
    }
    let start = Instant::now();
    constraint();
    let again = ms(start);
    let mut times = Vec::new();
    let mut state = 1u64;
    for _ in 0..40 {
        let mut constraint = constraint();
        for _ in 0..200 {
            let start = Instant::now();
            let allowed = constraint.allowed().expect("the grammar can be followed");
            let took = start.elapsed().as_secs_f64() * 1e6;
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = choose(allowed, (state >> 33) as usize);
            times.push(took);
            constraint.accept(id);
            if id == tokenizer.eos() {
                break;
            }
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let row = json!({
        "case": name,
        "compile_ms": compile,
        "again_ms": again,
        "n_masks": times.len(),
        "mask_us": { "median": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0) },
    });
    println!("{row}");
}

fn choose(allowed: Allowed<'_>, draw: usize) -> TokenId {
    let of_mask = |mask: &Mask| {
        let ids: Vec<TokenId> = mask.iter().collect();
        ids[draw % ids.len()]
    };
    match allowed {
        Allowed::One(id) => id,
        Allowed::Only(mask) => of_mask(mask),
        Allowed::AllBut(_) => 1000 + (draw % 100_000) as TokenId,
    }
}
