//! Each defect by itself, and then all of them at random.
//!
//! `PROPTEST_CASES=100000` makes the random tests as long as the promise they stand for.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::chat::{Tool, ToolCall, ToolChoice, ToolMessage, read_request};
use crate::vision::Image;

fn user(text: &str) -> Message {
    Message::user(text)
}

fn said(text: &str) -> Message {
    let content = match text {
        "" => vec![],
        text => vec![ContentChunk::Text(text.to_owned())],
    };
    Message::Assistant(AssistantMessage { content, ..AssistantMessage::default() })
}

fn to_go_on(text: &str) -> Message {
    let Message::Assistant(said) = said(text) else { unreachable!() };
    Message::Assistant(AssistantMessage { prefix: true, ..said })
}

fn called(ids: &[&str]) -> Message {
    let call = |id: &&str| ToolCall {
        id: (*id).to_owned(),
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    };
    let tool_calls = ids.iter().map(call).collect();
    Message::Assistant(AssistantMessage { tool_calls, ..AssistantMessage::default() })
}

fn result(id: &str, text: &str) -> Message {
    let content = vec![ContentChunk::Text(text.to_owned())];
    Message::Tool(ToolMessage { content, tool_call_id: id.to_owned() })
}

fn think(thinking: &str) -> ContentChunk {
    ContentChunk::Thinking { thinking: thinking.to_owned(), closed: true }
}

#[track_caller]
fn check(messages: &[Message], expected: &[Message], changes: &[&str]) {
    let request = ChatRequest { messages: messages.to_vec(), ..ChatRequest::default() };
    let (found, listed) = normalise(request, Version::V15);
    assert_eq!(found.messages, expected);
    let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
    assert_eq!(listed.len(), changes.len(), "{listed:?}");
    for (listed, change) in listed.iter().zip(changes) {
        assert!(listed.contains(change), "{listed:?} has no {change:?}");
    }
    assert!(is_valid(&found));
}

fn is_valid(request: &ChatRequest) -> bool {
    validate::validate(request, Version::V15).is_ok()
}

#[test]
fn valid_histories_stay_as_they_are() {
    for messages in [
        vec![user("a"), user("b"), said("c"), said("d"), user("")],
        vec![Message::system("s"), user("a"), Message::system("s")],
        vec![user("a"), called(&["x", "any id at all"]), result("any id at all", "1"), user("b")],
        vec![user("a"), called(&["x"])],
        vec![user("a"), to_go_on("b")],
    ] {
        let messages = match &messages[..] {
            // Open calls at the end are allowed only where somebody else speaks last.
            [.., Message::Assistant(last)] if !last.prefix => [messages, vec![user("")]].concat(),
            _ => messages,
        };
        check(&messages, &messages, &[]);
    }
    let empty = ChatRequest::default();
    assert_eq!(normalise(empty.clone(), Version::V15), (empty, vec![]));
}

#[test]
fn ends() {
    check(&[user("a"), said("b")], &[user("a"), to_go_on("b")], &["messages[1]: the last message"]);
    let empty = Message::User(vec![]);
    check(
        &[said("b")],
        &[empty.clone(), to_go_on("b")],
        &["messages[0]: the last message", "an empty user message"],
    );
    check(
        &[said("")],
        std::slice::from_ref(&empty),
        &["messages[0]: an answer without", "an empty user"],
    );
    check(
        &[user("a"), to_go_on("b"), user("c")],
        &[user("a"), said("b"), user("c")],
        &["messages[1]: only the last"],
    );
    check(
        &[user("a"), called(&["x"])],
        &[user("a"), called(&["x"]), result("x", NO_RESULT)],
        &["messages[1]: the call \"f\" has no result"],
    );
    check(
        &[called(&["x"]), result("x", "1"), user("b")],
        &[empty, called(&["x"]), result("x", "1"), user("b")],
        &["messages[0]: an empty user message"],
    );
}

#[test]
fn results_and_calls() {
    check(
        &[user("a"), called(&["x", "y"]), result("y", "1"), said("b"), user("c")],
        &[
            user("a"),
            called(&["x", "y"]),
            result("y", "1"),
            result("x", NO_RESULT),
            said("b"),
            user("c"),
        ],
        &["messages[1]: the call \"f\" has no result"],
    );
    check(
        &[user("a"), called(&["x"]), user("wait"), result("x", "1")],
        &[user("a"), called(&["x"]), result("x", "1"), user("wait")],
        &["messages[3]: a result moves"],
    );
    check(
        &[user("a"), called(&["x"]), called(&["y"]), result("x", "1"), result("y", "2")],
        &[user("a"), called(&["x"]), result("x", "1"), called(&["y"]), result("y", "2")],
        &["messages[3]: a result moves"],
    );
    check(
        &[user("b"), result("x", "1"), user("a")],
        &[
            user("b"),
            Message::User(vec![
                ContentChunk::Text("Tool result:\n".to_owned()),
                ContentChunk::Text("1".to_owned()),
            ]),
            user("a"),
        ],
        &["messages[1]: a result without a call"],
    );
    check(
        &[user("a"), called(&["x"]), result("x", "1"), result("x", "2")],
        &[
            user("a"),
            called(&["x"]),
            Message::Tool(ToolMessage {
                content: ["1", "\n\n", "2"].map(|t| ContentChunk::Text(t.to_owned())).to_vec(),
                tool_call_id: "x".to_owned(),
            }),
        ],
        &["messages[3]: a second result"],
    );
    check(
        &[user("a"), called(&["", "x", "x"]), result("x", "1"), result("", "2"), result("x", "3")],
        &[
            user("a"),
            called(&["call00000", "x", "call00002"]),
            result("x", "1"),
            result("call00000", "2"),
            result("call00002", "3"),
        ],
        &["messages[1]: calls get ids"],
    );
}

