//! Chat completions, completions and fill-in-the-middle, as the built-in model answers them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::util::http::{Answer, PATIENCE, Server};

const CHAT: &str = "/v1/chat/completions";
const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

fn chat(question: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "mistral-medium-3.5",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn weather(more: Value) -> Value {
    let tools = include_str!("../../models/tiny/examples/tools.json");
    let mut body = chat("Weather in Ottawa please", more);
    body["tools"] = serde_json::from_str(tools).unwrap();
    body
}

/// The data of a stream's events; the last of a stream that went well is `[DONE]`.
#[track_caller]
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").unwrap().starts_with("text/event-stream"));
    let text = answer.text();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with(':'));
    let mut data: Vec<&str> = lines.map(|line| line.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// What a choice's deltas have under a name, joined.
fn joined(events: &[Value], name: &str) -> String {
    let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"][name].as_str());
    deltas.collect()
}

fn finishes(events: &[Value]) -> Vec<&str> {
    let choices = events.iter().filter_map(|event| event["choices"].as_array()).flatten();
    choices.filter_map(|choice| choice["finish_reason"].as_str()).collect()
}

#[test]
fn an_answer_is_a_message_or_a_stream_of_the_same_text() {
    let server = Server::start(&[]);
    let body = server.post(CHAT, &chat(FRANCE, json!({}))).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], PARIS);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "mistral-medium-3.5");
    let usage = &body["usage"];
    let n = |name: &str| usage[name].as_u64().unwrap();
    assert!(n("prompt_tokens") > 0 && n("completion_tokens") > 0);
    assert_eq!(n("total_tokens"), n("prompt_tokens") + n("completion_tokens"));

    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = events(&server.post(CHAT, &chat(FRANCE, more)));
    assert_eq!(joined(&events, "content"), PARIS);
    assert_eq!(finishes(&events), ["stop"]);
    let (usage_event, rest) = events.split_last().unwrap();
    assert_eq!(usage_event["choices"], json!([]));
    assert_eq!(usage_event["usage"]["completion_tokens"], usage["completion_tokens"]);
    assert!(rest.iter().all(|event| event["usage"].is_null()));
    assert!(usage_event["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn reasoning_is_written_as_each_dialect_has_it() {
    let server = Server::start(&[]);
    let question = |stream: bool| {
        chat("What is 17+25?", json!({"reasoning_effort": "high", "stream": stream}))
    };
    let message = server.post(CHAT, &question(false)).json()["choices"][0]["message"].clone();
    let (reasoning, text) = (&message["reasoning_content"], &message["content"]);
    assert!(reasoning.as_str().is_some_and(|reasoning| !reasoning.is_empty()), "{message}");
    assert_eq!(&message["reasoning"], reasoning);
    let streamed = events(&server.post(CHAT, &question(true)));
    assert_eq!(&json!(joined(&streamed, "reasoning_content")), reasoning);
    assert_eq!(&json!(joined(&streamed, "content")), text);

    let mistral = |stream: bool| {
        let headers = [("content-type", "application/json"), ("x-gust-dialect", "mistral")];
        server.ask("POST", CHAT, &headers, &question(stream).to_string())
    };
    let message = mistral(false).json()["choices"][0]["message"].clone();
    let parts = json!([
        {"type": "thinking", "thinking": [{"type": "text", "text": reasoning}], "closed": true},
        {"type": "text", "text": text},
    ]);
    assert_eq!(message["content"], parts);
    let streamed = events(&mistral(true));
    let thought = streamed.iter().filter_map(|event| {
        event["choices"][0]["delta"]["content"][0]["thinking"][0]["text"].as_str()
    });
    assert_eq!(&json!(thought.collect::<String>()), reasoning);
    assert_eq!(&json!(joined(&streamed, "content")), text);
    assert!(streamed.last().unwrap()["usage"]["prompt_tokens"].is_u64());
    assert!(streamed.iter().all(|event| event["choices"].as_array().unwrap().len() == 1));
}

#[test]
fn a_call_has_one_name_one_id_and_json_for_arguments() {
    let server = Server::start(&[]);
    let body = server.post(CHAT, &weather(json!({}))).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "get_weather");
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Ottawa"}));

    let streamed = events(&server.post(CHAT, &weather(json!({"stream": true}))));
    let deltas: Vec<&Value> = streamed
        .iter()
        .map(|event| &event["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| call.is_object())
        .collect();
    assert_eq!(deltas.iter().filter(|call| call["id"].is_string()).count(), 1);
    let part = |name: &str| -> String {
        deltas.iter().map(|call| call["function"][name].as_str().unwrap()).collect()
    };
    assert_eq!(part("name"), "get_weather");
    assert_eq!(json!(part("arguments")), function["arguments"]);
    assert_eq!(finishes(&streamed), ["tool_calls"]);
}

#[test]
fn several_replies_have_an_index_each_and_tokens_have_probabilities() {
    let server = Server::start(&[]);
    let more = json!({"n": 2, "logprobs": true, "top_logprobs": 2});
    let body = server.post(CHAT, &chat(FRANCE, more.clone())).json();
    for index in 0..2 {
        let choice = &body["choices"][index];
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], PARIS);
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        let bytes = tokens.iter().flat_map(|token| token["bytes"].as_array().unwrap());
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
        assert!(String::from_utf8(bytes).unwrap().starts_with(PARIS));
        for token in tokens {
            assert!(token["logprob"].as_f64().unwrap() <= 0.0);
            assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        }
    }
    let mut body = chat(FRANCE, more);
    body["stream"] = json!(true);
    let streamed = events(&server.post(CHAT, &body));
    assert_eq!(finishes(&streamed), ["stop", "stop"]);
    let last = streamed.last().unwrap();
    assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn a_reply_is_as_long_as_it_has_to_be() {
    let server = Server::start(&[]);
    let n_tokens = |more: Value| {
        let usage = server.post(CHAT, &chat(FRANCE, more)).json()["usage"].clone();
        usage["completion_tokens"].as_u64().unwrap()
    };
    let n = n_tokens(json!({}));
    assert_eq!(n_tokens(json!({"min_tokens": n - 1})), n);
    assert!(n_tokens(json!({"min_tokens": n + 3, "max_tokens": n + 9})) > n + 3);
}

#[test]
fn what_is_altered_is_told_in_a_header() {
    let server = Server::start(&[]);
    let answer = server.post(CHAT, &chat(FRANCE, json!({"reasoning_effort": "medium"})));
    assert_eq!(answer.status, 200);
    assert!(answer.header("x-gust-changes").unwrap().contains("reasoning_effort"), "{answer:?}");
    assert_eq!(server.post(CHAT, &chat(FRANCE, json!({}))).header("x-gust-changes"), None);
}

#[test]
fn faults_name_their_field() {
    let server = Server::start(&[]);
    let text = |more: Value| {
        let mut body = json!({"prompt": "a", "max_tokens": 2});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, body, param) in [
        (CHAT, chat(FRANCE, json!({"model": "gpt-5"})), "model"),
        (CHAT, chat(FRANCE, json!({"max_tokens": 0})), "max_tokens"),
        (CHAT, chat(FRANCE, json!({"stop": [""]})), "stop"),
        (CHAT, chat(FRANCE, json!({"temperature": "hot"})), "temperature"),
        ("/v1/completions", text(json!({"prompt": ""})), "prompt"),
        ("/v1/completions", text(json!({"prompt": []})), "prompt"),
        ("/v1/completions", text(json!({"prompt": [1, -7]})), "prompt[1]"),
        ("/v1/completions", text(json!({"prompt": vec!["a"; 17]})), "prompt"),
        ("/v1/completions", text(json!({"echo": true, "logprobs": 1})), "echo"),
        ("/v1/completions", text(json!({"best_of": 2})), "best_of"),
        ("/v1/completions", text(json!({"suffix": "b", "prompt": [5]})), "suffix"),
        ("/v1/fim/completions", json!({"suffix": "b"}), "prompt"),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}: {}", answer.text());
    }
    let long = text(json!({"prompt": vec![1000; 3000]}));
    assert_eq!(server.post("/v1/completions", &long).status, 400);
    let broken = server.ask("POST", CHAT, &[("content-type", "application/json")], "{");
    assert_eq!(broken.status, 400);
    // The log has a line of each, and one only.
    let start = Instant::now();
    while !server.said().contains("the body is not JSON") {
        assert!(start.elapsed() < PATIENCE, "{}", server.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = server.said();
    let n_lines = |part: &str| said.lines().filter(|line| line.contains(part)).count();
    assert_eq!(n_lines(": 400 "), 14, "{said}");
    assert_eq!(n_lines("/v1/chat/completions: 400 model_not_found: "), 1, "{said}");
    assert_eq!(n_lines(": 400 context_length_exceeded: "), 1, "{said}");
    assert_eq!(n_lines("400 invalid_request_error: the body is not JSON"), 1, "{said}");
}

#[test]
fn plain_text_goes_on_from_each_prompt() {
    let server = Server::start(&[]);
    let body = |more: Value| {
        let mut body = json!({"prompt": "Once", "max_tokens": 4, "temperature": 0, "echo": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let one = server.post("/v1/completions", &body(json!({}))).json();
    let text = one["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(one["object"], "text_completion");
    assert!(text.starts_with("Once") && text.len() > 4, "{one}");
    let several = server.post("/v1/completions", &body(json!({"prompt": ["The", "Once"]}))).json();
    assert_eq!(several["choices"][1]["text"], text);
    assert!(several["choices"][0]["text"].as_str().unwrap().starts_with("The"));

    let streamed = events(&server.post("/v1/completions", &body(json!({"stream": true}))));
    let pieces = streamed.iter().map(|event| event["choices"][0]["text"].as_str().unwrap());
    assert_eq!(pieces.collect::<String>(), text);
    assert_eq!(finishes(&streamed).len(), 1);

    let choices = json!(["a red one", "a blue one"]);
    for form in [
        json!({"response_format": {"type": "json_schema", "json_schema":
            {"name": "colour", "schema": {"enum": choices}}}}),
        json!({"guided_choice": choices}),
    ] {
        for path in ["/v1/completions", "/v1/fim/completions"] {
            let mut body = body(form.clone());
            body.as_object_mut().unwrap().extend([("max_tokens".to_owned(), json!(40))]);
            body.as_object_mut().unwrap().remove("echo");
            let choice = server.post(path, &body).json()["choices"][0].clone();
            let said = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
            let said = said.trim_matches('"');
            assert!(choices.as_array().unwrap().contains(&json!(said)), "{path} {form}: {choice}");
        }
    }

    let fim = json!({"prompt": "a = ", "suffix": "\n", "max_tokens": 3, "temperature": 0});
    let fim = server.post("/v1/fim/completions", &fim).json();
    assert_eq!(fim["object"], "chat.completion");
    assert!(fim["choices"][0]["message"]["content"].is_string());
}
