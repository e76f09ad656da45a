//! Anthropic's messages, as the built-in model answers them.

use serde_json::{Value, json};

use crate::util::http::{Answer, Server, kinds};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn ask(question: &str, more: Value) -> Value {
    let body = json!({
        "model": "mistral-medium-3.5",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 200,
        "temperature": 0,
    });
    with(body, more)
}

fn weather(more: Value) -> Value {
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = json!({
        "name": "get_weather", "description": "Get the current weather for a city",
        "input_schema": schema,
    });
    let body = ask("Weather in Ottawa please", json!({"tools": [tool]}));
    with(with(body, json!({"tool_choice": {"type": "tool", "name": "get_weather"}})), more)
}

/// What the deltas have under a name, joined.
fn joined(events: &[Value], name: &str) -> String {
    events.iter().filter_map(|event| event["delta"][name].as_str()).collect()
}

#[test]
fn an_answer_is_a_message_or_events_of_the_same_text() {
    let server = Server::start(&[]);
    let body = server.post(MESSAGES, &ask(FRANCE, json!({"system": "Be brief."}))).json();
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    assert!(body["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(body["model"], "mistral-medium-3.5");
    assert_eq!(body["stop_reason"], "end_turn");
    let [text] = body["content"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!(text["type"], "text");

    let plain = server.post(MESSAGES, &ask(FRANCE, json!({}))).json();
    assert_eq!(plain["content"], json!([{"type": "text", "text": PARIS}]));
    let answer = server.post(MESSAGES, &ask(FRANCE, json!({"stream": true})));
    assert!(answer.header("request-id").is_some());
    let mut events = answer.events();
    // One comes at once, others where the reply takes its time.
    assert_eq!(events[1]["type"], "ping");
    events.retain(|event| event["type"] != "ping");
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(kinds(&events), expected);
    assert_eq!(events[0]["message"]["content"], json!([]));
    assert_eq!(joined(&events, "text"), PARIS);
    let end = &events[events.len() - 2];
    assert_eq!(end["delta"], json!({"stop_reason": "end_turn", "stop_sequence": null}));
    assert_eq!(end["usage"]["output_tokens"], plain["usage"]["output_tokens"]);
}

#[test]
fn a_reply_ends_at_its_limit_or_at_a_stop_sequence() {
    let server = Server::start(&[]);
    let end = |more: Value| {
        let body = server.post(MESSAGES, &ask(FRANCE, more)).json();
        let text = body["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        (body["stop_reason"].clone(), body["stop_sequence"].clone(), text)
    };
    let (reason, by, text) = end(json!({"stop_sequences": ["France"]}));
    assert_eq!(
        (reason, by, text.as_str()),
        (json!("stop_sequence"), json!("France"), "The capital of ")
    );
    let (reason, by, _) = end(json!({"max_tokens": 2}));
    assert_eq!((reason, by), (json!("max_tokens"), Value::Null));
}

#[test]
fn a_call_comes_as_a_part_and_its_result_goes_back_as_one() {
    let server = Server::start(&[]);
    let body = server.post(MESSAGES, &weather(json!({}))).json();
    assert_eq!(body["stop_reason"], "tool_use");
    let call = body["content"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("get_weather")));
    assert_eq!(call["input"], json!({"city": "Ottawa"}));

    let events = server.post(MESSAGES, &weather(json!({"stream": true}))).events();
    let begun = events.iter().find(|event| event["content_block"]["type"] == "tool_use").unwrap();
    assert_eq!(begun["content_block"]["input"], json!({}));
    let input: Value = serde_json::from_str(&joined(&events, "partial_json")).unwrap();
    assert_eq!(input, call["input"]);

    let result = json!({"type": "tool_result", "tool_use_id": call["id"], "content": "4 °C, rain"});
    let messages = json!([
        {"role": "user", "content": "Weather in Ottawa please"},
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": [result]},
    ]);
    let more = json!({"messages": messages, "tool_choice": {"type": "none"}});
    let answer = server.post(MESSAGES, &weather(more)).json();
    assert_eq!(answer["stop_reason"], "end_turn", "{answer}");
    assert_eq!(answer["content"][0]["type"], "text");
}

#[test]
fn thinking_is_a_part_with_a_signature_and_can_be_sent_back() {
    let server = Server::start(&[]);
    let thinking =
        json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 800});
    let body = server.post(MESSAGES, &ask("What is 17+25?", thinking.clone())).json();
    let [thought, text] = body["content"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!((&thought["type"], &text["type"]), (&json!("thinking"), &json!("text")));
    assert!(thought["signature"].as_str().is_some_and(|signature| !signature.is_empty()));
    assert!(body["usage"]["output_tokens_details"]["thinking_tokens"].as_u64().unwrap() > 0);

    let stream = with(thinking.clone(), json!({"stream": true}));
    let events = server.post(MESSAGES, &ask("What is 17+25?", stream)).events();
    assert_eq!(json!(joined(&events, "thinking")), thought["thinking"]);
    assert_eq!(json!(joined(&events, "signature")), thought["signature"]);
    assert_eq!(json!(joined(&events, "text")), text["text"]);

    let messages = json!([
        {"role": "user", "content": "What is 17+25?"},
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": "Thanks"},
    ]);
    let back = ask("", with(thinking, json!({"messages": messages, "max_tokens": 2})));
    assert_eq!(server.post(MESSAGES, &back).status, 200);
}

#[test]
fn tokens_are_counted_as_they_are_billed() {
    let server = Server::start(&[]);
    let n = server.post(COUNT, &ask(FRANCE, json!({}))).json();
    let usage = server.post(MESSAGES, &ask(FRANCE, json!({}))).json()["usage"].clone();
    let read = |name: &str| usage[name].as_u64().unwrap();
    let read = read("input_tokens") + read("cache_read_input_tokens");
    assert_eq!(n, json!({"input_tokens": read}));
}

#[track_caller]
fn check_error(answer: &Answer, status: u16, kind: &str, expected: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)));
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(expected), "{message}");
    assert_eq!(body["request_id"].as_str(), answer.header("request-id"));
}

