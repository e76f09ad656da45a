//! What is wrong with a request, as each protocol tells it.

use serde_json::{Value, json};

use crate::util::http::{Answer, Server};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn chat(content: Value) -> Value {
    json!({"messages": [{"role": "user", "content": content}], "max_tokens": 2})
}

fn responses(content: Value) -> Value {
    json!({"input": [{"role": "user", "content": content}], "max_output_tokens": 2})
}

/// Checks status, code and field where OpenAI's and Mistral's clients look for them.
#[track_caller]
fn check(answer: &Answer, status: u16, code: Option<&str>, param: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    for error in [&body, &body["error"]] {
        assert_eq!(
            (error["code"].as_str(), error["param"].as_str()),
            (code, Some(param)),
            "{body}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[test]
fn a_prompt_that_is_too_long_is_told_of_its_own_field() {
    let server = Server::start(&[]);
    let long = "one two three ".repeat(1000);
    for (path, body, param) in [
        (CHAT, chat(json!(long)), "messages"),
        ("/v1/completions", json!({"prompt": long}), "prompt"),
        ("/v1/completions", json!({"prompt": vec![5; 2048]}), "prompt"),
        ("/v1/fim/completions", json!({"prompt": long, "suffix": "x"}), "prompt"),
        (RESPONSES, responses(json!(long)), "input"),
    ] {
        let answer = server.post(path, &body);
        check(&answer, 400, Some("context_length_exceeded"), param);
        assert!(answer.text().contains("This model's maximum context length is 2048 tokens"));
        assert_eq!(answer.json()["n_ctx"], 2048);
    }
}

#[test]
fn a_picture_that_cannot_be_used_is_told_with_its_place() {
    let server = Server::start(&["--no-fetch"]);
    let text = json!({"type": "text", "text": "What is this?"});
    for url in [
        "data:image/png;base64,AAAA",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA",
        "data:image/png;base64,!",
        "https://example.com/a.png",
        "file:///etc/passwd",
    ] {
        let image = json!({"type": "image_url", "image_url": {"url": url}});
        let answer = server.post(CHAT, &chat(json!([text, image])));
        let place = "messages[0].content[1].image_url.url";
        check(&answer, 400, Some("invalid_image"), place);
        let image = json!({"type": "input_image", "image_url": url});
        let answer = server.post(RESPONSES, &responses(json!([image])));
        check(&answer, 400, Some("invalid_image"), "input[0].content[0].image_url");
        let image = json!({"type": "image", "source": {"type": "url", "url": url}});
        let answer = server.post(MESSAGES, &chat(json!([text, image])));
        assert_eq!(answer.status, 400);
        let error = answer.json()["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("messages[0].content[1].source.url: "), "{message}");
    }
}

#[test]
fn mistral_s_own_client_has_its_type_of_fault() {
    let server = Server::start(&[]);
    let ask = |path: &str, body: Value| {
        let agent = "speakeasy-sdk/python 3.7.0 2.935.1 1.0.0 mistralai";
        let headers = [("content-type", "application/json"), ("user-agent", agent)];
        server.ask("POST", path, &headers, &body.to_string())
    };
    let answer = ask(CHAT, json!({"messages": [{"role": "user", "content": 5}]}));
    check(&answer, 422, None, "messages[0].content");
    let detail = &answer.json()["detail"][0];
    assert_eq!(detail["loc"], json!(["body", "messages", 0, "content"]));
    assert!(detail["msg"].is_string() && detail["type"].is_string());
    check(&ask("/v1/fim/completions", json!({"prompt": 5})), 422, None, "prompt");
    // What is not about a field's form is as it is for everybody.
    let unknown = json!({"model": "mistral-small-latest", "messages": []});
    check(&ask(CHAT, unknown), 400, Some("model_not_found"), "model");
    check(
        &ask(CHAT, chat(json!("one two three ".repeat(1000)))),
        400,
        Some("context_length_exceeded"),
        "messages",
    );
    check(&ask(CHAT, json!({"messages": []})), 400, None, "messages");
}

#[test]
fn tools_of_a_provider_s_own_are_left_out_and_told() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {}});
    let function = json!({"name": "f", "parameters": schema});
    let with = |mut body: Value, tools: Value| {
        body["tools"] = tools;
        body
    };
    for (path, body, kind) in [
        (
            CHAT,
            with(
                chat(json!("hi")),
                json!([{"type": "function", "function": function}, {"type": "web_search"}]),
            ),
            "web_search",
        ),
        (
            CHAT,
            with(
                chat(json!("hi")),
                json!([{"type": "function", "function": function},
                {"type": "document_library", "library_ids": ["x"]}]),
            ),
            "document_library",
        ),
        (
            RESPONSES,
            with(
                responses(json!("hi")),
                json!([{"type": "function", "name": "f", "parameters": schema},
                {"type": "web_search"}]),
            ),
            "web_search",
        ),
        (
            MESSAGES,
            with(
                chat(json!("hi")),
                json!([{"name": "f", "input_schema": schema},
                {"type": "bash_20250124", "name": "bash"}]),
            ),
            "bash_20250124",
        ),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.header("x-gust-changes").unwrap();
        assert!(told.starts_with("tools[1]: ") && told.contains(kind), "{path}: {told}");
    }
    let alone = json!([{"type": "web_search_20250305", "name": "web_search"}]);
    assert_eq!(server.post(MESSAGES, &with(chat(json!("hi")), alone)).status, 400);
}
