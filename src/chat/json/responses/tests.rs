//! Requests as OpenAI's client, Codex and Vibe send them.

use super::{ClientTool, Reading, responses_from_json};
use crate::chat::{
    AssistantMessage, ContentChunk, Message, ReasoningEffort, ResponseFormat, ToolCall, ToolChoice,
    ToolMessage,
};
use crate::vision::Image;

/// A PNG of one white pixel.
const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";

#[track_caller]
fn read(json: &str) -> Reading {
    responses_from_json(json, &mut Image::from_url).unwrap()
}

#[track_caller]
fn check(input: &str, expected: &[Message], changes: &[&str]) {
    let read = read(&format!("{{\"input\": {input}}}"));
    assert_eq!(read.request.messages, expected);
    let found: Vec<String> = read.changes.iter().map(ToString::to_string).collect();
    assert_eq!(found, changes);
}

#[track_caller]
fn check_error(json: &str, expected: &str) {
    let error = responses_from_json(json, &mut Image::from_url).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}\nexpected {expected}");
}

fn text(text: &str) -> ContentChunk {
    ContentChunk::Text(text.to_owned())
}

fn think(thinking: &str) -> ContentChunk {
    ContentChunk::Thinking { thinking: thinking.to_owned(), closed: true }
}

fn turn(content: Vec<ContentChunk>, calls: &[(&str, &str, &str)]) -> Message {
    let call = |&(id, name, arguments): &(&str, &str, &str)| ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    };
    let tool_calls = calls.iter().map(call).collect();
    Message::Assistant(AssistantMessage { content, tool_calls, prefix: false })
}

fn result(id: &str, content: Vec<ContentChunk>) -> Message {
    Message::Tool(ToolMessage { content, tool_call_id: id.to_owned() })
}

