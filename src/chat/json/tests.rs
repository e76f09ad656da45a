//! Requests as real clients send them, and what is refused.

use super::*;
use crate::chat::{
    AssistantMessage, ContentChunk, ReasoningEffort, ResponseFormat, Tool, ToolCall, ToolChoice,
    ToolMessage,
};

/// A PNG of one white pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";

fn read(json: &str) -> Result<Reading, RequestError> {
    read_request(json, &mut Image::from_url)
}

fn strict(json: &str) -> Result<ChatRequest, RequestError> {
    request_from_json(json, &mut Image::from_url)
}

#[track_caller]
fn check_error(json: &str, expected: &str) {
    let error = read(json).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}\nexpected {expected}");
}

/// The messages of a request with these alone.
#[track_caller]
fn messages(messages: &str) -> (Vec<Message>, Vec<String>) {
    let reading = read(&format!("{{\"messages\": {messages}}}")).unwrap();
    (reading.request.messages, reading.changes.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn check_unchanged(json: &str, expected: &[Message]) {
    let (found, changes) = messages(json);
    assert_eq!(found, expected);
    assert_eq!(changes, [] as [&str; 0]);
}

#[track_caller]
fn check_changed(json: &str, expected: &[Message], change: &str) {
    let (found, changes) = messages(json);
    assert_eq!(found, expected);
    assert!(changes.len() == 1 && changes[0].contains(change), "{changes:?}");
    let error = strict(&format!("{{\"messages\": {json}}}")).unwrap_err().to_string();
    assert!(error.contains(change), "{error}");
}

fn text(text: &str) -> ContentChunk {
    ContentChunk::Text(text.to_owned())
}

fn think(thinking: &str) -> ContentChunk {
    ContentChunk::Thinking { thinking: thinking.to_owned(), closed: true }
}

fn pixel() -> ContentChunk {
    ContentChunk::Image(Arc::new(Image::from_url(&format!("data:image/png;base64,{PNG}")).unwrap()))
}

fn said(content: Vec<ContentChunk>) -> Message {
    Message::Assistant(AssistantMessage { content, ..AssistantMessage::default() })
}

fn called(content: Vec<ContentChunk>, calls: &[(&str, &str, &str)]) -> Message {
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
fn what_is_written_reads_back_the_same() {
    let json = r#"{"model": "x", "reasoning_effort": "HIGH", "tool_choice": "any", "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}]},
        {"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": [
            {"id": "abcdefgh1", "function": {"name": "f", "arguments": {"x": 1e3}}},
            {"id": "abcdefgh2", "function": {"name": "g", "arguments": "not json"}}]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "1"},
        {"role": "assistant", "content": "d", "prefix": true}],
        "tools": [{"type": "function", "function":
            {"name": "f", "parameters": {"b": 1e3, "a": 2}, "strict": true}}]}"#;
    let mut request = strict(json).unwrap();
    assert_eq!(request.reasoning_effort, ReasoningEffort::High);
    assert_eq!(request.tool_choice, ToolChoice::Required);
    assert_eq!(request.tools[0].parameters, r#"{"b": 1e3, "a": 2}"#);
    let Message::Assistant(assistant) = &request.messages[2] else { panic!("assistant") };
    assert_eq!(assistant.tool_calls[0].arguments, r#"{"x": 1e3}"#);
    assert_eq!(assistant.content, [think("r"), text("c")]);
    request.messages.push(Message::User(vec![pixel(), text("what is it?")]));
    for format in [
        ResponseFormat::Text,
        ResponseFormat::JsonObject,
        ResponseFormat::JsonSchema(r#"{"const": 1e3}"#.to_owned()),
        ResponseFormat::Regex("a+".to_owned()),
        ResponseFormat::Lark("start: \"a\"".to_owned()),
    ] {
        request.response_format = format;
        request.tool_choice = ToolChoice::Named("f".to_owned());
        let written = request_to_json(&request);
        assert_eq!(read(&written).unwrap().request, request);
        assert_eq!(read(&written).unwrap().changes, []);
    }
}

#[test]
fn openai_requests() {
    check_unchanged(
        &format!(
            r#"[{{"role": "user", "name": "bob", "content": ["a", {{"type": "input_text", "text": "b"}},
            {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,{PNG}", "detail": "low"}}}},
            {{"type": "input_image", "image_url": "data:image/png;base64,{PNG}"}}]}},
            {{"role": "assistant", "content": null, "refusal": "no", "annotations": []}}]"#
        ),
        &[Message::User(vec![text("a"), text("b"), pixel(), pixel()]), said(vec![text("no")])],
    );
    check_unchanged(
        r#"[{"role": "assistant", "function_call": {"name": "f", "arguments": "{\"a\":1}"}},
            {"role": "function", "name": "f", "content": "2"}]"#,
        &[called(vec![], &[("", "f", "{\"a\":1}")]), result("", vec![text("2")])],
    );
    check_changed(
        r#"[{"role": "developer", "content": "be brief"}]"#,
        &[Message::system("be brief")],
        "messages[0].role",
    );
    check_changed(r#"[{"role": "user"}]"#, &[Message::User(vec![])], "messages[0].content");
    check_unchanged(r#"[{"role": "user", "content": "\ud800x"}]"#, &[Message::user("\u{fffd}x")]);
    check_unchanged(
        r#"[{"role": "assistant", "tool_calls": [{"id": 7, "type": "function",
            "function": {"name": "f", "arguments": null}}]},
            {"role": "tool", "tool_call_id": 7, "name": "f", "content": []}]"#,
        &[called(vec![], &[("7", "f", "{}")]), result("7", vec![])],
    );
}

