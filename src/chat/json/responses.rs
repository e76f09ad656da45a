//! OpenAI's Responses: a list of items instead of messages.
//!
//! What one turn of the model was comes as several items (reasoning, a message, calls); they become one
//! message again, so that the prompt is what it was when the model wrote them. Nothing is kept between
//! requests, so items that only name something kept elsewhere are refused. What tools of a provider's own
//! did is left out and listed.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::calls::{FREE_TEXT, choice};
use super::{Fields, ImageSource, Node, Reader, Reading, RequestError};
use crate::chat::{
    AssistantMessage, ContentChunk, MAX_TOOLS, Message, Tool, ToolCall, ToolChoice, ToolMessage,
};

/// A tool as its client knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name within its namespace.
    pub name: String,
    /// The namespace, where it has one.
    pub namespace: Option<String>,
    /// Whether it takes free text instead of JSON; the model calls it with that text as `input`.
    pub is_custom: bool,
}

/// Reads a request of OpenAI's Responses.
pub fn responses_from_json(
    json: &str,
    images: &mut ImageSource<'_>,
) -> Result<Reading, RequestError> {
    let mut reader = Reader::new(images, false);
    let fields = Node::root(json)?.fields()?;
    let mut reading = Reading::default();
    let mut tools = HashMap::new();
    let request = &mut reading.request;
    if let Some(instructions) = fields.get("instructions") {
        let content = reader.content(&instructions)?;
        if !content.is_empty() {
            request.messages.push(Message::System(content));
        }
    }
    let input = fields.need("input")?;
    match input.is_string() {
        true => request.messages.push(Message::user(input.text()?)),
        false => {
            for item in input.items()? {
                reader.item(&item, &mut request.messages)?;
            }
        }
    }
    if let Some(list) = fields.get("tools") {
        request.tools = reader.flat_tools(&list, &mut tools)?;
    }
    request.tool_choice = reader.flat_choice(&fields, &mut request.tools)?;
    request.response_format = reader.response_format(&fields)?;
    (request.reasoning_effort, reading.options) = reader.reasoning(&fields)?;
    reading.options.tools = tools;
    reading.changes = reader.changes;
    Ok(reading)
}

impl Reader<'_, '_> {
    fn item(&mut self, node: &Node<'_>, messages: &mut Vec<Message>) -> Result<(), RequestError> {
        let fields = node.fields()?;
        let kind = fields.kind()?;
        match kind.as_str() {
            "message" => self.message_item(node, messages),
            "" if fields.get("role").is_some() => self.message_item(node, messages),
            "reasoning" => {
                if let Some(thought) = self.reasoning_item(node, &fields)? {
                    self.add_to_turn(node, thought, messages)?;
                }
                Ok(())
            }
            "function_call" | "custom_tool_call" => {
                let call = self.call_item(&fields, &kind)?;
                turn(messages).tool_calls.push(call);
                Ok(())
            }
            "function_call_output" | "custom_tool_call_output" => {
                messages.push(Message::Tool(self.output_item(&fields)?));
                Ok(())
            }
            "item_reference" => Err(node.error("no items are kept here: send the item itself")),
            "" if fields.get("id").is_some() => {
                Err(node.error("no items are kept here: send the item itself, with its type"))
            }
            found if is_foreign(found) => {
                self.change(&node.place, format!("a {found:?} item is its provider's own"))
            }
            found => Err(RequestError::field(
                fields.place_of("type"),
                format!(
                    "expected message, reasoning, function_call, function_call_output, \
                     custom_tool_call or custom_tool_call_output, found {found:?}"
                ),
            )),
        }
    }

    fn message_item(
        &mut self,
        node: &Node<'_>,
        messages: &mut Vec<Message>,
    ) -> Result<(), RequestError> {
        let mut read = Vec::new();
        self.message(node, &mut read)?;
        for message in read {
            match message {
                Message::Assistant(said) => {
                    if ends_in_text(messages) {
                        messages.push(Message::Assistant(AssistantMessage::default()));
                    }
                    for chunk in said.content {
                        self.add_to_turn(node, chunk, messages)?;
                    }
                }
                other => messages.push(other),
            }
        }
        Ok(())
    }

