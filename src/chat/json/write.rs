//! Requests written so that the reader gives the same ones back.
//!
//! The form is mistral-common's; pictures go along as data URLs of the files they came from.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::chat::{
    AssistantMessage, ChatRequest, ContentChunk, Message, ResponseFormat, Tool, ToolCall,
    ToolChoice,
};

/// Writes a conversation so that `request_from_json` reads the same one.
pub fn request_to_json(request: &ChatRequest) -> String {
    let wire = WireRequest {
        reasoning_effort: request.reasoning_effort.name(),
        messages: request.messages.iter().map(message).collect(),
        tools: request.tools.iter().map(WireTool::new).collect(),
        tool_choice: match &request.tool_choice {
            ToolChoice::Auto => None,
            ToolChoice::None => Some(json!("none")),
            ToolChoice::Required => Some(json!("required")),
            ToolChoice::Named(name) => {
                Some(json!({"type": "function", "function": {"name": name}}))
            }
        },
        response_format: WireFormat::new(&request.response_format),
    };
    serde_json::to_string_pretty(&wire).expect("the wire structs have string keys only")
}

#[derive(Serialize)]
struct WireRequest<'a> {
    reasoning_effort: &'static str,
    messages: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<WireFormat<'a>>,
}

fn message(message: &Message) -> Value {
    let mut wire = json!({"role": message.role(), "content": content(message.content())});
    match message {
        Message::System(_) | Message::User(_) => {}
        Message::Tool(tool) => wire["tool_call_id"] = json!(tool.tool_call_id),
        Message::Assistant(AssistantMessage { tool_calls, prefix, .. }) => {
            if !tool_calls.is_empty() {
                wire["tool_calls"] = tool_calls.iter().map(call).collect();
            }
            if *prefix {
                wire["prefix"] = json!(true);
            }
        }
    }
    wire
}

fn content(content: &[ContentChunk]) -> Value {
    match content {
        [] => json!(""),
        [ContentChunk::Text(text)] if !text.is_empty() => json!(text),
        chunks => chunks.iter().map(chunk).collect(),
    }
}

fn chunk(chunk: &ContentChunk) -> Value {
    match chunk {
        ContentChunk::Text(text) => json!({"type": "text", "text": text}),
        ContentChunk::Thinking { thinking, closed } => {
            json!({"type": "thinking", "thinking": thinking, "closed": closed})
        }
        ContentChunk::Image(image) => {
            json!({"type": "image_url", "image_url": {"url": image.to_data_url()}})
        }
    }
}

fn call(call: &ToolCall) -> Value {
    let function = json!({"name": call.name, "arguments": call.arguments});
    json!({"id": call.id, "type": "function", "function": function})
}

#[derive(Serialize)]
struct WireTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: WireFunction<'a>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    description: &'a str,
    parameters: Schema<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

impl<'a> WireTool<'a> {
    fn new(tool: &'a Tool) -> Self {
        let Tool { name, description, parameters, strict } = tool;
        let parameters = Schema::new(parameters);
        let function = WireFunction { name, description, parameters, strict: *strict };
        WireTool { kind: "function", function }
    }
}

/// A schema in its own spelling, or a string if it is no JSON after all.
#[derive(Serialize)]
#[serde(untagged)]
enum Schema<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

impl<'a> Schema<'a> {
    fn new(text: &'a str) -> Self {
        serde_json::from_str(text).map_or(Schema::Text(text), Schema::Json)
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WireFormat<'a> {
    JsonObject,
    JsonSchema { json_schema: NamedSchema<'a> },
    Regex { regex: &'a str },
    Lark { lark: &'a str },
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: Schema<'a>,
}

impl<'a> WireFormat<'a> {
    fn new(format: &'a ResponseFormat) -> Option<Self> {
        Some(match format {
            ResponseFormat::Text => return None,
            ResponseFormat::JsonObject => WireFormat::JsonObject,
            ResponseFormat::JsonSchema(schema) => WireFormat::JsonSchema {
                json_schema: NamedSchema {
                    name: "answer",
                    strict: true,
                    schema: Schema::new(schema),
                },
            },
            ResponseFormat::Regex(regex) => WireFormat::Regex { regex },
            ResponseFormat::Lark(lark) => WireFormat::Lark { lark },
        })
    }
}
