//! Conversations as JSON, in the form of OpenAI's and Mistral's chat requests.
//!
//! The same form serves saved conversations, test cases and requests. Only what the encoder needs
//! is read; other fields (`model`, `temperature`, …) are somebody else's and are passed over.
//! Schemas and arguments stay text, because their spelling reaches the model.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{
    AssistantMessage, ChatRequest, ContentChunk, Message, ReasoningEffort, Tool, ToolCall,
    ToolMessage,
};
use crate::vision::{Image, ImageError};

/// Makes a picture of the URL that a chunk names.
type Images<'a> = &'a mut dyn FnMut(&str) -> Result<Image, ImageError>;

/// Why a text is no conversation.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Not JSON, or not of this shape.
    #[error("not a chat request: {0}")]
    Json(#[from] serde_json::Error),
    /// A field whose value has no meaning here.
    #[error("{place}: {problem}")]
    Field {
        /// The field, as `messages[2].content[0].type`.
        place: String,
        /// What is found there and what was expected.
        problem: String,
    },
}

/// Reads a conversation; it is well-formed afterwards, but not yet validated.
pub fn request_from_json(json: &str, images: Images<'_>) -> Result<ChatRequest, RequestError> {
    let wire: WireRequest = serde_json::from_str(json)?;
    let reasoning_effort = match wire.reasoning_effort.as_deref() {
        None => ReasoningEffort::None,
        Some(name) => ReasoningEffort::from_name(name).ok_or_else(|| {
            field("reasoning_effort", format!("expected \"none\" or \"high\", found {name:?}"))
        })?,
    };
    let messages = wire.messages.into_iter().enumerate();
    let tools = wire.tools.unwrap_or_default().into_iter().enumerate();
    Ok(ChatRequest {
        messages: messages
            .map(|(i, message)| message.into_message(&format!("messages[{i}]"), images))
            .collect::<Result<_, _>>()?,
        tools: tools
            .map(|(i, tool)| tool.into_tool(&format!("tools[{i}]")))
            .collect::<Result<_, _>>()?,
        reasoning_effort,
        ..ChatRequest::default()
    })
}

/// Writes a conversation so that `request_from_json` reads the same one.
pub fn request_to_json(request: &ChatRequest) -> String {
    let wire = WireRequest {
        reasoning_effort: Some(request.reasoning_effort.name().to_owned()),
        messages: request.messages.iter().map(WireMessage::from_message).collect(),
        tools: (!request.tools.is_empty())
            .then(|| request.tools.iter().map(WireTool::from_tool).collect()),
    };
    serde_json::to_string_pretty(&wire).expect("the wire structs have string keys only")
}

fn field(place: impl Into<String>, problem: impl Into<String>) -> RequestError {
    RequestError::Field { place: place.into(), problem: problem.into() }
}

#[derive(Serialize, Deserialize)]
struct WireRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<String>,
    messages: Vec<WireMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<WireTool>>,
}

