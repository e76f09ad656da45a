//! The chat encoder: a conversation becomes token ids, equal to mistral-common's.
//!
//! Control tokens are written by id and text by the plain BPE encoder, so nothing that a user, a
//! tool or a schema says can become a control token. There are no spaces or line feeds between the
//! parts, and generation starts right after the last `[/INST]` or `[/TOOL_RESULTS]`. What the
//! versions do differently stands in `version`.

use std::iter;
use std::slice;
use std::sync::Arc;

use super::version::{CallStyle, HeadAt, Rules};
use super::{
    AssistantMessage, ChatRequest, ContentChunk, EncodeError, Message, Tool, ToolCall, ToolMessage,
    Version, merge, python_json, validate,
};
use crate::engine::{ImageSpan, Prompt};
use crate::tokenizer::{TokenId, Tokenizer};
use crate::vision::{Image, PatchConfig};

/// Encodes a conversation up to the place where the model goes on.
pub(super) fn encode(
    request: &ChatRequest,
    version: Version,
    tokenizer: &Tokenizer,
    patches: &PatchConfig,
) -> Result<Prompt, EncodeError> {
    validate::validate(request, version)?;
    let rules = version.rules();
    let messages = merge::merge(&request.messages, version);
    let is_user = |message: &Message| matches!(message, Message::User(_));
    let head_at = match rules.head_at {
        HeadAt::FirstUser => messages.iter().position(is_user),
        HeadAt::LastUser => messages.iter().rposition(is_user),
    };
    let mut writer = Writer { rules, tokenizer, patches, prompt: Prompt::default() };
    writer.prompt.tokens.push(tokenizer.bos());
    for (i, message) in messages.iter().enumerate() {
        if head_at == Some(i) {
            writer.head(request)?;
        }
        match message {
            Message::System(content) => {
                writer.control("[SYSTEM_PROMPT]")?;
                writer.content(content)?;
                writer.control("[/SYSTEM_PROMPT]")?;
            }
            Message::User(content) => writer.user(content)?,
            Message::Assistant(assistant) => writer.assistant(assistant)?,
            Message::Tool(tool) => writer.result(tool)?,
        }
    }
    Ok(writer.prompt)
}

struct Writer<'a> {
    rules: &'static Rules,
    tokenizer: &'a Tokenizer,
    patches: &'a PatchConfig,
    prompt: Prompt,
}

