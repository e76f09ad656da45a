//! Replies as transcripts: what goes out for what comes in, byte for byte.

use serde_json::{Value, json};

use super::body::MessageBody;
use super::error;
use super::stream::MessageStream;
use super::wire::{Head, SIGNATURE};
use crate::chat::{FinishReason, ReplyEvent};
use crate::scheduler::Start;
use crate::server::http::{ApiError, ErrorKind};
use crate::server::request::{ReplyItem, Usage};

fn item(event: ReplyEvent) -> ReplyItem {
    ReplyItem::Event { choice: 0, event, tokens: Vec::new() }
}

fn thinks(text: &str) -> ReplyItem {
    item(ReplyEvent::Reasoning(text.to_owned()))
}

fn says(text: &str) -> ReplyItem {
    item(ReplyEvent::Text(text.to_owned()))
}

fn calls(id: &str, name: &str) -> ReplyItem {
    item(ReplyEvent::ToolCallStarted { id: id.to_owned(), name: name.to_owned() })
}

fn with(arguments: &str) -> ReplyItem {
    item(ReplyEvent::ToolCallArguments(arguments.to_owned()))
}

fn ends(reason: FinishReason, stopped_by: Option<&str>) -> ReplyItem {
    let stopped_by = stopped_by.map(str::to_owned);
    item(ReplyEvent::Finished { reason, malformed: false, stopped_by })
}

fn head(hides_thinking: bool) -> Head {
    let [id, request_id, model] = ["msg_1", "req_1", "m"].map(str::to_owned);
    Head { id, request_id, model, hides_thinking }
}

/// A whole reply around these pieces.
fn reply(pieces: &[ReplyItem]) -> Vec<ReplyItem> {
    let start = ReplyItem::Started(Start { n_prompt: 10, n_reused: 4, miss: None });
    let usage =
        Usage { n_prompt: 10, n_cached: 4, n_completion: 7, n_reasoning: 2, ..Usage::default() };
    [&[start], pieces, &[ReplyItem::Done(usage)]].concat()
}

fn streamed(pieces: &[ReplyItem], hides_thinking: bool) -> String {
    let mut stream = MessageStream::new(head(hides_thinking));
    reply(pieces).into_iter().map(|item| stream.push(item)).collect()
}

fn gathered(pieces: &[ReplyItem], hides_thinking: bool) -> String {
    let mut body = MessageBody::new(head(hides_thinking));
    let answers = reply(pieces).into_iter().filter_map(|item| body.push(item).unwrap());
    answers.map(|answer| answer.get().to_owned()).collect()
}

/// A stream's events with their names, checked to be framed as clients expect.
fn events(stream: &str) -> Vec<(String, Value)> {
    let event = |text: &str| {
        let (name, data) = text.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name.to_owned(), data)
    };
    stream.strip_suffix("\n\n").unwrap().split("\n\n").map(event).collect()
}

