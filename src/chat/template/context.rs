//! A conversation in the shape in which templates take it: dictionaries as in OpenAI's requests.
//!
//! Templates disagree on details: whether arguments are text or an object, whether reasoning stands
//! beside the content or in it. What a template wants is found out once, from its text and by
//! rendering a small conversation.

use minijinja::value::Value;

use super::marks::Marks;
use crate::chat::{
    AssistantMessage, ChatRequest, ContentChunk, Message, ReasoningEffort, Tool, ToolCall,
    python_json,
};
use crate::tokenizer::Tokenizer;

/// The shapes that a template wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shapes {
    /// Reasoning that comes first stands in `reasoning_content`.
    reasoning_beside: bool,
    /// Pictures are `image_url` chunks, not `image`.
    image_urls: bool,
    /// A message without content has `none`, not an empty string.
    null_content: bool,
    /// Arguments of calls are objects, not their text.
    argument_objects: bool,
}

impl Shapes {
    pub(super) fn of(source: &str) -> Self {
        let has = |word: &str| source.contains(word);
        let knows_null = ["content is", "content'] is", "content\"] is"]
            .iter()
            .any(|start| has(&format!("{start} none")) || has(&format!("{start} not none")));
        Shapes {
            null_content: knows_null,
            reasoning_beside: has("reasoning_content") || !has("thinking"),
            image_urls: has("image_url") && !has("'image'") && !has("\"image\""),
            argument_objects: true,
        }
    }

    /// Arguments are text for templates that write them as they are, objects for all others.
    pub(super) fn with_arguments(self, render: impl Fn(Value) -> Option<String>) -> Self {
        let call = ToolCall {
            id: "abcdefgh1".to_owned(),
            name: "f".to_owned(),
            arguments: "{\"needle\": 1}".to_owned(),
        };
        let assistant = AssistantMessage { tool_calls: vec![call], ..Default::default() };
        let request = ChatRequest {
            messages: vec![Message::user("a"), Message::Assistant(assistant)],
            ..ChatRequest::default()
        };
        let shapes = Shapes { argument_objects: false, ..self };
        let text = render(messages_alone(&request, shapes));
        let is_verbatim = text.is_some_and(|text| text.contains("{\"needle\": 1}"));
        Shapes { argument_objects: !is_verbatim, ..self }
    }
}

/// Every text that somebody else than the template's author wrote.
pub(super) fn said(request: &ChatRequest) -> Vec<&str> {
    let mut said = Vec::new();
    for message in &request.messages {
        for chunk in message.content() {
            match chunk {
                ContentChunk::Text(text) | ContentChunk::Thinking { thinking: text, .. } => {
                    said.push(text.as_str());
                }
                ContentChunk::Image(_) => {}
            }
        }
        match message {
            Message::Assistant(assistant) => {
                for ToolCall { id, name, arguments } in &assistant.tool_calls {
                    said.extend([id.as_str(), name, arguments]);
                }
            }
            Message::Tool(tool) => said.push(&tool.tool_call_id),
            Message::System(_) | Message::User(_) => {}
        }
    }
    for Tool { name, description, parameters, .. } in &request.tools {
        said.extend([name.as_str(), description, parameters]);
    }
    said
}

/// All variables of a template.
pub(super) fn context(
    request: &ChatRequest,
    shapes: Shapes,
    marks: &Marks,
    tokenizer: &Tokenizer,
) -> Value {
    let mut root = root(request, shapes);
    root.push(("bos_token", marks.of(tokenizer.bos()).into()));
    root.push(("eos_token", marks.of(tokenizer.eos()).into()));
    dict(root)
}

fn messages_alone(request: &ChatRequest, shapes: Shapes) -> Value {
    let mut root = root(request, shapes);
    root.extend([("bos_token", "".into()), ("eos_token", "".into())]);
    dict(root)
}

fn root(request: &ChatRequest, shapes: Shapes) -> Vec<(&'static str, Value)> {
    let messages: Vec<Value> =
        request.messages.iter().map(|message| message_value(message, shapes)).collect();
    let goes_on = matches!(request.messages.last(), Some(Message::Assistant(last)) if last.prefix);
    let tools: Option<Vec<Value>> =
        (!request.tools.is_empty()).then(|| request.tools.iter().map(tool_value).collect());
    let thinks = request.reasoning_effort != ReasoningEffort::None;
    vec![
        ("messages", messages.into()),
        ("tools", tools.map_or_else(|| ().into(), Value::from)),
        ("add_generation_prompt", (!goes_on).into()),
        ("reasoning_effort", request.reasoning_effort.name().into()),
        ("enable_thinking", thinks.into()),
    ]
}