#[derive(Default, Serialize, Deserialize)]
struct WireMessage {
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<WireContent>,
    #[serde(skip_serializing)]
    reasoning_content: Option<String>,
    #[serde(skip_serializing)]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<WireToolCall>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "content must be a string or a list of chunks with a \"type\"")]
enum WireContent {
    Text(String),
    Chunks(Vec<WireChunk>),
}

#[derive(Default, Serialize, Deserialize)]
struct WireChunk {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<bool>,
    #[serde(skip_serializing)]
    image_url: Option<WireUrl>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WireUrl {
    Url(String),
    Object { url: String },
}

#[derive(Serialize, Deserialize)]
struct WireToolCall {
    id: Option<String>,
    #[serde(rename = "type", default = "function_kind")]
    kind: String,
    function: WireFunctionCall,
}

#[derive(Serialize, Deserialize)]
struct WireFunctionCall {
    name: String,
    arguments: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct WireTool {
    #[serde(rename = "type", default = "function_kind")]
    kind: String,
    function: WireFunction,
}

#[derive(Serialize, Deserialize)]
struct WireFunction {
    name: String,
    description: Option<String>,
    parameters: Option<Box<RawValue>>,
}

fn function_kind() -> String {
    "function".to_owned()
}

fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}

impl WireMessage {
    fn into_message(self, place: &str, images: Images<'_>) -> Result<Message, RequestError> {
        let content = match self.content {
            None => Vec::new(),
            Some(WireContent::Text(text)) if text.is_empty() => Vec::new(),
            Some(WireContent::Text(text)) => vec![ContentChunk::Text(text)],
            Some(WireContent::Chunks(chunks)) => chunks
                .into_iter()
                .enumerate()
                .map(|(i, chunk)| chunk.into_chunk(&format!("{place}.content[{i}]"), images))
                .collect::<Result<_, _>>()?,
        };
        match self.role.as_str() {
            "system" => Ok(Message::System(content)),
            "user" => Ok(Message::User(content)),
            "tool" => Ok(Message::Tool(ToolMessage {
                content,
                tool_call_id: self.tool_call_id.unwrap_or_default(),
            })),
            "assistant" => {
                let content =
                    with_reasoning(content, self.reasoning_content.or(self.reasoning), place)?;
                let tool_calls = self.tool_calls.unwrap_or_default().into_iter().enumerate();
                Ok(Message::Assistant(AssistantMessage {
                    content,
                    tool_calls: tool_calls
                        .map(|(i, call)| call.into_call(&format!("{place}.tool_calls[{i}]")))
                        .collect::<Result<_, _>>()?,
                    prefix: self.prefix.unwrap_or(false),
                }))
            }
            role => Err(field(
                format!("{place}.role"),
                format!("expected system, user, assistant or tool, found {role:?}"),
            )),
        }
    }

    fn from_message(message: &Message) -> Self {
        let mut wire = WireMessage { role: message.role().to_owned(), ..Self::default() };
        let content = match message {
            Message::System(content) | Message::User(content) => content,
            Message::Tool(tool) => {
                wire.tool_call_id = Some(tool.tool_call_id.clone());
                &tool.content
            }
            Message::Assistant(assistant) => {
                wire.prefix = assistant.prefix.then_some(true);
                wire.tool_calls = (!assistant.tool_calls.is_empty())
                    .then(|| assistant.tool_calls.iter().map(WireToolCall::from_call).collect());
                &assistant.content
            }
        };
        wire.content = Some(match content.as_slice() {
            [] => WireContent::Text(String::new()),
            [ContentChunk::Text(text)] => WireContent::Text(text.clone()),
            chunks => WireContent::Chunks(chunks.iter().map(WireChunk::from_chunk).collect()),
        });
        wire
    }
}

/// OpenAI-style reasoning is a closed thinking chunk in front of the content.
fn with_reasoning(
    mut content: Vec<ContentChunk>,
    reasoning: Option<String>,
    place: &str,
) -> Result<Vec<ContentChunk>, RequestError> {
    let Some(thinking) = reasoning else { return Ok(content) };
    if content.iter().any(|chunk| matches!(chunk, ContentChunk::Thinking { .. })) {
        return Err(field(place, "has both reasoning_content and thinking chunks; keep one"));
    }
    content.insert(0, ContentChunk::Thinking { thinking, closed: true });
    Ok(content)
}

impl WireChunk {
    fn into_chunk(self, place: &str, images: Images<'_>) -> Result<ContentChunk, RequestError> {
        let missing = |name: &str| field(place, format!("a {name} chunk needs {name:?}"));
        match self.kind.as_str() {
            "text" => Ok(ContentChunk::Text(self.text.ok_or_else(|| missing("text"))?)),
            "thinking" => Ok(ContentChunk::Thinking {
                thinking: self.thinking.ok_or_else(|| missing("thinking"))?,
                closed: self.closed.unwrap_or(true),
            }),
            "image_url" => {
                let url = match self.image_url.ok_or_else(|| missing("image_url"))? {
                    WireUrl::Url(url) | WireUrl::Object { url } => url,
                };
                let image = images(&url).map_err(|error| field(place, error.to_string()))?;
                Ok(ContentChunk::Image(Arc::new(image)))
            }
            kind => Err(field(
                format!("{place}.type"),
                format!("expected text, thinking or image_url, found {kind:?}"),
            )),
        }
    }