#[test]
fn instructions_chunks_and_silence() {
    check(
        &[Message::system("s"), user("a"), said("b"), Message::system("t"), user("c")],
        &[Message::system("s"), user("a"), said("b"), user("t"), user("c")],
        &["messages[3]: instructions after an answer"],
    );
    check(
        &[user("a"), said(""), user("b")],
        &[user("a"), user("b")],
        &["messages[1]: an answer without content"],
    );
    check(
        &[Message::System(vec![think("t")]), user("a")],
        &[Message::system("t"), user("a")],
        &["messages[0]: thinking of someone else"],
    );
}

#[test]
fn names_are_made_valid_alike() {
    let tool = |name: &str, parameters: &str| Tool {
        name: name.to_owned(),
        description: String::new(),
        parameters: parameters.to_owned(),
        strict: false,
    };
    let mut call = called(&["x"]);
    if let Message::Assistant(assistant) = &mut call {
        assistant.tool_calls[0].name = "get weather".to_owned();
    }
    let request = ChatRequest {
        messages: vec![user("a"), call, result("x", "1")],
        tools: vec![tool("get weather", "[]"), tool("get_weather", "{}"), tool("", "{}")],
        tool_choice: ToolChoice::Named("get weather".to_owned()),
        ..ChatRequest::default()
    };
    let (found, changes) = normalise(request, Version::V15);
    let names: Vec<_> = found.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["get_weather_2", "get_weather", "function"]);
    assert_eq!(found.tools[0].parameters, "{}");
    assert_eq!(calls(&found.messages[1])[0].name, "get_weather_2");
    assert_eq!(found.tool_choice, ToolChoice::Named("get_weather_2".to_owned()));
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert!(is_valid(&found));
}

/// What takes seconds per thousand if every result or id is looked for among all others.
#[test]
fn long_histories_take_no_time() {
    let ids = vec!["abcdefgh1"; 1000];
    let mut messages = vec![Message::user("a")];
    messages.extend((0..200).map(|_| called(&ids)));
    messages.extend((0..40_000).map(|_| result("abcdefgh1", "r")));
    messages.extend((0..40_000).map(|_| result("unknown01", "r")));
    // Ids that are made have to find their way around those that were sent.
    let taken: Vec<String> = (0..40_000).map(|n| format!("call{n:05}")).collect();
    let ids: Vec<&str> =
        std::iter::repeat_n("", 40_000).chain(taken.iter().map(|id| &**id)).collect();
    messages.push(called(&ids));
    messages.extend((0..40_000).map(|_| result("", "r")));
    let request = ChatRequest { messages, ..ChatRequest::default() };
    let (found, _) = normalise(request, Version::V15);
    assert!(is_valid(&found));
}

#[test]
fn results_of_equal_ids_find_the_newest_open_call() {
    let id = "abcdefgh1";
    let messages = [
        Message::user("a"),
        called(&[id]),
        called(&[id, id]),
        result(id, "1"),
        result("", "2"),
        result("null", "3"),
        result(id, "4"),
    ];
    let [second, third] = ["abcdefgh1", "call00001"];
    let changes = [
        "calls get ids of their own",
        "a result without an id answers the first open call",
        "a result without an id answers the first open call",
        "moves behind",
        "a second result of one call",
    ];
    let expected = [
        Message::user("a"),
        called(&[id]),
        result(id, "3"),
        called(&[second, third]),
        result(second, "1"),
        Message::Tool(ToolMessage {
            content: ["2", "\n\n", "4"].map(|t| ContentChunk::Text(t.to_owned())).to_vec(),
            tool_call_id: third.to_owned(),
        }),
    ];
    check(&messages, &expected, &changes);
}

fn any_text() -> impl Strategy<Value = String> {
    select(vec!["", " ", "a", "Hello\n\nyou", "[INST]", "</s>", "[THINK]", "né 🎉", "{\"a\": 1}"])
        .prop_map(str::to_owned)
}

fn any_id() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c", "", "null", "call_1234567890", "toolu_01", "abcdefgh1"])
        .prop_map(str::to_owned)
}

fn any_name() -> impl Strategy<Value = String> {
    select(vec!["f", "get weather", "get_weather", "", "f\n", "a.b", "é", "x-y", "namespace/tool"])
        .prop_map(str::to_owned)
}