    /// What the model said or thought goes on the turn that the items before it began.
    fn add_to_turn(
        &mut self,
        node: &Node<'_>,
        chunk: ContentChunk,
        messages: &mut Vec<Message>,
    ) -> Result<(), RequestError> {
        let turn = turn(messages);
        let is_late = !turn.tool_calls.is_empty();
        turn.content.push(chunk);
        match is_late {
            true => self.change(&node.place, "what was said after a call is put in front of it"),
            false => Ok(()),
        }
    }

    /// The reasoning itself where it is told, else its summary, which for our own replies is the same.
    fn reasoning_item(
        &mut self,
        node: &Node<'_>,
        fields: &Fields<'_>,
    ) -> Result<Option<ContentChunk>, RequestError> {
        for name in ["content", "summary"] {
            let Some(list) = fields.get(name) else { continue };
            let texts: Vec<String> = list
                .items()?
                .iter()
                .map(|part| part.fields()?.need("text")?.text())
                .collect::<Result<_, _>>()?;
            let thinking = texts.join("\n\n");
            if !thinking.is_empty() {
                return Ok(Some(ContentChunk::Thinking { thinking, closed: true }));
            }
        }
        if fields.get("encrypted_content").is_some() {
            self.change(&node.place, "encrypted reasoning is left out")?;
        }
        Ok(None)
    }