    fn from_chunk(chunk: &ContentChunk) -> Self {
        match chunk {
            ContentChunk::Text(text) => {
                Self { kind: "text".to_owned(), text: Some(text.clone()), ..Self::default() }
            }
            ContentChunk::Thinking { thinking, closed } => Self {
                kind: "thinking".to_owned(),
                thinking: Some(thinking.clone()),
                closed: Some(*closed),
                ..Self::default()
            },
            ContentChunk::Image(_) => Self { kind: "image_url".to_owned(), ..Self::default() },
        }
    }
}

impl WireToolCall {
    fn into_call(self, place: &str) -> Result<ToolCall, RequestError> {
        let arguments = match self.function.arguments.as_deref().map(RawValue::get) {
            None => "{}".to_owned(),
            Some(text) if text.starts_with('"') => serde_json::from_str(text)?,
            Some(object) if object.starts_with('{') => object.to_owned(),
            Some(_) => {
                let place = format!("{place}.function.arguments");
                return Err(field(place, "expected a string or an object"));
            }
        };
        Ok(ToolCall { id: self.id.unwrap_or_default(), name: self.function.name, arguments })
    }

    fn from_call(call: &ToolCall) -> Self {
        let quoted = serde_json::to_string(&call.arguments).expect("a string is always JSON");
        Self {
            id: Some(call.id.clone()),
            kind: function_kind(),
            function: WireFunctionCall { name: call.name.clone(), arguments: raw(quoted) },
        }
    }
}

impl WireTool {
    fn into_tool(self, place: &str) -> Result<Tool, RequestError> {
        if self.kind != "function" {
            let problem = format!("expected \"function\", found {:?}", self.kind);
            return Err(field(format!("{place}.type"), problem));
        }
        Ok(Tool {
            name: self.function.name,
            description: self.function.description.unwrap_or_default(),
            parameters: self.function.parameters.map_or("{}".to_owned(), |p| p.get().to_owned()),
            strict: false,
        })
    }

    fn from_tool(tool: &Tool) -> Self {
        Self {
            kind: function_kind(),
            function: WireFunction {
                name: tool.name.clone(),
                description: Some(tool.description.clone()),
                parameters: raw(tool.parameters.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let json = r#"{"model": "x", "reasoning_effort": "HIGH", "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": [
                {"id": "abcdefgh1", "function": {"name": "f", "arguments": {"x": 1e3}}},
                {"id": "abcdefgh2", "function": {"name": "g", "arguments": "not json"}}]},
            {"role": "tool", "tool_call_id": "abcdefgh1", "content": "1"},
            {"role": "assistant", "content": "d", "prefix": true}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]}"#;
        let request = request_from_json(json, &mut Image::from_url).unwrap();
        assert_eq!(request.reasoning_effort, ReasoningEffort::High);
        assert_eq!(request.tools[0].parameters, r#"{"b": 1, "a": 2}"#);
        let Message::Assistant(assistant) = &request.messages[2] else { panic!("assistant") };
        assert_eq!(assistant.tool_calls[0].arguments, r#"{"x": 1e3}"#);
        assert_eq!(assistant.content.len(), 2);
        assert_eq!(
            request_from_json(&request_to_json(&request), &mut Image::from_url).unwrap(),
            request
        );
    }

    #[track_caller]
    fn check_error(json: &str, expected: &str) {
        let error = request_from_json(json, &mut Image::from_url).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn errors_name_the_place() {
        check_error("{", "not a chat request");
        check_error("[]", "not a chat request");
        check_error(r#"{"messages": [{"role": "robot"}]}"#, "messages[0].role");
        check_error(
            r#"{"messages": [{"role": "user", "content": [{"type": "smell"}]}]}"#,
            "messages[0].content[0].type",
        );
        check_error(r#"{"messages": [{"role": "user", "content": 3}]}"#, "a string or a list");
        check_error(r#"{"messages": [], "reasoning_effort": "medium"}"#, "reasoning_effort");
    }
}
