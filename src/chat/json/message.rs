//! One message of any protocol becomes one or several of ours.
//!
//! Anthropic packs calls and results into the content of assistant and user messages; they are
//! taken out, so that a user message with results becomes tool messages and a user message.

use super::content::Part;
use super::{Fields, Node, Reader, RequestError};
use crate::chat::{AssistantMessage, ContentChunk, Message, ToolCall, ToolMessage};

impl Reader<'_, '_> {
    pub(super) fn message(
        &mut self,
        node: &Node<'_>,
        messages: &mut Vec<Message>,
    ) -> Result<(), RequestError> {
        let fields = node.fields()?;
        let role = fields.need("role")?;
        match role.text()?.as_str() {
            "system" => messages.push(Message::System(self.said(&fields)?)),
            "developer" => {
                self.change(&role.place, "developer instructions are given as a system message")?;
                messages.push(Message::System(self.said(&fields)?));
            }
            "user" => self.user(&fields, messages)?,
            "assistant" => messages.push(self.assistant(&fields)?),
            "tool" | "function" => messages.push(self.tool(&fields)?),
            found => {
                return Err(role.error(format!(
                    "expected system, developer, user, assistant or tool, found {found:?}"
                )));
            }
        }
        Ok(())
    }

    /// The content of a message that must have one.
    fn said(&mut self, fields: &Fields<'_>) -> Result<Vec<ContentChunk>, RequestError> {
        match fields.get("content") {
            Some(content) => self.content(&content),
            None => {
                self.change(&fields.place_of("content"), "no content is taken as empty")?;
                Ok(Vec::new())
            }
        }
    }

    /// Content without calls and results.
    pub(super) fn content(&mut self, node: &Node<'_>) -> Result<Vec<ContentChunk>, RequestError> {
        let mut content = Vec::new();
        for (place, part) in self.parts(node)? {
            match part {
                Part::Chunk(chunk) => content.push(chunk),
                Part::Call(_) | Part::Result(_) => {
                    let problem = "calls stand in assistant messages and results in user messages";
                    return Err(RequestError::field(place, problem));
                }
            }
        }
        Ok(content)
    }

    fn user(
        &mut self,
        fields: &Fields<'_>,
        messages: &mut Vec<Message>,
    ) -> Result<(), RequestError> {
        let Some(node) = fields.get("content") else {
            messages.push(Message::User(self.said(fields)?));
            return Ok(());
        };
        let mut said = Vec::new();
        let mut has_results = false;
        for (place, part) in self.parts(&node)? {
            match part {
                Part::Chunk(chunk) => said.push(chunk),
                Part::Result(result) => {
                    if !said.is_empty() {
                        messages.push(Message::User(std::mem::take(&mut said)));
                    }
                    has_results = true;
                    messages.push(Message::Tool(result));
                }
                Part::Call(_) => {
                    return Err(RequestError::field(place, "a user message cannot hold calls"));
                }
            }
        }
        if !said.is_empty() || !has_results {
            messages.push(Message::User(said));
        }
        Ok(())
    }

    fn assistant(&mut self, fields: &Fields<'_>) -> Result<Message, RequestError> {
        let mut assistant = AssistantMessage::default();
        let parts = match fields.get("content") {
            Some(node) => self.parts(&node)?,
            None => Vec::new(),
        };
        let mut is_reordered = None;
        for (place, part) in parts {
            match part {
                Part::Chunk(chunk) => {
                    if !assistant.tool_calls.is_empty() {
                        is_reordered = Some(place);
                    }
                    assistant.content.push(chunk);
                }
                Part::Call(call) => assistant.tool_calls.push(call),
                Part::Result(_) => {
                    let problem = "an assistant message cannot hold results of calls";
                    return Err(RequestError::field(place, problem));
                }
            }
        }
        if let Some(place) = is_reordered {
            self.change(&place, "what was said after a call is put in front of the calls")?;
        }
        if let Some(refusal) = fields.get("refusal") {
            self.foreign(&refusal.place, "a refusal is the text of an answer")?;
            assistant.content.push(ContentChunk::Text(refusal.text()?));
        }
        if fields.get("audio").is_some() {
            self.change(&fields.place_of("audio"), "sound that was said before is left out")?;
        }
        self.add_reasoning(fields, &mut assistant.content)?;
        assistant.tool_calls.extend(self.calls(fields)?);
        assistant.prefix = fields.flag("prefix")?.unwrap_or(false);
        Ok(Message::Assistant(assistant))
    }

    /// Reasoning that stands beside the content is thinking in front of it.
    fn add_reasoning(
        &mut self,
        fields: &Fields<'_>,
        content: &mut Vec<ContentChunk>,
    ) -> Result<(), RequestError> {
        let Some(thinking) = self.reasoning_text(fields)? else { return Ok(()) };
        let told: String = content
            .iter()
            .filter_map(|chunk| match chunk {
                ContentChunk::Thinking { thinking, .. } => Some(thinking.as_str()),
                _ => None,
            })
            .collect();
        let has_thinking =
            content.iter().any(|chunk| matches!(chunk, ContentChunk::Thinking { .. }));
        if !has_thinking {
            content.insert(0, ContentChunk::Thinking { thinking, closed: true });
        } else if self.strict {
            let problem = "has both reasoning_content and thinking chunks; keep one";
            return Err(RequestError::field(&fields.place, problem));
        } else if told.trim() != thinking.trim() {
            self.change(
                &fields.place,
                "its reasoning is told twice and differently; the content's thinking is kept",
            )?;
        }
        Ok(())
    }

    fn reasoning_text(&mut self, fields: &Fields<'_>) -> Result<Option<String>, RequestError> {
        for name in ["reasoning_content", "reasoning"] {
            if let Some(node) = fields.get(name).filter(Node::is_string) {
                let text = node.text()?;
                if self.strict || !text.is_empty() {
                    return Ok(Some(text));
                }
            }
        }
        let Some(details) = fields.get("reasoning_details") else { return Ok(None) };
        self.foreign(&details.place, "reasoning is thinking chunks or reasoning_content")?;
        let mut text = String::new();
        for item in details.items()? {
            let detail = item.fields()?;
            match detail.any(&["text", "summary"]) {
                Some(part) => text.push_str(&part.text()?),
                None => self.change(&item.place, "encrypted reasoning is left out")?,
            }
        }
        Ok((!text.is_empty()).then_some(text))
    }

    fn tool(&mut self, fields: &Fields<'_>) -> Result<Message, RequestError> {
        let tool_call_id = match fields.get("tool_call_id") {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        Ok(Message::Tool(ToolMessage { content: self.said(fields)?, tool_call_id }))
    }

    /// An id; some clients count their calls.
    pub(super) fn id(&self, node: &Node<'_>) -> Result<String, RequestError> {
        match node.is_string() || node.is_object() || node.is_list() || self.strict {
            true => node.text(),
            false => Ok(node.raw().to_owned()),
        }
    }

    fn calls(&mut self, fields: &Fields<'_>) -> Result<Vec<ToolCall>, RequestError> {
        let mut calls = Vec::new();
        if let Some(list) = fields.get("tool_calls") {
            for node in list.items()? {
                calls.push(self.call(&node)?);
            }
        }
        if let Some(node) = fields.get("function_call") {
            self.foreign(&node.place, "calls stand in tool_calls")?;
            if calls.is_empty() {
                calls.push(self.named_call(&node, String::new())?);
            }
        }
        Ok(calls)
    }
}
