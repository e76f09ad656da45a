//! How the model is to answer: how much it reasons, and what form its answer has.
//!
//! Servers have given the same wish many names. All that are in use are read; two of them at once
//! are an error, because one of them would be lost in silence.

use std::collections::HashMap;

use super::node::shown;
use super::{ClientTool, Fields, Node, Reader, RequestError};
use crate::chat::{ReasoningEffort, ResponseFormat};

/// What a request says about the reply beside the conversation itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Most tokens of reasoning.
    pub reasoning_budget: Option<u32>,
    /// The client does not want to see the reasoning.
    pub hide_reasoning: bool,
    /// What the client calls its tools, by what the model is told they are called, where the protocol has more
    /// to a tool than that.
    pub tools: HashMap<String, ClientTool>,
}

impl Reader<'_, '_> {
    pub(super) fn reasoning(
        &mut self,
        fields: &Fields<'_>,
    ) -> Result<(ReasoningEffort, RequestOptions), RequestError> {
        let mut options = RequestOptions::default();
        let mut effort = match fields.get("reasoning_effort") {
            Some(node) => Some(self.effort(&node)?),
            None => None,
        };
        if let Some(node) = fields.get("reasoning") {
            let found = self.reasoning_object(&node.fields()?, &mut options)?;
            effort = effort.or(found);
        }
        let thinking = fields.get("thinking");
        // Alone it may also be a truth value, as templates take it.
        if let Some(node) = thinking.as_ref().filter(|node| !node.is_object()) {
            node.flag()?;
        }
        if let Some(node) = thinking.filter(Node::is_object) {
            self.foreign(&node.place, "expected reasoning_effort")?;
            let thinking = node.fields()?;
            let found = match thinking.kind()?.as_str() {
                "disabled" => ReasoningEffort::None,
                "" | "enabled" | "adaptive" | "auto" => ReasoningEffort::High,
                found => {
                    let problem =
                        format!("expected enabled, adaptive or disabled, found {found:?}");
                    return Err(RequestError::field(thinking.place_of("type"), problem));
                }
            };
            let budget = thinking.get("budget_tokens").map(|n| n.count()).transpose()?;
            options.reasoning_budget = options.reasoning_budget.or(budget);
            options.hide_reasoning |= thinking.text("display")?.as_deref() == Some("omitted");
            effort = effort.or(Some(found));
        }
        if let Some(node) = fields.get("output_config").filter(Node::is_object)
            && let Some(node) = node.fields()?.get("effort")
        {
            effort = effort.or(Some(self.effort(&node)?));
        }
        if fields.text("prompt_mode")?.as_deref() == Some("reasoning") {
            effort = effort.or(Some(ReasoningEffort::High));
        }
        if effort.is_none() {
            effort = self.template_effort(fields)?;
        }
        if fields.get("include_reasoning").is_some_and(|node| node.raw() == "false") {
            options.hide_reasoning = true;
        }
        Ok((effort.unwrap_or_default(), options))
    }

    /// What clients of servers with templates say in the template's variables.
    fn template_effort(
        &mut self,
        fields: &Fields<'_>,
    ) -> Result<Option<ReasoningEffort>, RequestError> {
        let nested = match fields.get("chat_template_kwargs") {
            Some(node) => Some(node.fields()?),
            None => None,
        };
        for fields in std::iter::once(fields).chain(&nested) {
            if let Some(node) = fields.any(&["enable_thinking", "thinking"]) {
                let on = node.flag()?;
                return Ok(Some(if on { ReasoningEffort::High } else { ReasoningEffort::None }));
            }
        }
        match nested.and_then(|nested| nested.get("reasoning_effort")) {
            Some(node) => self.effort(&node).map(Some),
            None => Ok(None),
        }
    }

    fn reasoning_object(
        &mut self,
        fields: &Fields<'_>,
        options: &mut RequestOptions,
    ) -> Result<Option<ReasoningEffort>, RequestError> {
        self.foreign(&fields.place, "expected reasoning_effort")?;
        options.hide_reasoning = fields.flag("exclude")? == Some(true);
        options.reasoning_budget = fields.get("max_tokens").map(|n| n.count()).transpose()?;
        if fields.flag("enabled")? == Some(false) {
            return Ok(Some(ReasoningEffort::None));
        }
        if let Some(node) = fields.get("effort") {
            return self.effort(&node).map(Some);
        }
        let is_on = options.reasoning_budget.is_some_and(|n| n > 0)
            || fields.flag("enabled")? == Some(true);
        Ok(is_on.then_some(ReasoningEffort::High))
    }