#[test]
fn errors_have_the_protocol_s_shape() {
    const INVALID: &str = "invalid_request_error";
    let server = Server::start(&["--api-key", "sesame"]);
    let post = |path: &str, body: &Value| {
        let headers = [("content-type", "application/json"), ("x-api-key", "sesame")];
        server.ask("POST", path, &headers, &body.to_string())
    };
    for (more, status, kind, expected) in [
        (json!({"model": "claude-sonnet-4-5"}), 400, "invalid_request_error", "invalid_model"),
        (json!({"max_tokens": 0}), 400, INVALID, "max_tokens: expected"),
        (json!({"thinking": {"type": "sometimes"}}), 400, INVALID, "thinking.type: expected"),
        (json!({"messages": "hi"}), 400, INVALID, "messages: expected a list"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}),
            400,
            INVALID,
            "content[0].type",
        ),
        (
            json!({"tools": [{"name": "f", "input_schema": 5}]}),
            400,
            INVALID,
            "tools[0].input_schema",
        ),
    ] {
        check_error(&post(MESSAGES, &ask(FRANCE, more.clone())), status, kind, expected);
        if !more["max_tokens"].is_number() {
            check_error(&post(COUNT, &ask(FRANCE, more)), status, kind, expected);
        }
    }
    let long = post(MESSAGES, &ask(&"one two three ".repeat(1000), json!({})));
    check_error(&long, 400, INVALID, " tokens > 2048 maximum");
    assert!(long.json()["error"]["message"].as_str().unwrap().starts_with("prompt is too long: "));
    check_error(
        &server.post(MESSAGES, &ask(FRANCE, json!({}))),
        401,
        "authentication_error",
        "key",
    );
    check_error(&server.ask("GET", MESSAGES, &[("x-api-key", "sesame")], ""), 405, INVALID, "");
    let headers = [("x-api-key", "sesame"), ("anthropic-version", "2023-06-01")];
    let unknown = server.ask("GET", "/v1/models/claude-sonnet-4-5", &headers, "");
    check_error(&unknown, 400, "invalid_request_error", "invalid_model");
}
