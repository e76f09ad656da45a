//! Replies as events and as objects.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answer::{Answer, Head};
use super::asked;
use crate::chat::{ClientTool, FinishReason, Node, ReplyEvent};
use crate::scheduler::Logprobs;
use crate::server::http::{ApiError, ErrorKind};
use crate::server::request::{Asked, ReplyItem, ScoredToken, Usage};
use crate::server::{App, Config};
use crate::tokenizer::Tokenizer;

const USAGE: Usage = Usage {
    n_prompt: 10,
    n_cached: 4,
    n_image: 0,
    n_completion: 7,
    n_reasoning: 2,
    spent: crate::scheduler::Spent {
        n_prefilled: 6,
        n_generated: 7,
        waited_s: 0.0,
        prefill_s: 0.0,
        decode_s: 0.0,
    },
};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&crate::model::builtin()).unwrap()
}

fn head() -> Head {
    Head { digits: "0".repeat(24), created: 5, model: "m".to_owned(), ..Head::default() }
}

fn item(event: ReplyEvent) -> ReplyItem {
    ReplyItem::Event { choice: 0, event, tokens: Vec::new() }
}

fn reasoning(text: &str) -> ReplyItem {
    item(ReplyEvent::Reasoning(text.to_owned()))
}

fn text(text: &str) -> ReplyItem {
    item(ReplyEvent::Text(text.to_owned()))
}

fn call(id: &str, name: &str, arguments: &[&str]) -> Vec<ReplyItem> {
    let started = ReplyEvent::ToolCallStarted { id: id.to_owned(), name: name.to_owned() };
    let more = |part: &&str| item(ReplyEvent::ToolCallArguments((*part).to_owned()));
    std::iter::once(item(started)).chain(arguments.iter().map(more)).collect()
}

fn finished(reason: FinishReason) -> [ReplyItem; 2] {
    [
        item(ReplyEvent::Finished { reason, malformed: false, stopped_by: None }),
        ReplyItem::Done(USAGE),
    ]
}

/// The events after the first two, checked to be framed and numbered, and the object.
fn write(head: Head, items: impl IntoIterator<Item = ReplyItem>) -> (Vec<Value>, Value) {
    let tokenizer = tokenizer();
    let mut answer = Answer::new(head);
    let mut written = answer.begin();
    for item in items {
        assert!(!answer.is_over());
        written.push_str(&answer.take(item, &tokenizer));
    }
    assert!(answer.is_over());
    let mut events = Vec::new();
    for (k, event) in written.split_terminator("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        assert_eq!(data["sequence_number"], k);
        events.push(data);
    }
    for (event, kind) in events.iter().zip(["response.created", "response.in_progress"]) {
        assert_eq!(event["type"], kind);
        assert_eq!(event["response"]["status"], "in_progress");
        assert_eq!(event["response"]["output"], json!([]));
    }
    (events.split_off(2), answer.object())
}

/// An event in few words.
fn brief(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap().trim_start_matches("response.");
    let said = ["delta", "text", "arguments", "input"].iter().find_map(|name| event[name].as_str());
    let said = said.map(|said| format!(" {said:?}")).unwrap_or_default();
    let index = event["output_index"].as_u64().map(|k| format!(" {k}")).unwrap_or_default();
    format!("{kind}{index}{said}")
}