#[test]
fn reasoning_in_every_form() {
    let expected = [said(vec![think("why"), text("so")])];
    for message in [
        r#"{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "wh"},
            {"type": "text", "text": "y"}]}, {"type": "text", "text": "so"}]}"#,
        r#"{"content": [{"type": "thinking", "thinking": "why", "signature": "s"},
            {"type": "text", "text": "so", "cache_control": {"type": "ephemeral"}}]}"#,
        r#"{"content": "so", "reasoning_content": "why"}"#,
        r#"{"content": "so", "reasoning": "why", "reasoning_content": ""}"#,
        r#"{"content": "so", "reasoning_details":
            [{"type": "reasoning.text", "text": "why", "signature": "x", "index": 0}]}"#,
        r#"{"content": "so", "reasoning": "why", "reasoning_details":
            [{"type": "reasoning.text", "text": "why"}]}"#,
        r#"{"content": [{"type": "thinking", "thinking": "why"}, "so"], "reasoning_content": "why"}"#,
    ] {
        let message = message.replacen('{', r#"{"role": "assistant", "#, 1);
        check_unchanged(&format!("[{message}]"), &expected);
    }
    check_changed(
        r#"[{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "so"}]}]"#,
        &[said(vec![text("so")])],
        "redacted",
    );
    let open = r#"[{"role": "assistant", "content":
        [{"type": "thinking", "thinking": "wh", "closed": false}], "prefix": true}]"#;
    let (found, _) = messages(open);
    let Message::Assistant(found) = &found[0] else { panic!("assistant") };
    assert!(found.prefix);
    let thinking = ContentChunk::Thinking { thinking: "wh".to_owned(), closed: false };
    assert_eq!(found.content, [thinking]);
}

#[test]
fn anthropic_requests() {
    let json = format!(
        r#"{{"system": [{{"type": "text", "text": "s", "cache_control": {{}}}}],
        "max_tokens": 5, "thinking": {{"type": "enabled", "budget_tokens": 900}},
        "tool_choice": {{"type": "tool", "name": "f"}},
        "tools": [{{"name": "f", "description": "d", "input_schema": {{"type": "object"}}}},
            {{"type": "web_search_20250305", "name": "web_search"}}],
        "messages": [{{"role": "user", "content": "hi"}},
        {{"role": "assistant", "content": [{{"type": "text", "text": "t"}},
            {{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {{"x": 1}}}}]}},
        {{"role": "user", "content": [{{"type": "tool_result", "tool_use_id": "toolu_1",
            "content": [{{"type": "text", "text": "r"}}, {{"type": "image", "source":
            {{"type": "base64", "media_type": "image/png", "data": "{PNG}"}}}}]}},
            {{"type": "text", "text": "go on"}}]}}]}}"#
    );
    let reading = read(&json).unwrap();
    assert_eq!(
        reading.request.messages,
        [
            Message::system("s"),
            Message::user("hi"),
            called(vec![text("t")], &[("toolu_1", "f", "{\"x\": 1}")]),
            result("toolu_1", vec![text("r"), pixel()]),
            Message::user("go on"),
        ]
    );
    let tool = Tool {
        name: "f".to_owned(),
        description: "d".to_owned(),
        parameters: "{\"type\": \"object\"}".to_owned(),
        strict: false,
    };
    assert_eq!(reading.request.tools, [tool]);
    assert_eq!(reading.request.tool_choice, ToolChoice::Named("f".to_owned()));
    assert_eq!(reading.request.reasoning_effort, ReasoningEffort::High);
    assert_eq!(reading.options.reasoning_budget, Some(900));
    assert_eq!(reading.changes.len(), 1, "{:?}", reading.changes);
    assert_eq!(reading.changes[0].place, "tools[1]");
    check_changed(
        r#"[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a",
            "is_error": true}]}]"#,
        &[result("a", vec![text("error")])],
        "",
    );
}