impl Writer<'_> {
    fn control_id(&self, name: &'static str) -> Result<TokenId, EncodeError> {
        self.tokenizer.control_token(name).ok_or(EncodeError::MissingControlToken { name })
    }

    fn control(&mut self, name: &'static str) -> Result<(), EncodeError> {
        let id = self.control_id(name)?;
        self.prompt.tokens.push(id);
        Ok(())
    }

    /// One call is one BPE encode: two calls in a row do not merge across their border.
    fn text(&mut self, text: &str) {
        self.tokenizer.encode_into(text, &mut self.prompt.tokens);
    }

    fn content(&mut self, content: &[ContentChunk]) -> Result<(), EncodeError> {
        for chunk in content {
            match chunk {
                ContentChunk::Text(text) => self.text(text),
                ContentChunk::Thinking { thinking, closed } => {
                    self.control("[THINK]")?;
                    self.text(thinking);
                    if *closed {
                        self.control("[/THINK]")?;
                    }
                }
                ContentChunk::Image(image) => self.image(image)?,
            }
        }
        Ok(())
    }

    fn image(&mut self, image: &Arc<Image>) -> Result<(), EncodeError> {
        let cell = self.control_id("[IMG]")?;
        let row_end = self.control_id("[IMG_BREAK]")?;
        let image_end = self.control_id("[IMG_END]")?;
        let grid = self.patches.grid(image.width(), image.height());
        let tokens = &mut self.prompt.tokens;
        let start = tokens.len();
        for row in 1..=grid.rows {
            tokens.extend(iter::repeat_n(cell, grid.cols as usize));
            tokens.push(if row == grid.rows { image_end } else { row_end });
        }
        self.prompt.images.push(ImageSpan { start, grid, image: Arc::clone(image) });
        Ok(())
    }

    /// Tools and settings, which stand before one of the user's messages.
    fn head(&mut self, request: &ChatRequest) -> Result<(), EncodeError> {
        if !request.tools.is_empty() {
            self.control("[AVAILABLE_TOOLS]")?;
            self.text(&tools_json(&request.tools)?);
            self.control("[/AVAILABLE_TOOLS]")?;
        }
        if self.rules.settings {
            let effort = request.reasoning_effort.name();
            self.control("[MODEL_SETTINGS]")?;
            self.text(&format!("{{\"reasoning_effort\": \"{effort}\"}}"));
            self.control("[/MODEL_SETTINGS]")?;
        }
        Ok(())
    }

    /// A picture after nothing but text is moved to the front: so the models were trained.
    fn user(&mut self, content: &[ContentChunk]) -> Result<(), EncodeError> {
        let is_text = |chunk: &ContentChunk| matches!(chunk, ContentChunk::Text(_));
        let (first, rest) = match content.split_last() {
            Some((image @ ContentChunk::Image(_), texts)) if texts.iter().all(is_text) => {
                (slice::from_ref(image), texts)
            }
            _ => (content, &[][..]),
        };
        self.control("[INST]")?;
        self.content(first)?;
        self.content(rest)?;
        self.control("[/INST]")
    }

    fn assistant(&mut self, assistant: &AssistantMessage) -> Result<(), EncodeError> {
        match assistant.content.as_slice() {
            // The reference strips spaces at the end of an answer, though only if it is all text.
            [ContentChunk::Text(text)] => self.text(text.trim_end_matches(' ')),
            content => self.content(content)?,
        }
        if !assistant.tool_calls.is_empty() {
            self.calls(&assistant.tool_calls)?;
        }
        if !assistant.prefix {
            self.prompt.tokens.push(self.tokenizer.eos());
        }
        Ok(())
    }

    fn calls(&mut self, calls: &[ToolCall]) -> Result<(), EncodeError> {
        if self.rules.calls == CallStyle::List {
            self.control("[TOOL_CALLS]")?;
            self.text(&calls_json(calls));
            return Ok(());
        }
        for call in calls {
            self.control("[TOOL_CALLS]")?;
            self.text(&call.name);
            if self.rules.calls == CallStyle::WithId {
                self.control("[CALL_ID]")?;
                self.text(&call.id);
            }
            self.control("[ARGS]")?;
            self.text(&call.arguments);
        }
        Ok(())
    }

    fn result(&mut self, tool: &ToolMessage) -> Result<(), EncodeError> {
        self.control("[TOOL_RESULTS]")?;
        if self.rules.result_ids {
            self.text(&tool.tool_call_id);
            self.control("[TOOL_CONTENT]")?;
        }
        self.content(&tool.content)?;
        self.control("[/TOOL_RESULTS]")
    }
}

fn tools_json(tools: &[Tool]) -> Result<String, EncodeError> {
    let mut json = String::from("[");
    for (index, tool) in tools.iter().enumerate() {
        if index > 0 {
            json.push_str(", ");
        }
        json.push_str("{\"type\": \"function\", \"function\": {\"name\": ");
        python_json::write_string(&tool.name, &mut json);
        json.push_str(", \"description\": ");
        python_json::write_string(&tool.description, &mut json);
        json.push_str(", \"parameters\": ");
        let parameters = python_json::redump(&tool.parameters)
            .ok_or_else(|| EncodeError::BadParameters { index, name: tool.name.clone() })?;
        json.push_str(&parameters);
        json.push_str("}}");
    }
    json.push(']');
    Ok(json)
}

/// The calls of a message as one list; their arguments are JSON already.
fn calls_json(calls: &[ToolCall]) -> String {
    let mut json = String::from("[");
    for (i, call) in calls.iter().enumerate() {
        if i > 0 {
            json.push_str(", ");
        }
        json.push_str("{\"name\": ");
        python_json::write_string(&call.name, &mut json);
        json.push_str(", \"arguments\": ");
        json.push_str(&call.arguments);
        json.push_str(", \"id\": ");
        python_json::write_string(&call.id, &mut json);
        json.push('}');
    }
    json.push(']');
    json
}