/// What clients make of a stream: its parts, put together as the Python client does.
fn accumulated(stream: &str) -> Value {
    let mut message = Value::Null;
    let mut arguments = String::new();
    for (name, event) in events(stream) {
        match name.as_str() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(event["index"], content.len());
                content.push(event["content_block"].clone());
                arguments.clear();
            }
            "content_block_delta" => {
                let part = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                let delta = &event["delta"];
                for field in ["thinking", "text", "signature"] {
                    if let Some(more) = delta[field].as_str() {
                        part[field] = (part[field].as_str().unwrap().to_owned() + more).into();
                    }
                }
                if let Some(more) = delta["partial_json"].as_str() {
                    arguments.push_str(more);
                    if let Ok(input) = serde_json::from_str(&arguments) {
                        part["input"] = input;
                    }
                }
            }
            "message_delta" => {
                for (field, value) in event["delta"].as_object().unwrap() {
                    message[field] = value.clone();
                }
                message["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    message
}

/// Stream and body tell the same: `content`, `stop_reason` and `stop_sequence`.
#[track_caller]
fn check(pieces: &[ReplyItem], content: &Value, stop_reason: &str, stop_sequence: Option<&str>) {
    let usage = json!({
        "input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
        "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2},
    });
    let expected = json!({
        "type": "message", "id": "msg_1", "role": "assistant", "model": "m", "content": content,
        "stop_reason": stop_reason, "stop_sequence": stop_sequence, "usage": usage,
    });
    let body: Value = serde_json::from_str(&gathered(pieces, false)).unwrap();
    assert_eq!(body, expected);
    assert_eq!(accumulated(&streamed(pieces, false)), expected);
}

#[test]
fn a_stream_is_anthropics_byte_for_byte() {
    let pieces = [
        thinks("h"),
        says("o"),
        says("k"),
        calls("abcdefgh1", "f"),
        with("{\"x\":"),
        with(" 1.0}"),
        ends(FinishReason::ToolCalls, None),
    ];
    let usage = |n: usize, thinking: usize| {
        format!(
            "{{\"input_tokens\":6,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":4,\
             \"output_tokens\":{n},\"output_tokens_details\":{{\"thinking_tokens\":{thinking}}}}}"
        )
    };
    let expected = [
        format!(
            r#"message_start|{{"type":"message_start","message":{{"type":"message","id":"msg_1","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{}}}}}"#,
            usage(0, 0)
        ),
        r#"ping|{"type":"ping"}"#.to_owned(),
        r#"content_block_start|{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#.to_owned(),
        r#"content_block_delta|{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h"}}"#.to_owned(),
        format!(
            r#"content_block_delta|{{"type":"content_block_delta","index":0,"delta":{{"type":"signature_delta","signature":"{SIGNATURE}"}}}}"#
        ),
        r#"content_block_stop|{"type":"content_block_stop","index":0}"#.to_owned(),
        r#"content_block_start|{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#.to_owned(),
        r#"content_block_delta|{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"o"}}"#.to_owned(),
        r#"content_block_delta|{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"k"}}"#.to_owned(),
        r#"content_block_stop|{"type":"content_block_stop","index":1}"#.to_owned(),
        r#"content_block_start|{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"abcdefgh1","name":"f","input":{}}}"#.to_owned(),
        r#"content_block_delta|{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"x\":"}}"#.to_owned(),
        r#"content_block_delta|{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":" 1.0}"}}"#.to_owned(),
        r#"content_block_stop|{"type":"content_block_stop","index":2}"#.to_owned(),
        format!(
            r#"message_delta|{{"type":"message_delta","delta":{{"stop_reason":"tool_use","stop_sequence":null}},"usage":{}}}"#,
            usage(7, 2)
        ),
        r#"message_stop|{"type":"message_stop"}"#.to_owned(),
    ];
    let expected: String = expected
        .iter()
        .map(|event| {
            let (name, data) = event.split_once('|').unwrap();
            format!("event: {name}\ndata: {data}\n\n")
        })
        .collect();
    assert_eq!(streamed(&pieces, false), expected);
}

#[test]
fn streams_and_bodies_tell_the_same() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let thinking =
        |text: &str| json!({"type": "thinking", "thinking": text, "signature": SIGNATURE});
    let call = |id: &str, name: &str, input: Value| json!({"type": "tool_use", "id": id, "name": name, "input": input});
    let done = ends(FinishReason::Stop, None);
    check(&[says("a"), says("\nb"), done.clone()], &json!([text("a\nb")]), "end_turn", None);
    check(
        &[thinks("t"), thinks("u"), says("a"), ends(FinishReason::Stop, Some("END"))],
        &json!([thinking("tu"), text("a")]),
        "stop_sequence",
        Some("END"),
    );
    check(
        &[
            calls("1", "f"),
            calls("2", "g"),
            with("{\"a\": []}"),
            ends(FinishReason::ToolCalls, None),
        ],
        &json!([call("1", "f", json!({})), call("2", "g", json!({"a": []}))]),
        "tool_use",
        None,
    );
    let cut_off = ends(FinishReason::Length, None);
    check(&[thinks("t"), cut_off], &json!([thinking("t")]), "max_tokens", None);
    check(&[done], &json!([]), "end_turn", None);
}

#[test]
fn a_body_loses_no_arguments_and_keeps_their_spelling() {
    let cut_off = [says("a"), calls("1", "f"), with("{\"x\": 1"), ends(FinishReason::Length, None)];
    let body: Value = serde_json::from_str(&gathered(&cut_off, false)).unwrap();
    assert_eq!(
        body["content"],
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "f {\"x\": 1"}])
    );
    let list = [calls("1", "f"), with("[1]"), ends(FinishReason::ToolCalls, None)];
    let body: Value = serde_json::from_str(&gathered(&list, false)).unwrap();
    assert_eq!(body["content"], json!([{"type": "text", "text": "f [1]"}]));
    assert_eq!(body["stop_reason"], "end_turn");
    let number = "{\"x\": 123456789012345678901234567890.00}";
    let exact = [calls("1", "f"), with(number), ends(FinishReason::ToolCalls, None)];
    assert!(gathered(&exact, false).contains(&format!("\"input\":{number}")));
}