#[test]
fn anthropic_chunks_of_every_kind() {
    let user = |chunks: &str| format!(r#"[{{"role": "user", "content": [{chunks}]}}]"#);
    check_unchanged(
        &user(
            r#"{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                "title": "t", "citations": {"enabled": true}}"#,
        ),
        &[Message::user("d")],
    );
    check_unchanged(
        &user(
            r#"{"type": "document", "source": {"type": "content", "content": [{"type": "text",
                "text": "d"}, {"type": "text", "text": "e"}]}}"#,
        ),
        &[Message::user("de")],
    );
    check_unchanged(
        &user(
            r#"{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "search_result",
                "source": "s", "title": "t", "content": [{"type": "text", "text": "c"}]}]}"#,
        ),
        &[result("a", vec![text("t\ns\n\nc")])],
    );
    let answers = |chunks: &str| {
        format!(
            r#"[{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": [{chunks},
                {{"type": "text", "text": "a", "citations": null}}]}}]"#
        )
    };
    let answered = [Message::user("q"), called(vec![text("a")], &[])];
    for chunk in [
        r#"{"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}"#,
        r#"{"type": "web_search_tool_result", "tool_use_id": "x", "content": []}"#,
        r#"{"type": "redacted_thinking", "data": "x"}"#,
        r#"{"type": "thinking", "thinking": "", "signature": "x"}"#,
    ] {
        check_changed(&answers(chunk), &answered, "left out");
    }
    check_unchanged(
        &answers(r#"{"type": "thinking", "thinking": "t", "signature": "x"}"#),
        &[Message::user("q"), called(vec![think("t"), text("a")], &[])],
    );
    check_error(
        r#"{"messages": [{"role": "user", "content": [{"type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}]}]}"#,
        "messages[0].content[0].source.type: a document of \"base64\"",
    );
    let omitted = r#"{"messages": [], "thinking": {"type": "adaptive", "display": "omitted"}}"#;
    assert!(read(omitted).unwrap().options.hide_reasoning);
    let thinking = |json: &str| format!("{{\"messages\": [], \"thinking\": {json}}}");
    check_error(&thinking(r#"{"type": "sometimes"}"#), "thinking.type: expected enabled, adaptive");
    check_error(&thinking(r#"{"type": 5}"#), "thinking.type: expected a string");
    check_error(&thinking("\"enabled\""), "thinking: expected true or false");
}

#[track_caller]
fn check_effort(fields: &str, expected: ReasoningEffort, n_changes: usize) {
    let reading = read(&format!("{{\"messages\": [], {fields}}}")).unwrap();
    assert_eq!(reading.request.reasoning_effort, expected, "{fields}");
    assert_eq!(reading.changes.len(), n_changes, "{fields}");
}

#[test]
fn efforts_are_none_or_high() {
    use ReasoningEffort::{High, None};
    check_effort(r#""reasoning_effort": null"#, None, 0);
    check_effort(r#""reasoning_effort": "none""#, None, 0);
    check_effort(r#""reasoning_effort": "minimal""#, None, 1);
    for effort in ["low", "medium", "xhigh", "max"] {
        check_effort(&format!("\"reasoning_effort\": {effort:?}"), High, 1);
        check_effort(&format!("\"reasoning\": {{\"effort\": {effort:?}}}"), High, 1);
        let json = format!("{{\"messages\": [], \"reasoning_effort\": {effort:?}}}");
        assert!(strict(&json).unwrap_err().to_string().contains("reasoning_effort"));
    }
    check_effort(r#""reasoning": {"enabled": true}"#, High, 0);
    check_effort(r#""reasoning": {"enabled": false, "effort": "high"}"#, None, 0);
    check_effort(r#""reasoning": {"max_tokens": 2000}"#, High, 0);
    check_effort(r#""prompt_mode": "reasoning""#, High, 0);
    check_effort(r#""enable_thinking": false"#, None, 0);
    check_effort(r#""chat_template_kwargs": {"enable_thinking": true}"#, High, 0);
    check_effort(r#""chat_template_kwargs": {"reasoning_effort": "high"}"#, High, 0);
    check_error(r#"{"messages": [], "reasoning_effort": "huge"}"#, "reasoning_effort: expected");
    let options = read(r#"{"messages": [], "reasoning": {"max_tokens": 5.0, "exclude": true}}"#);
    let expected = RequestOptions {
        reasoning_budget: Some(5),
        hide_reasoning: true,
        ..RequestOptions::default()
    };
    assert_eq!(options.unwrap().options, expected);
}

#[track_caller]
fn check_format(fields: &str, expected: ResponseFormat) {
    let reading = read(&format!("{{\"messages\": [], {fields}}}")).unwrap();
    assert_eq!(reading.request.response_format, expected, "{fields}");
}

#[test]
fn formats_of_every_server() {
    let schema = || ResponseFormat::JsonSchema("{\"a\":1e3}".to_owned());
    let regex = |text: &str| ResponseFormat::Regex(text.to_owned());
    check_format(r#""response_format": {"type": "text"}"#, ResponseFormat::Text);
    check_format(r#""response_format": {"type": "json_object"}"#, ResponseFormat::JsonObject);
    check_format(
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"a":1e3}}}"#,
        schema(),
    );
    check_format(r#""response_format": {"type": "json_object", "schema": {"a":1e3}}"#, schema());
    check_format(r#""guided_json": {"a":1e3}"#, schema());
    check_format(r#""guided_json": "{\"a\":1e3}""#, schema());
    check_format(r#""structured_outputs": {"json": {"a":1e3}}"#, schema());
    check_format(
        r#""output_config": {"format": {"type": "json_schema", "schema": {"a":1e3}}}"#,
        schema(),
    );
    check_format(r#""response_format": {"type": "regex", "regex": "a"}"#, regex("a"));
    check_format(r#""guided_regex": "a""#, regex("a"));
    check_format(r#""guided_choice": ["a.b", "c"]"#, regex(r"a\.b|c"));
    check_format(r#""structured_outputs": {"json_object": true}"#, ResponseFormat::JsonObject);
    check_format(
        r#""response_format": {"type": "lark", "lark": "start: A"}"#,
        ResponseFormat::Lark("start: A".to_owned()),
    );
    check_error(
        r#"{"messages": [], "guided_regex": "a", "response_format": {"type": "json_object"}}"#,
        "guided_regex: the answer's form is already given by response_format",
    );
    check_error(r#"{"messages": [], "guided_json": 3}"#, "guided_json: expected a JSON schema");
    check_error(r#"{"messages": [], "response_format": {"type": "x"}}"#, "response_format.type");
}

#[test]
fn tool_choices_and_tools() {
    let choice = |json: &str| {
        read(&format!("{{\"messages\": [], \"tool_choice\": {json}}}"))
            .map(|reading| reading.request.tool_choice)
    };
    let named = ToolChoice::Named("f".to_owned());
    assert_eq!(choice("\"none\"").unwrap(), ToolChoice::None);
    assert_eq!(choice("\"any\"").unwrap(), ToolChoice::Required);
    assert_eq!(choice("{\"type\": \"any\"}").unwrap(), ToolChoice::Required);
    assert_eq!(choice("{\"type\": \"function\", \"name\": \"f\"}").unwrap(), named);
    assert_eq!(choice("{\"type\": \"function\", \"function\": {\"name\": \"f\"}}").unwrap(), named);
    assert!(choice("\"maybe\"").unwrap_err().to_string().starts_with("tool_choice: expected"));
    let (tools, changes) = tools_from_json(
        r#"[{"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "g",
            "parameters": {"x": 1}, "strict": null}, {"name": "h", "input_schema": {}}]"#,
    )
    .unwrap();
    let shown: Vec<_> = tools.iter().map(|t| (t.name.as_str(), t.parameters.as_str())).collect();
    assert_eq!(shown, [("f", "{}"), ("g", "{\"x\": 1}"), ("h", "{}")]);
    assert_eq!(changes, []);
    let (tools, changes) = tools_from_json(r#"[{"type": "web_search"}]"#).unwrap();
    assert!(tools.is_empty() && changes[0].to_string().starts_with("[0]: "), "{changes:?}");
    let many = vec![r#"{"function": {"name": "f", "parameters": {}}}"#; 129].join(",");
    check_error(&format!("{{\"messages\": [], \"tools\": [{many}]}}"), "129 tools; at most 128");
    check_error(
        r#"{"messages": [], "tools": [{"function": {"name": "f", "parameters": []}}]}"#,
        "tools[0].function.parameters: the parameters of \"f\"",
    );
    check_error(r#"{"messages": [], "tools": {}}"#, "tools: expected a list, found an object");
}

#[test]
fn errors_name_the_place() {
    check_error("{", "not a chat request: EOF while parsing an object at column 1");
    check_error("\n\n{", "at line 3 column 1");
    let error: anyhow::Error = read("{").unwrap_err().into();
    assert_eq!(error.chain().count(), 1);
    check_error("", "not a chat request");
    check_error("[]", "expected an object, found a list");
    check_error("{}", "messages: is missing");
    check_error(r#"{"messages": "x"}"#, "messages: expected a list, found a string");
    check_error(r#"{"messages": [{"content": "x"}]}"#, "messages[0].role: is missing");
    check_error(r#"{"messages": [{"role": "robot"}]}"#, "messages[0].role: expected system");
    check_error(
        r#"{"messages": [{"role": "user", "content": [{"type": "smell"}]}]}"#,
        "messages[0].content[0].type: \"smell\" chunks",
    );
    check_error(
        r#"{"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}"#,
        "messages[0].content[0].type: \"input_audio\" chunks",
    );
    check_error(r#"{"messages": [{"role": "user", "content": 3}]}"#, "a string or a list");
    check_error(
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x/y.png"}]}]}"#,
        "messages[0].content[0].image_url: ",
    );
    check_error(
        r#"{"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}"#,
        "messages[0].tool_calls[0].function: is missing",
    );
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check_error(&deep, "nested more than 128 levels");
    let many = format!("{{\"messages\": [{}1]}}", "1,".repeat(1 << 14));
    check_error(&many, "messages: 16385 elements");
    let parts = format!(r#"{{"role": "user", "content": [{}""]}}"#, "\"\",".repeat((1 << 14) - 1));
    let messages = vec![parts; 5].join(",");
    check_error(
        &format!("{{\"messages\": [{messages}]}}"),
        "messages[4].content: the request has more",
    );
}

/// A black picture as a data URL; `note` only makes the URL another one.
fn black(width: u32, height: u32, note: &str) -> String {
    use base64::Engine as _;
    let mut png = std::io::Cursor::new(Vec::new());
    let grey = image::GrayImage::new(width, height);
    grey.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let base64 = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
    format!("data:image/png{note};base64,{base64}")
}

fn shown(urls: &[&str]) -> String {
    let chunk = |url: &&str| format!(r#"{{"type": "image_url", "image_url": {{"url": "{url}"}}}}"#);
    let chunks: Vec<String> = urls.iter().map(chunk).collect();
    format!(r#"{{"messages": [{{"role": "user", "content": [{}]}}]}}"#, chunks.join(", "))
}

#[test]
fn pictures_of_a_request_share_a_budget() {
    let [a, small] = [black(3, 2, ""), black(1, 1, "")];
    let (a, small) = (a.as_str(), small.as_str());
    let mut n_decoded = 0;
    let mut read = |urls: &[&str]| {
        let mut images = |url: &str| {
            n_decoded += 1;
            Image::from_url(url)
        };
        // As if large ones had come before.
        let reader = Reader { n_pixels: MAX_REQUEST_PIXELS - 6, ..Reader::new(&mut images, false) };
        reader.read(&shown(urls))
    };
    assert!(read(&[a, a, a]).is_ok());
    let error = read(&[a, a, small]).unwrap_err().to_string();
    assert_eq!(
        error,
        "messages[0].content[2].image_url.url: with this picture of 1x1 the request has 101 \
         megapixels, at most 100 are allowed: scale the pictures down or send fewer"
    );
    assert_eq!(n_decoded, 3, "a picture that is shown again costs nothing");
}

#[test]
fn equal_pictures_are_one() {
    let [a, same, other] = [black(3, 2, ""), black(3, 2, ";name=b"), black(2, 3, "")];
    let request = read(&shown(&[&a, &a, &same, &other])).unwrap().request;
    let Message::User(content) = &request.messages[0] else { panic!() };
    let images: Vec<_> = content
        .iter()
        .map(|chunk| match chunk {
            ContentChunk::Image(image) => Arc::as_ptr(image),
            _ => panic!(),
        })
        .collect();
    assert_eq!(images[1..3], [images[0]; 2]);
    assert_ne!(images[3], images[0]);
}