    fn call_item(&mut self, fields: &Fields<'_>, kind: &str) -> Result<ToolCall, RequestError> {
        let id = match fields.any(&["call_id", "id"]) {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        let name = flat_name(fields.text("namespace")?.as_deref(), &fields.need("name")?.text()?);
        let arguments = match kind {
            "custom_tool_call" => {
                let input = fields.text("input")?.unwrap_or_default();
                serde_json::json!({ "input": input }).to_string()
            }
            _ => self.arguments(fields.get("arguments"))?,
        };
        Ok(ToolCall { id, name, arguments })
    }

    fn output_item(&mut self, fields: &Fields<'_>) -> Result<ToolMessage, RequestError> {
        let tool_call_id = match fields.any(&["call_id", "id"]) {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        let content = match fields.get("output") {
            None => Vec::new(),
            Some(node) if node.is_string() || node.is_list() => self.content(&node)?,
            Some(node) => vec![ContentChunk::Text(node.raw().to_owned())],
        };
        Ok(ToolMessage { content, tool_call_id })
    }

    fn flat_tools(
        &mut self,
        list: &Node<'_>,
        known: &mut HashMap<String, ClientTool>,
    ) -> Result<Vec<Tool>, RequestError> {
        let mut tools = Vec::new();
        for node in list.items()? {
            let fields = node.fields()?;
            if fields.kind()? == "namespace" {
                let namespace = fields.need("name")?.text()?;
                for node in fields.need("tools")?.items()? {
                    tools.extend(self.flat_tool(&node, Some(&namespace), known)?);
                }
            } else {
                tools.extend(self.flat_tool(&node, None, known)?);
            }
        }
        match tools.len() {
            0..=MAX_TOOLS => Ok(tools),
            found => Err(list.error(format!("{found} tools; at most {MAX_TOOLS}"))),
        }
    }

    fn flat_tool(
        &mut self,
        node: &Node<'_>,
        namespace: Option<&str>,
        known: &mut HashMap<String, ClientTool>,
    ) -> Result<Option<Tool>, RequestError> {
        let fields = node.fields()?;
        let is_custom = fields.kind()? == "custom" && fields.get("custom").is_none();
        let tool = match is_custom {
            true => Some(self.free_text_tool(node, &fields)?),
            false => self.tool_definition(node)?,
        };
        let Some(mut tool) = tool else { return Ok(None) };
        let client = ClientTool {
            name: tool.name.clone(),
            namespace: namespace.map(str::to_owned),
            is_custom,
        };
        tool.name = flat_name(namespace, &tool.name);
        known.insert(tool.name.clone(), client);
        Ok(Some(tool))
    }

    fn free_text_tool(
        &mut self,
        node: &Node<'_>,
        fields: &Fields<'_>,
    ) -> Result<Tool, RequestError> {
        let mut description = fields.text("description")?.unwrap_or_default();
        if let Some(format) = fields.get("format")
            && let format = format.fields()?
            && format.kind()? == "grammar"
        {
            let syntax = format.text("syntax")?.unwrap_or_default();
            let definition = format.need("definition")?.text()?;
            self.change(&node.place, "the model is shown the grammar, and not held to it")?;
            description
                .push_str(&format!("\n\nThe input obeys this grammar ({syntax}):\n{definition}"));
        }
        Ok(Tool {
            name: fields.need("name")?.text()?,
            description: description.trim_start().to_owned(),
            parameters: FREE_TEXT.to_owned(),
            strict: false,
        })
    }

    /// Also takes out the tools that may not be called.
    fn flat_choice(
        &mut self,
        fields: &Fields<'_>,
        tools: &mut Vec<Tool>,
    ) -> Result<ToolChoice, RequestError> {
        let Some(node) = fields.get("tool_choice") else { return Ok(ToolChoice::Auto) };
        let chosen = match node.is_string() {
            true => choice(&node, &node.text()?)?,
            false => self.typed_choice(&node, tools)?,
        };
        if chosen == ToolChoice::Required && tools.is_empty() {
            let problem = "a call is required, but there is no function that could be called: tools \
                           of a provider's own do not exist here";
            return Err(node.error(problem));
        }
        Ok(chosen)
    }

    fn typed_choice(
        &mut self,
        node: &Node<'_>,
        tools: &mut Vec<Tool>,
    ) -> Result<ToolChoice, RequestError> {
        let fields = node.fields()?;
        match fields.kind()?.as_str() {
            "function" | "custom" => Ok(ToolChoice::Named(chosen_name(&fields)?)),
            "allowed_tools" => {
                let inner = match fields.get("allowed_tools") {
                    Some(inner) => inner.fields()?,
                    None => fields,
                };
                let mut allowed = Vec::new();
                for tool in inner.need("tools")?.items()? {
                    let tool = tool.fields()?;
                    if matches!(tool.kind()?.as_str(), "function" | "custom") {
                        allowed.push(chosen_name(&tool)?);
                    }
                }
                tools.retain(|tool| allowed.contains(&tool.name));
                let mode = inner.need("mode")?;
                choice(&mode, &mode.text()?)
            }
            found => Err(RequestError::field(
                fields.place_of("type"),
                format!(
                    "expected function, custom or allowed_tools, found {found:?}: tools of a \
                     provider's own do not exist here"
                ),
            )),
        }
    }
}

/// The model's turn that is at the end of the conversation, or a new one.
fn turn(messages: &mut Vec<Message>) -> &mut AssistantMessage {
    if !matches!(messages.last(), Some(Message::Assistant(_))) {
        messages.push(Message::Assistant(AssistantMessage::default()));
    }
    match messages.last_mut() {
        Some(Message::Assistant(turn)) => turn,
        _ => unreachable!("an assistant's message has just been put there"),
    }
}

/// Texts of two messages are set off from each other, unlike those of one.
fn ends_in_text(messages: &[Message]) -> bool {
    match messages.last() {
        Some(Message::Assistant(turn)) => {
            turn.tool_calls.is_empty() && matches!(turn.content.last(), Some(ContentChunk::Text(_)))
        }
        _ => false,
    }
}

/// The name in a choice of a tool, in the form of either protocol of OpenAI.
fn chosen_name(fields: &Fields<'_>) -> Result<String, RequestError> {
    let name = match fields.any(&["function", "custom"]) {
        Some(inner) => inner.fields()?.need("name")?.text()?,
        None => fields.need("name")?.text()?,
    };
    Ok(flat_name(fields.text("namespace")?.as_deref(), &name))
}

/// The model knows no namespaces; `mcp__docs` and `search` become `mcp__docs__search`.
fn flat_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None | Some("") => name.to_owned(),
        Some(namespace) => format!("{}__{name}", namespace.trim_end_matches('_')),
    }
}

/// Items of tools that a provider runs itself, and of its bookkeeping.
fn is_foreign(kind: &str) -> bool {
    const OTHERS: [&str; 9] = [
        "additional_tools",
        "compaction",
        "compaction_trigger",
        "configuration_update",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "program",
        "program_output",
    ];
    kind.ends_with("_call")
        || kind.ends_with("_call_output")
        || kind.ends_with("_search_output")
        || OTHERS.contains(&kind)
}