#[test]
fn input_is_a_string_or_messages() {
    check(r#""hi""#, &[Message::user("hi")], &[]);
    let read = read(r#"{"instructions": "s", "input": "hi"}"#);
    assert_eq!(read.request.messages, [Message::system("s"), Message::user("hi")]);
    check(
        &format!(
            r#"[{{"type": "message", "role": "developer", "content": "d"}},
            {{"role": "system", "content": [{{"type": "input_text", "text": "s"}}]}},
            {{"role": "user", "content": [{{"type": "input_text", "text": "a"}},
                {{"type": "input_image", "image_url": "{PNG}", "detail": "auto"}}]}}]"#
        ),
        &[
            Message::system("d"),
            Message::system("s"),
            Message::User(vec![
                text("a"),
                ContentChunk::Image(Image::from_url(PNG).unwrap().into()),
            ]),
        ],
        &["input[0].role: developer instructions are given as a system message"],
    );
}

#[test]
fn items_of_one_turn_become_one_message() {
    check(
        r#"[{"role": "user", "content": "q"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}],
            "encrypted_content": "x"},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f",
            "arguments": "{\"x\":1}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "namespace": "mcp__docs__", "name": "g",
            "arguments": ""},
        {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": "a\nb"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}]},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "3"},
        {"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}]"#,
        &[
            Message::user("q"),
            turn(
                vec![think("t"), text("a")],
                &[
                    ("c1", "f", r#"{"x":1}"#),
                    ("c2", "mcp__docs__g", ""),
                    ("c3", "patch", r#"{"input":"a\nb"}"#),
                ],
            ),
            result("c1", vec![text("1")]),
            result("c2", vec![text("2")]),
            result("c3", vec![text("3")]),
            turn(vec![text("x")], &[]),
            turn(vec![text("y")], &[]),
        ],
        &[],
    );
}

#[test]
fn what_the_model_cannot_be_told_is_listed() {
    check(
        r#"[{"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "c"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"role": "assistant", "content": "late"}]"#,
        &[turn(vec![think("c"), text("late")], &[("c1", "f", "{}")])],
        &[
            "input[0]: encrypted reasoning is left out",
            "input[2]: a \"web_search_call\" item is its provider's own",
            "input[4]: what was said after a call is put in front of it",
        ],
    );
    for (json, expected) in [
        ("{}", "input: is missing"),
        (r#"{"input": 5}"#, "input: expected a list"),
        (r#"{"input": [{"type": "item_reference", "id": "a"}]}"#, "input[0]: no items are kept"),
        (r#"{"input": [{"id": "msg_1"}]}"#, "input[0]: no items are kept here"),
        (r#"{"input": [{"type": "mesage"}]}"#, "input[0].type: expected message"),
        (
            r#"{"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}"#,
            "input[0].content[0].file_id: no files are kept here",
        ),
        (
            r#"{"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}"#,
            "input[0].content[0].type: \"input_file\" chunks cannot be told",
        ),
    ] {
        check_error(json, expected);
    }
}

const TOOLS: &str = r#""tools": [
    {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
    {"type": "custom", "name": "patch", "description": "edits",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"a\""}},
    {"type": "namespace", "name": "mcp__docs", "description": "", "tools": [
        {"type": "function", "name": "g", "parameters": null}]},
    {"type": "web_search"}]"#;

#[test]
fn tools_of_all_kinds_become_functions() {
    let reading = read(&format!("{{\"input\": \"x\", {TOOLS}}}"));
    let tools = &reading.options.tools;
    let names: Vec<&str> = reading.request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["f", "patch", "mcp__docs__g"]);
    assert!(reading.request.tools[0].strict);
    assert_eq!(
        reading.request.tools[1].description,
        "edits\n\nThe input obeys this grammar (lark):\nstart: \"a\""
    );
    assert_eq!(reading.request.tools[2].parameters, "{}");
    let client = |name: &str, namespace: Option<&str>, is_custom| ClientTool {
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned),
        is_custom,
    };
    assert_eq!(tools["patch"], client("patch", None, true));
    assert_eq!(tools["mcp__docs__g"], client("g", Some("mcp__docs"), false));
    let changes: Vec<&str> = reading.changes.iter().map(|change| change.place.as_str()).collect();
    assert_eq!(changes, ["tools[1]", "tools[3]"]);
}

#[test]
fn a_choice_of_tools_is_held_to() {
    for (chosen, expected, left) in [
        (r#""none""#, ToolChoice::None, 3),
        (r#""required""#, ToolChoice::Required, 3),
        (r#"{"type": "function", "name": "f"}"#, ToolChoice::Named("f".to_owned()), 3),
        (
            r#"{"type": "function", "name": "g", "namespace": "mcp__docs"}"#,
            ToolChoice::Named("mcp__docs__g".to_owned()),
            3,
        ),
        (
            r#"{"type": "allowed_tools", "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}"#,
            ToolChoice::Required,
            1,
        ),
    ] {
        let json = format!("{{\"input\": \"x\", \"tool_choice\": {chosen}, {TOOLS}}}");
        let request = read(&json).request;
        assert_eq!((request.tool_choice, request.tools.len()), (expected, left), "{chosen}");
    }
    for (json, expected) in [
        (
            r#"{"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"}"#,
            "tool_choice: a call is required",
        ),
        (
            r#"{"input": "x", "tool_choice": {"type": "file_search"}}"#,
            "tool_choice.type: expected function, custom or allowed_tools",
        ),
        (r#"{"input": "x", "tool_choice": "maybe"}"#, "tool_choice: expected"),
    ] {
        check_error(json, expected);
    }
}

#[test]
fn form_and_effort_are_read() {
    let read = read(
        r#"{"input": "x", "reasoning": {"effort": "high", "summary": "auto"}, "text": {"verbosity":
        "low", "format": {"type": "json_schema", "name": "a", "schema": {"const": 1e3}}}}"#,
    );
    let request = read.request;
    assert_eq!(request.reasoning_effort, ReasoningEffort::High);
    assert_eq!(request.response_format, ResponseFormat::JsonSchema(r#"{"const": 1e3}"#.to_owned()));
}
