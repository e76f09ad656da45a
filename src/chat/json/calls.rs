//! Tools, calls of them, and whether the model may or must call.
//!
//! A function is described by its name, a text and a schema in every protocol; only the wrapping
//! differs. Tools that a provider runs itself (web search, code interpreters) do not exist here.

use super::{Fields, Node, Reader, RequestError};
use crate::chat::{MAX_TOOLS, Tool, ToolCall, ToolChoice};

/// What a tool of free text is called with.
pub(super) const FREE_TEXT: &str =
    r#"{"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}"#;

impl Reader<'_, '_> {
    pub(super) fn tools(&mut self, list: &Node<'_>) -> Result<Vec<Tool>, RequestError> {
        let items = list.items()?;
        if items.len() > MAX_TOOLS {
            return Err(list.error(format!("{} tools; at most {MAX_TOOLS}", items.len())));
        }
        let mut tools = Vec::new();
        for node in items {
            tools.extend(self.tool_definition(&node)?);
        }
        Ok(tools)
    }

    pub(super) fn tool_definition(
        &mut self,
        node: &Node<'_>,
    ) -> Result<Option<Tool>, RequestError> {
        let fields = node.fields()?;
        let kind = fields.kind()?;
        if let Some(function) = fields.get("function") {
            if !matches!(kind.as_str(), "" | "function") {
                let problem = format!("expected \"function\", found {kind:?}");
                return Err(RequestError::field(fields.place_of("type"), problem));
            }
            return self.function(&function.fields()?, "parameters").map(Some);
        }
        if let Some(custom) = fields.get("custom") {
            self.change(&node.place, "a tool of free text becomes a function of one string")?;
            let custom = custom.fields()?;
            return Ok(Some(Tool {
                name: custom.need("name")?.text()?,
                description: custom.text("description")?.unwrap_or_default(),
                parameters: FREE_TEXT.to_owned(),
                strict: false,
            }));
        }
        let is_anthropic = fields.get("input_schema").is_some();
        if is_anthropic || matches!(kind.as_str(), "" | "function") {
            self.foreign(&fields.place, "a tool is {\"type\", \"function\"}")?;
            let schema = if is_anthropic { "input_schema" } else { "parameters" };
            return self.function(&fields, schema).map(Some);
        }
        let what = format!("a {kind:?} tool is its provider's own; the model is not told of it");
        self.change(&node.place, what)?;
        Ok(None)
    }

    fn function(&mut self, fields: &Fields<'_>, schema: &str) -> Result<Tool, RequestError> {
        let name = fields.need("name")?.text()?;
        let parameters = match fields.get(schema) {
            None => {
                self.foreign(&fields.place_of(schema), "parameters are an object")?;
                "{}".to_owned()
            }
            Some(node) if node.is_object() => node.raw().to_owned(),
            Some(node) => {
                return Err(node.error(format!(
                    "the parameters of {name:?} must be a JSON schema that is an object"
                )));
            }
        };
        Ok(Tool {
            name,
            description: fields.text("description")?.unwrap_or_default(),
            parameters,
            strict: fields.flag("strict")?.unwrap_or(false),
        })
    }

    pub(super) fn call(&mut self, node: &Node<'_>) -> Result<ToolCall, RequestError> {
        let fields = node.fields()?;
        let id = match fields.any(&["id", "call_id"]) {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        if let Some(function) = fields.get("function") {
            return self.named_call(&function, id);
        }
        if let Some(custom) = fields.get("custom") {
            let what = "a call with free text becomes a call with one string";
            self.change(&node.place, what)?;
            let custom = custom.fields()?;
            let input = custom.text("input")?.unwrap_or_default();
            let arguments = serde_json::json!({ "input": input }).to_string();
            return Ok(ToolCall { id, name: custom.need("name")?.text()?, arguments });
        }
        if fields.get("name").is_none() {
            return Err(RequestError::field(fields.place_of("function"), "is missing"));
        }
        self.foreign(&node.place, "a call is {\"id\", \"function\"}")?;
        self.named_call(node, id)
    }

    /// A call from its name and arguments.
    pub(super) fn named_call(
        &mut self,
        node: &Node<'_>,
        id: String,
    ) -> Result<ToolCall, RequestError> {
        let fields = node.fields()?;
        let name = fields.need("name")?.text()?;
        let arguments = self.arguments(fields.any(&["arguments", "input"]))?;
        Ok(ToolCall { id, name, arguments })
    }

    /// Arguments as JSON text: nothing is `{}`, a string is taken at its word.
    pub(super) fn arguments(&mut self, node: Option<Node<'_>>) -> Result<String, RequestError> {
        match node {
            None => Ok("{}".to_owned()),
            Some(node) if node.is_string() => node.text(),
            Some(node) if node.is_object() => Ok(node.raw().to_owned()),
            Some(node) => {
                let place = node.place.clone();
                self.change(&place, "arguments that are no object are passed on as they are")?;
                Ok(node.raw().to_owned())
            }
        }
    }

    pub(super) fn tool_choice(&mut self, fields: &Fields<'_>) -> Result<ToolChoice, RequestError> {
        let Some(node) = fields.any(&["tool_choice", "function_call"]) else {
            return Ok(ToolChoice::Auto);
        };
        if node.is_string() {
            return choice(&node, &node.text()?);
        }
        let object = node.fields()?;
        if let Some(function) = object.get("function") {
            return Ok(ToolChoice::Named(function.fields()?.need("name")?.text()?));
        }
        self.foreign(&node.place, "expected a word or {\"type\", \"function\"}")?;
        if let Some(allowed) = object.get("allowed_tools").filter(Node::is_object) {
            let what = "all tools are allowed, not only the ones that are named";
            self.change(&allowed.place, what)?;
            let mode = allowed.fields()?.need("mode")?;
            return choice(&mode, &mode.text()?);
        }
        if let Some(name) = object.get("name") {
            return name.text().map(ToolChoice::Named);
        }
        let kind = object.need("type")?;
        choice(&kind, &kind.text()?)
    }
}

/// A choice that is one word.
pub(super) fn choice(node: &Node<'_>, word: &str) -> Result<ToolChoice, RequestError> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" | "any" => Ok(ToolChoice::Required),
        found => Err(node.error(format!(
            "expected \"auto\", \"none\", \"required\", \"any\" or a function, found {found:?}"
        ))),
    }
}