    /// The model knows two efforts; what lies between or beyond is the nearer of them.
    fn effort(&mut self, node: &Node<'_>) -> Result<ReasoningEffort, RequestError> {
        let name = node.text()?;
        if let Some(effort) = ReasoningEffort::from_name(&name) {
            return Ok(effort);
        }
        let effort = match name.to_ascii_lowercase().as_str() {
            "minimal" => ReasoningEffort::None,
            "low" | "medium" | "xhigh" | "max" => ReasoningEffort::High,
            _ => return Err(node.error(format!("expected \"none\" or \"high\", found {name:?}"))),
        };
        let what =
            format!("{name:?} is taken as {:?}: the model knows none and high", effort.name());
        self.change(&node.place, what)?;
        Ok(effort)
    }

    pub(super) fn response_format(
        &mut self,
        fields: &Fields<'_>,
    ) -> Result<ResponseFormat, RequestError> {
        let mut found: Option<(String, ResponseFormat)> = None;
        for (node, read) in format_fields(fields)? {
            let format = read(&node)?;
            if format == ResponseFormat::Text {
                continue;
            }
            if !node.place.starts_with("response_format") {
                self.foreign(&node.place, "expected response_format")?;
            }
            if let Some((first, _)) = &found {
                let problem = format!("the answer's form is already given by {first}; keep one");
                return Err(RequestError::field(node.place, problem));
            }
            found = Some((node.place, format));
        }
        Ok(found.map_or(ResponseFormat::Text, |(_, format)| format))
    }
}

type ReadFormat = fn(&Node<'_>) -> Result<ResponseFormat, RequestError>;

/// Every field of the request that can say what form the answer has.
fn format_fields<'a>(fields: &Fields<'a>) -> Result<Vec<(Node<'a>, ReadFormat)>, RequestError> {
    const NAMED: [(&str, ReadFormat); 8] = [
        ("response_format", typed),
        ("output_format", typed),
        ("guided_json", schema),
        ("json_schema", schema),
        ("guided_regex", regex),
        ("guided_choice", one_of),
        ("guided_grammar", lark),
        ("grammar", lark),
    ];
    const STRUCTURED: [(&str, ReadFormat); 5] = [
        ("json", schema),
        ("regex", regex),
        ("choice", one_of),
        ("grammar", lark),
        ("json_object", object),
    ];
    let mut found = Vec::new();
    let mut add = |fields: &Fields<'a>, names: &[(&str, ReadFormat)]| {
        let nodes = names.iter().filter_map(|&(name, read)| Some((fields.get(name)?, read)));
        found.extend(nodes);
    };
    add(fields, &NAMED);
    for (name, inner) in [("text", "format"), ("output_config", "format")] {
        if let Some(node) = fields.get(name) {
            add(&node.fields()?, &[(inner, typed)]);
        }
    }
    if let Some(node) = fields.get("structured_outputs") {
        add(&node.fields()?, &STRUCTURED);
    }
    Ok(found)
}

/// `{"type": …}` as in `response_format`.
fn typed(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    let fields = node.fields()?;
    let kind = fields.kind()?;
    match kind.as_str() {
        "" | "text" => Ok(ResponseFormat::Text),
        "json_object" | "json" => match fields.any(&["schema", "value"]) {
            Some(node) => schema(&node),
            None => Ok(ResponseFormat::JsonObject),
        },
        "json_schema" => match fields.get("json_schema") {
            Some(named) => schema(&named.fields()?.need("schema")?),
            None => schema(&fields.need("schema")?),
        },
        "regex" => match fields.any(&["regex", "pattern", "value"]) {
            Some(node) => regex(&node),
            None => regex(&fields.need("regex")?),
        },
        "lark" | "grammar" => match fields.any(&["lark", "grammar", "value"]) {
            Some(node) => lark(&node),
            None => lark(&fields.need(&kind)?),
        },
        found => Err(RequestError::field(
            fields.place_of("type"),
            format!("expected text, json_object, json_schema, regex or lark, found {found:?}"),
        )),
    }
}

/// A schema, or its text.
fn schema(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    let text = if node.is_string() { node.text()? } else { node.raw().to_owned() };
    match text.trim_start().starts_with('{') || text == "true" {
        true => Ok(ResponseFormat::JsonSchema(text)),
        false => Err(node.error(format!("expected a JSON schema, found {}", shown(&text)))),
    }
}

fn regex(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    node.text().map(ResponseFormat::Regex)
}

fn lark(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    node.text().map(ResponseFormat::Lark)
}

fn object(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    Ok(if node.flag()? { ResponseFormat::JsonObject } else { ResponseFormat::Text })
}

/// One of several texts, as a regular expression.
fn one_of(node: &Node<'_>) -> Result<ResponseFormat, RequestError> {
    let choices: Vec<String> = node.items()?.iter().map(Node::text).collect::<Result<_, _>>()?;
    if choices.is_empty() {
        return Err(node.error("expected at least one choice"));
    }
    let escaped: Vec<String> = choices.iter().map(|choice| regex_syntax::escape(choice)).collect();
    Ok(ResponseFormat::Regex(escaped.join("|")))
}