#[test]
fn a_reply_of_all_kinds() {
    let mut items = vec![reasoning("th"), reasoning("ink"), text("an"), text("swer")];
    items.extend(call("abcdefgh1", "f", &["{\"x\":", "1}"]));
    items.extend(finished(FinishReason::ToolCalls));
    let (events, object) = write(head(), items);
    assert_eq!(
        events.iter().map(brief).collect::<Vec<_>>(),
        [
            "output_item.added 0",
            "reasoning_summary_part.added 0",
            "reasoning_summary_text.delta 0 \"th\"",
            "reasoning_summary_text.delta 0 \"ink\"",
            "reasoning_summary_text.done 0 \"think\"",
            "reasoning_summary_part.done 0",
            "output_item.done 0",
            "output_item.added 1",
            "content_part.added 1",
            "output_text.delta 1 \"an\"",
            "output_text.delta 1 \"swer\"",
            "output_text.done 1 \"answer\"",
            "content_part.done 1",
            "output_item.done 1",
            "output_item.added 2",
            "function_call_arguments.delta 2 \"{\\\"x\\\":\"",
            "function_call_arguments.delta 2 \"1}\"",
            "function_call_arguments.done 2 \"{\\\"x\\\":1}\"",
            "output_item.done 2",
            "completed",
        ]
    );
    let zeros = "0".repeat(24);
    assert_eq!(
        events[0],
        json!({
            "type": "response.output_item.added", "sequence_number": 2, "output_index": 0,
            "item": {"id": format!("rs_{zeros}00"), "type": "reasoning", "status": "in_progress",
                "summary": [], "encrypted_content": null},
        })
    );
    assert_eq!(
        events[8],
        json!({
            "type": "response.content_part.added", "sequence_number": 10,
            "item_id": format!("msg_{zeros}01"), "output_index": 1, "content_index": 0,
            "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
        })
    );
    assert_eq!(
        events[14]["item"],
        json!({
            "id": format!("fc_{zeros}02"), "type": "function_call", "status": "in_progress",
            "call_id": "abcdefgh1", "name": "f", "arguments": "",
        })
    );
    assert_eq!(events.last().unwrap()["response"], object);
    assert_eq!(
        object,
        json!({
            "id": format!("resp_{zeros}"), "object": "response", "created_at": 5,
            "status": "completed", "background": false, "error": null, "incomplete_details": null,
            "model": "m",
            "output": [
                {"id": format!("rs_{zeros}00"), "type": "reasoning", "status": "completed",
                    "summary": [{"type": "summary_text", "text": "think"}],
                    "encrypted_content": null},
                {"id": format!("msg_{zeros}01"), "type": "message", "status": "completed",
                    "role": "assistant", "content": [{"type": "output_text", "text": "answer",
                    "annotations": [], "logprobs": []}]},
                {"id": format!("fc_{zeros}02"), "type": "function_call", "status": "completed",
                    "call_id": "abcdefgh1", "name": "f", "arguments": "{\"x\":1}"},
            ],
            "previous_response_id": null, "store": false,
            "usage": {"input_tokens": 10,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
                "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 17},
        })
    );
}

#[test]
fn custom_tools_are_called_with_free_text() {
    let custom = ClientTool { name: "patch".to_owned(), namespace: None, is_custom: true };
    let spaced =
        ClientTool { name: "g".to_owned(), namespace: Some("docs".to_owned()), is_custom: false };
    let tools = HashMap::from([("patch".to_owned(), custom), ("docs__g".to_owned(), spaced)]);
    let mut items = call("abcdefgh1", "patch", &["{\"input\": \"a\\n", "b\"}"]);
    items.extend(call("abcdefgh2", "docs__g", &["{}"]));
    items.extend(finished(FinishReason::ToolCalls));
    let (events, object) = write(Head { tools, ..head() }, items);
    assert_eq!(
        events.iter().take(4).map(brief).collect::<Vec<_>>(),
        [
            "output_item.added 0",
            "custom_tool_call_input.delta 0 \"a\\nb\"",
            "custom_tool_call_input.done 0 \"a\\nb\"",
            "output_item.done 0",
        ]
    );
    let output = &object["output"];
    assert_eq!(
        (&output[0]["type"], &output[0]["input"]),
        (&json!("custom_tool_call"), &json!("a\nb"))
    );
    assert_eq!((&output[1]["name"], &output[1]["namespace"]), (&json!("g"), &json!("docs")));
}

#[test]
fn a_reply_that_is_cut_off_is_incomplete() {
    let (events, object) =
        write(head(), [text("x")].into_iter().chain(finished(FinishReason::Length)));
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    assert_eq!(object["status"], "incomplete");
    assert_eq!(object["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(object["output"][0]["status"], "incomplete");
}

#[test]
fn a_reply_that_fails_keeps_what_was_said() {
    let error = ApiError::new(ErrorKind::Unavailable { retry_after_s: 1 }, "the engine stopped");
    let (events, object) = write(head(), [text("x"), ReplyItem::Failed(error, USAGE)]);
    let [.., failed, last] = events.as_slice() else { panic!("two events at least") };
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"], object);
    assert_eq!(object["status"], "failed");
    assert_eq!(object["error"], json!({"code": "server_error", "message": "the engine stopped"}));
    assert_eq!(object["output"][0]["content"][0]["text"], "x");
    assert_eq!(last["type"], "error");
    assert_eq!(last["code"], "server_error");
    assert_eq!(last["error"]["message"], "the engine stopped");
}

#[test]
fn reasoning_is_hidden_or_marked_as_asked() {
    let items = || [reasoning("t"), text("x")].into_iter().chain(finished(FinishReason::Stop));
    let (_, object) = write(Head { hides_reasoning: true, ..head() }, items());
    assert_eq!(object["output"].as_array().unwrap().len(), 1);
    let (_, object) = write(Head { encrypts_reasoning: true, ..head() }, items());
    assert!(object["output"][0]["encrypted_content"].is_string());
}

#[test]
fn probabilities_stand_beside_their_text() {
    let logprobs = Logprobs { chosen: -0.5, top: vec![(66, f32::NEG_INFINITY)] };
    let tokens = vec![ScoredToken { id: 65, logprobs }];
    let event = ReplyEvent::Text("x".to_owned());
    let said = ReplyItem::Event { choice: 0, event, tokens };
    let (events, object) = write(head(), [said].into_iter().chain(finished(FinishReason::Stop)));
    let scores = &object["output"][0]["content"][0]["logprobs"];
    assert_eq!(&events[2]["logprobs"], scores);
    assert_eq!(scores[0]["logprob"], -0.5);
    assert_eq!(scores[0]["top_logprobs"][0]["logprob"], -9999.0);
}

fn read(json: &str) -> Result<Asked, ApiError> {
    asked::asked(&Node::root(json)?.fields()?, &App::for_tests(Config::default()))
}

#[test]
fn what_needs_a_memory_is_refused() {
    for (json, param) in [
        (r#"{"previous_response_id": "resp_1"}"#, "previous_response_id"),
        (r#"{"conversation": {"id": "c"}}"#, "conversation"),
        (r#"{"prompt": {"id": "p"}}"#, "prompt"),
        (r#"{"background": true}"#, "background"),
    ] {
        let error = read(json).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param));
        assert_eq!(error.code(), Some("unsupported_parameter"));
    }
    for (json, param) in [
        (r#"{"truncation": "some"}"#, "truncation"),
        (r#"{"max_output_tokens": 0}"#, "max_output_tokens"),
        (r#"{"max_output_tokens": 2147483648}"#, "max_output_tokens"),
        (r#"{"temperature": "1"}"#, "temperature"),
        (r#"{"top_logprobs": 21}"#, "top_logprobs"),
        (r#"{"stream": 1}"#, "stream"),
    ] {
        assert_eq!(read(json).unwrap_err().param.as_deref(), Some(param), "{json}");
    }
}

#[test]
fn wishes_are_read_and_repeated() {
    let json = r#"{"stream": true, "store": true, "background": false, "temperature": 0.5,
        "max_output_tokens": 9.0, "parallel_tool_calls": false, "truncation": "auto",
        "include": ["message.output_text.logprobs"], "text": {"verbosity": "low"},
        "metadata": {"a": "b"}, "previous_response_id": null}"#;
    let asked = read(json).unwrap();
    assert!(asked.stream && asked.single_call);
    assert_eq!((asked.n_max, asked.n_logprobs), (Some(9), Some(0)));
    assert_eq!(asked.sampling.temperature, Some(0.5));
    let echo = Value::Object(asked::echo(&Node::root(json).unwrap().fields().unwrap()));
    assert_eq!(echo["temperature"], 0.5);
    assert_eq!(echo["metadata"], json!({"a": "b"}));
    assert_eq!(echo["text"], json!({"verbosity": "low", "format": {"type": "text"}}));
    assert_eq!(echo["tools"], json!([]));
}