fn picture() -> Value {
    let url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";
    json!({"type": "image_url", "image_url": {"url": url}})
}

fn any_chunk() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => any_text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => any_text().prop_map(|text| json!({"type": "thinking", "thinking": text})),
        1 => any_text().prop_map(|text| json!({"type": "thinking", "closed": false,
            "thinking": [{"type": "text", "text": text}]})),
        1 => any_text().prop_map(|text| json!(text)),
        1 => Just(json!({"type": "redacted_thinking", "data": "x"})),
        1 => Just(picture()),
    ]
}

fn any_content() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => any_text().prop_map(Value::from),
        1 => Just(Value::Null),
        3 => vec(any_chunk(), 0..4).prop_map(Value::from),
    ]
}

fn any_call() -> impl Strategy<Value = Value> {
    (any_id(), any_name(), any_text()).prop_map(|(id, name, text)| {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": text}})
    })
}

fn any_message() -> impl Strategy<Value = Value> {
    let roles = select(vec!["system", "developer", "user", "user"]);
    prop_oneof![
        3 => (roles, any_content()).prop_map(|(role, content)| {
            json!({"role": role, "content": content})
        }),
        4 => (any_content(), vec(any_call(), 0..3), any::<bool>(), select(vec![0, 0, 0, 1, 2]))
            .prop_map(|(content, calls, prefix, reasoning)| {
                let mut message = json!({"role": "assistant", "content": content});
                if !calls.is_empty() {
                    message["tool_calls"] = calls.into();
                }
                if prefix {
                    message["prefix"] = json!(true);
                }
                match reasoning {
                    1 => message["reasoning_content"] = json!("r"),
                    2 => message["reasoning_details"] =
                        json!([{"type": "reasoning.text", "text": "r"}]),
                    _ => {}
                }
                message
            }),
        3 => (any_content(), any_id()).prop_map(|(content, id)| {
            json!({"role": "tool", "content": content, "tool_call_id": id})
        }),
        1 => (any_name(), any_text()).prop_map(|(name, text)| json!({"role": "assistant",
            "content": null, "function_call": {"name": name, "arguments": text}})),
        1 => any_text().prop_map(|text| json!({"role": "function", "name": "f", "content": text})),
        1 => (any_id(), any_name(), any_content()).prop_map(|(id, name, content)| {
            let content = content.as_array().cloned().unwrap_or_default();
            let call = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
            json!({"role": "assistant", "content": Value::from([content, vec![call]].concat())})
        }),
        1 => (any_id(), any_text(), any_content(), any::<bool>()).prop_map(
            |(id, text, content, is_error)| {
                let content = content.as_array().cloned().unwrap_or_default();
                let result = json!({"type": "tool_result", "tool_use_id": id, "content": text,
                    "is_error": is_error});
                json!({"role": "user", "content": Value::from([vec![result], content].concat())})
            }
        ),
    ]
}

fn any_request() -> impl Strategy<Value = Value> {
    let tool = |name: String| json!({"type": "function", "function": {"name": name}});
    let effort = select(vec!["none", "minimal", "low", "high", "max"]);
    (vec(any_message(), 1..9), vec(any_name().prop_map(tool), 0..3), effort).prop_map(
        |(messages, tools, effort)| {
            json!({"messages": messages, "tools": tools, "reasoning_effort": effort})
        },
    )
}

/// Everything that was said, in no order.
fn words(request: &ChatRequest) -> Vec<String> {
    let contents = request.messages.iter().flat_map(Message::content);
    let mut words: Vec<String> = contents
        .filter_map(|chunk| match chunk {
            ContentChunk::Text(text) => Some(text.clone()),
            ContentChunk::Thinking { thinking, .. } => Some(thinking.clone()),
            ContentChunk::Image(_) => None,
        })
        .filter(|text| !text.is_empty())
        .collect();
    words.sort();
    words
}

proptest! {
    #[test]
    fn any_history_becomes_valid(json in any_request(), version in select(Version::ALL.to_vec())) {
        let is_valid = |request: &ChatRequest| validate::validate(request, version);
        let reading = read_request(&json.to_string(), &mut Image::from_url).unwrap();
        let sent = reading.request;
        let (found, changes) = normalise(sent.clone(), version);
        prop_assert_eq!(is_valid(&found), Ok(()));
        if is_valid(&sent).is_ok() {
            prop_assert_eq!(&found, &sent);
        }
        prop_assert_eq!(found == sent, changes.is_empty(), "{:?}", changes);
        let (again, changes) = normalise(found.clone(), version);
        prop_assert_eq!(&again, &found);
        prop_assert_eq!(changes, vec![]);
        if version == Version::V15 {
            // Nothing that was said is lost.
            let (found, sent) = (words(&found), words(&sent));
            for word in &sent {
                let count = |words: &[String]| words.iter().filter(|w| *w == word).count();
                prop_assert!(count(&found) >= count(&sent), "{:?} in {:?}", word, found);
            }
        }
    }
}
