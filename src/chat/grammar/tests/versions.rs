//! What differs between the generations of the chat format, and replies whose beginning is joined first.

use super::*;

fn constrain_as(request: &ChatRequest, version: Version) -> Option<Constraint> {
    constraint(request, &ChatFormat::Mistral(version), &GRAMMARS, &TOKENIZER, None).unwrap()
}

#[test]
fn calls_are_written_as_the_version_does() {
    let auto = request(ToolChoice::Auto);
    let held = |reply: &str| allows(constrain_as(&auto, Version::V11).unwrap(), reply);
    let time = r#"{"zone": "utc"}"#;
    assert!(held(&format!("[TOOL_CALLS]get_weather_time[CALL_ID]a1B2c3D4e[ARGS]{time}</s>")));
    assert!(held(&format!("ok[TOOL_CALLS]get_weather_time[ARGS]{time}</s>")));
    assert!(!held(&format!("[TOOL_CALLS]get_weather_time[CALL_ID]a1B2c3D4[ARGS]{time}</s>")));
    assert!(!held("[TOOL_CALLS]get_weather_time[CALL_ID]a1B2c3D4ef"));
    assert!(!held("[TOOL_CALLS]get_w[CALL_ID]"));
    assert!(!held("[TOOL_CALLS]get_weather_time[CALL_ID]a-"));
    // A list of calls is free, beside a format too.
    assert!(constrain_as(&auto, Version::V7).is_none());
    let json = ChatRequest { response_format: ResponseFormat::JsonObject, ..auto };
    let held = |reply: &str| allows(constrain_as(&json, Version::V7).unwrap(), reply);
    assert!(held(r#"[TOOL_CALLS][{"name": "f", "arguments": {}}]</s>"#));
    assert!(held("{}</s>") && !held("no"));
    let required = request(ToolChoice::Required);
    let format = ChatFormat::Mistral(Version::V7);
    let error = constraint(&required, &format, &GRAMMARS, &TOKENIZER, None).unwrap_err();
    assert!(error.to_string().starts_with("tool_choice: "), "{error}");
    assert!(constrain_as(&request(ToolChoice::None), Version::V7).is_some());
}

#[test]
fn messages_that_are_joined_are_continued_as_one() {
    let part = |text: &str, prefix| {
        let content = vec![ContentChunk::Text(text.to_owned())];
        Message::Assistant(AssistantMessage { content, prefix, ..AssistantMessage::default() })
    };
    let messages = vec![Message::user("Hi"), part("a", false), part("b  ", true)];
    let mut request = ChatRequest { messages, ..ChatRequest::default() };
    assert_eq!(begun(&request, Version::V15), Begun::Text("a\n\nb".to_owned()));
    let thought = ContentChunk::Thinking { thinking: "hm".to_owned(), closed: false };
    let content = vec![thought, ContentChunk::Text(String::new())];
    let last = AssistantMessage { content, prefix: true, ..AssistantMessage::default() };
    request.messages = vec![Message::user("Hi"), Message::Assistant(last)];
    assert_eq!(begun(&request, Version::V15), Begun::Reasoning);
    let mut parser = ReplyParser::new(&TOKENIZER).continuing(&request);
    let events = ids("so").into_iter().flat_map(|id| parser.push(id)).next();
    assert!(matches!(events, Some(ReplyEvent::Reasoning(_))), "{events:?}");
}
