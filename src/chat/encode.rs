//! The v15 chat encoder: a conversation becomes token ids, equal to mistral-common's.
//!
//! Control tokens are written by id and text by the plain BPE encoder, so nothing that a user, a
//! tool or a schema says can become a control token. There are no spaces or line feeds between the
//! parts, and generation starts right after the last `[/INST]` or `[/TOOL_RESULTS]`.

use super::{
    AssistantMessage, ChatRequest, ContentChunk, EncodeError, Message, ReasoningEffort, Tool,
    merge, python_json, validate,
};
use crate::engine::Prompt;
use crate::tokenizer::Tokenizer;

/// Encodes a conversation up to the place where the model goes on.
pub fn encode(request: &ChatRequest, tokenizer: &Tokenizer) -> Result<Prompt, EncodeError> {
    validate::validate(request)?;
    let mut writer = Writer { tokenizer, prompt: Prompt::default() };
    writer.prompt.tokens.push(tokenizer.bos());
    let mut tools_and_settings_written = false;
    for message in &merge::merge(&request.messages) {
        match message {
            Message::System(content) => {
                writer.block("[SYSTEM_PROMPT]", content, "[/SYSTEM_PROMPT]")?;
            }
            Message::User(content) => {
                if !tools_and_settings_written {
                    writer.tools(&request.tools)?;
                    writer.settings(request.reasoning_effort)?;
                    tools_and_settings_written = true;
                }
                writer.block("[INST]", content, "[/INST]")?;
            }
            Message::Assistant(assistant) => writer.assistant(assistant)?,
            Message::Tool(tool) => {
                writer.block("[TOOL_RESULTS]", &tool.content, "[/TOOL_RESULTS]")?;
            }
        }
    }
    Ok(writer.prompt)
}

struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    prompt: Prompt,
}

impl Writer<'_> {
    fn control(&mut self, name: &'static str) -> Result<(), EncodeError> {
        let id =
            self.tokenizer.control_token(name).ok_or(EncodeError::MissingControlToken { name })?;
        self.prompt.tokens.push(id);
        Ok(())
    }

    /// One call is one BPE encode: two calls in a row do not merge across their border.
    fn text(&mut self, text: &str) {
        self.tokenizer.encode_into(text, &mut self.prompt.tokens);
    }

    fn block(
        &mut self,
        begin: &'static str,
        content: &[ContentChunk],
        end: &'static str,
    ) -> Result<(), EncodeError> {
        self.control(begin)?;
        self.content(content)?;
        self.control(end)
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
                ContentChunk::Image(_) => {
                    return Err(EncodeError::MissingControlToken { name: "[IMG]" });
                }
            }
        }
        Ok(())
    }

    fn tools(&mut self, tools: &[Tool]) -> Result<(), EncodeError> {
        if tools.is_empty() {
            return Ok(());
        }
        self.control("[AVAILABLE_TOOLS]")?;
        self.text(&tools_json(tools)?);
        self.control("[/AVAILABLE_TOOLS]")
    }

    fn settings(&mut self, effort: ReasoningEffort) -> Result<(), EncodeError> {
        self.control("[MODEL_SETTINGS]")?;
        self.text(&format!("{{\"reasoning_effort\": \"{}\"}}", effort.name()));
        self.control("[/MODEL_SETTINGS]")
    }

    fn assistant(&mut self, assistant: &AssistantMessage) -> Result<(), EncodeError> {
        match assistant.content.as_slice() {
            // The reference strips spaces at the end of an answer, though only if it is all text.
            [ContentChunk::Text(text)] => self.text(text.trim_end_matches(' ')),
            content => self.content(content)?,
        }
        for call in &assistant.tool_calls {
            self.control("[TOOL_CALLS]")?;
            self.text(&call.name);
            self.control("[ARGS]")?;
            self.text(&call.arguments);
        }
        if !assistant.prefix {
            self.prompt.tokens.push(self.tokenizer.eos());
        }
        Ok(())
    }
}

fn tools_json(tools: &[Tool]) -> Result<String, EncodeError> {
    let mut json = String::from("[");
    for (i, tool) in tools.iter().enumerate() {
        if i > 0 {
            json.push_str(", ");
        }
        json.push_str("{\"type\": \"function\", \"function\": {\"name\": ");
        python_json::write_string(&tool.name, &mut json);
        json.push_str(", \"description\": ");
        python_json::write_string(&tool.description, &mut json);
        json.push_str(", \"parameters\": ");
        let parameters = python_json::redump(&tool.parameters)
            .ok_or_else(|| EncodeError::BadParameters { name: tool.name.clone() })?;
        json.push_str(&parameters);
        json.push_str("}}");
    }
    json.push(']');
    Ok(json)
}