/// A dictionary whose keys keep their order.
fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::from_pairs(entries)
}

fn message_value(message: &Message, shapes: Shapes) -> Value {
    let mut value: Vec<(&str, Value)> = vec![("role", message.role().into())];
    let mut content = message.content();
    if shapes.reasoning_beside
        && let [ContentChunk::Thinking { thinking, closed: true }, rest @ ..] = content
        && !thinking.is_empty()
        && !rest.iter().any(|chunk| matches!(chunk, ContentChunk::Thinking { .. }))
    {
        value.push(("reasoning_content", thinking.as_str().into()));
        content = rest;
    }
    let is_null = shapes.null_content && content.is_empty() && message.role() == "assistant";
    let content = if is_null { ().into() } else { content_value(content, shapes) };
    value.push(("content", content));
    match message {
        Message::Assistant(assistant) if !assistant.tool_calls.is_empty() => {
            let calls: Vec<Value> =
                assistant.tool_calls.iter().map(|call| call_value(call, shapes)).collect();
            value.push(("tool_calls", calls.into()));
        }
        Message::Tool(tool) => {
            value.push(("tool_call_id", tool.tool_call_id.as_str().into()));
        }
        _ => {}
    }
    dict(value)
}

/// Text alone is a string, which every template takes.
fn content_value(content: &[ContentChunk], shapes: Shapes) -> Value {
    let texts: Option<Vec<&str>> = content
        .iter()
        .map(|chunk| match chunk {
            ContentChunk::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    if let Some(texts) = texts {
        return texts.concat().into();
    }
    let chunks: Vec<Value> = content
        .iter()
        .map(|chunk| match chunk {
            ContentChunk::Text(text) => {
                dict([("type", "text".into()), ("text", text.as_str().into())])
            }
            ContentChunk::Thinking { thinking, closed } => dict([
                ("type", "thinking".into()),
                ("thinking", thinking.as_str().into()),
                ("closed", (*closed).into()),
            ]),
            ContentChunk::Image(_) if shapes.image_urls => {
                dict([("type", "image_url".into()), ("image_url", dict([]))])
            }
            ContentChunk::Image(_) => dict([("type", "image".into())]),
        })
        .collect();
    chunks.into()
}

fn call_value(call: &ToolCall, shapes: Shapes) -> Value {
    let arguments = match python_json::parse(&call.arguments) {
        Some(json @ python_json::Value::Object(_)) if shapes.argument_objects => json_value(&json),
        _ => call.arguments.as_str().into(),
    };
    let function = dict([("name", call.name.as_str().into()), ("arguments", arguments)]);
    dict([("id", call.id.as_str().into()), ("type", "function".into()), ("function", function)])
}

fn tool_value(tool: &Tool) -> Value {
    let parameters =
        python_json::parse(&tool.parameters).map_or_else(|| ().into(), |json| json_value(&json));
    let mut function = vec![
        ("name", tool.name.as_str().into()),
        ("description", tool.description.as_str().into()),
    ];
    if tool.strict {
        function.push(("strict", true.into()));
    }
    function.push(("parameters", parameters));
    dict([("type", "function".into()), ("function", dict(function))])
}

fn json_value(json: &python_json::Value) -> Value {
    match json {
        python_json::Value::Verbatim(word) => match word.as_str() {
            "null" => ().into(),
            "true" => true.into(),
            "false" => false.into(),
            digits => integer(digits),
        },
        python_json::Value::Float(float) => (*float).into(),
        python_json::Value::String(text) => text.as_str().into(),
        python_json::Value::Array(items) => items.iter().map(json_value).collect::<Vec<_>>().into(),
        python_json::Value::Object(entries) => {
            dict(entries.iter().map(|(key, value)| (key.as_str(), json_value(value))))
        }
    }
}

/// Integers beyond 128 bits lose their last digits.
fn integer(digits: &str) -> Value {
    if let Ok(n) = digits.parse::<i64>() {
        return n.into();
    }
    if let Ok(n) = digits.parse::<i128>() {
        return n.into();
    }
    digits.parse::<f64>().unwrap_or(f64::NAN).into()
}