#[test]
fn thinking_can_be_hidden() {
    let pieces = [thinks("secret"), says("a"), ends(FinishReason::Stop, None)];
    let (stream, body) = (streamed(&pieces, true), gathered(&pieces, true));
    assert!(!stream.contains("secret") && !body.contains("secret"));
    let content = json!([{"type": "text", "text": "a"}]);
    assert_eq!(accumulated(&stream)["content"], content);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["content"], content);
}

#[test]
fn a_failure_ends_a_stream_with_an_error_and_a_body_with_nothing_else() {
    let failure = ApiError::new(ErrorKind::Unavailable { retry_after_s: 1 }, "the engine stopped");
    let failed = ReplyItem::Failed(failure.clone(), Usage::default());
    let mut stream = MessageStream::new(head(false));
    stream.push(says("a"));
    assert_eq!(
        stream.push(failed.clone()),
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\
         \"the engine stopped\"},\"request_id\":\"req_1\"}\n\n"
    );
    let mut body = MessageBody::new(head(false));
    body.push(says("a")).unwrap();
    assert_eq!(body.push(failed).unwrap_err(), failure);
}

#[test]
fn errors_have_anthropics_names() {
    let retry_after_s = 1;
    for (kind, name) in [
        (ErrorKind::InvalidRequest, "invalid_request_error"),
        (ErrorKind::ModelNotFound, "invalid_request_error"),
        (ErrorKind::Unauthorized, "authentication_error"),
        (ErrorKind::Forbidden, "permission_error"),
        (ErrorKind::NotFound, "not_found_error"),
        (ErrorKind::MethodNotAllowed("POST"), "invalid_request_error"),
        (ErrorKind::Timeout, "timeout_error"),
        (ErrorKind::TooLarge, "request_too_large"),
        (ErrorKind::UnsupportedMediaType, "invalid_request_error"),
        (ErrorKind::Overloaded { retry_after_s }, "rate_limit_error"),
        (ErrorKind::Engine, "api_error"),
        (ErrorKind::Loading { retry_after_s }, "overloaded_error"),
        (ErrorKind::Unavailable { retry_after_s }, "overloaded_error"),
    ] {
        assert_eq!(error::body(&ApiError::new(kind, "no"), "req_1")["error"]["type"], name);
    }
    let overflow = error::body(&ApiError::context_length(9000, 4096, "messages"), "req_1");
    assert_eq!(overflow["error"]["type"], "invalid_request_error");
    let message = overflow["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("prompt is too long: 9000 tokens > 4096 maximum. "), "{message}");
    assert!(message.contains("This model's maximum context length is 4096 tokens"), "{message}");
}

#[tokio::test]
async fn answers_are_dressed_once() {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    let error = ApiError::new(ErrorKind::Overloaded { retry_after_s: 3 }, "no room");
    let answer = super::dressed(super::dressed(error.into_response(), "r1"), "r1");
    assert_eq!(answer.status().as_u16(), 429);
    let headers = answer.headers();
    assert_eq!(
        (&headers["retry-after"], &headers["request-id"]),
        (&"3".parse().unwrap(), &"r1".parse().unwrap())
    );
    assert_eq!(headers.get_all("content-type").iter().count(), 1);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({
            "type": "error", "error": {"type": "rate_limit_error", "message": "no room"},
            "request_id": "r1",
        })
    );
    let fine = super::dressed("fine".into_response(), "r2");
    assert_eq!(
        (fine.status().as_u16(), &fine.headers()["request-id"]),
        (200, &"r2".parse().unwrap())
    );
}
