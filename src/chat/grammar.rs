//! What a request allows the reply to be: from tools, tool choice, format and effort to a constraint.
//!
//! The shape is mistral-common's: `think? (content | calls)`, where a format takes the place of the content.
//! Two things are tighter here. A function's name is always one of the request's, and its arguments are held
//! to its schema even where the tool is not strict, as far as the schema can be enforced. And a reply that
//! must call does so at once, so that it cannot put the call off for ever.

use std::collections::HashSet;

use super::validate::is_function_name;
use super::{
    ChatFormat, ChatRequest, ContentChunk, MAX_TOOLS, ReasoningEffort, ResponseFormat, Tool,
    ToolChoice, Version, merge, version,
};
use crate::constraint::{
    self, Begun, CallRules, CallStyle, Constraint, ConstraintError, Grammars, Language, ReplyRules,
    TextRules, ToolRules,
};
use crate::tokenizer::Tokenizer;

/// Holds the reply to what the request says; `None` where everything is allowed. `reasoning_budget` is the
/// number of tokens after which reasoning is closed.
pub fn constraint(
    request: &ChatRequest,
    format: &ChatFormat,
    grammars: &Grammars,
    tokenizer: &Tokenizer,
    reasoning_budget: Option<u32>,
) -> Result<Option<Constraint>, ConstraintError> {
    let limits = ReplyLimits { reasoning_budget, single_call: false };
    let rules = reply_rules(request, format, tokenizer, limits)?;
    rules.map(|rules| Constraint::new(grammars, rules)).transpose()
}

/// What a request says about its reply beside the conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Tokens after which reasoning is closed.
    pub reasoning_budget: Option<u32>,
    /// At most one call.
    pub single_call: bool,
}

/// The rules alone, with every schema checked and none compiled; `None` where everything is allowed.
pub fn reply_rules(
    request: &ChatRequest,
    format: &ChatFormat,
    tokenizer: &Tokenizer,
    limits: ReplyLimits,
) -> Result<Option<ReplyRules>, ConstraintError> {
    let reasoning_budget = limits.reasoning_budget;
    check_tools(&request.tools)?;
    let mut notes = Vec::new();
    let version = format.version(tokenizer);
    let style = style(version, tokenizer);
    let mut calls = calls(request, style, &mut notes)?;
    if let Some(calls) = &mut calls {
        calls.is_single |= limits.single_call;
    }
    let is_free = calls.is_none() && request.tools.is_empty()
        || calls.as_ref().is_some_and(|calls| calls.style == CallStyle::Free);
    let may_reason = request.reasoning_effort == ReasoningEffort::High
        && tokenizer.control_token("[THINK]").is_some();
    let begun = begun(request, version);
    let reasons = may_reason || begun == Begun::Reasoning;
    // A format that cannot be kept is an error even where there will be no text.
    let held = held(&request.response_format)?;
    if is_free && held.is_none() && !(reasons && reasoning_budget.is_some()) {
        return Ok(None);
    }
    let must_call = calls.as_ref().is_some_and(|calls| calls.is_required);
    let text = match held {
        _ if must_call => TextRules::Forbidden,
        Some(held) => held,
        None => TextRules::Free,
    };
    Ok(Some(ReplyRules { may_reason, reasoning_budget, text, calls, begun, notes }))
}

/// The rules of plain text that goes on in a form; `None` where everything is allowed.
pub fn text_rules(format: &ResponseFormat) -> Result<Option<ReplyRules>, ConstraintError> {
    let rules = |text| ReplyRules {
        may_reason: false,
        reasoning_budget: None,
        text,
        calls: None,
        begun: Begun::Nothing,
        notes: Vec::new(),
    };
    Ok(held(format)?.map(rules))
}

/// The rules of a text that has a form, which is checked.
fn held(format: &ResponseFormat) -> Result<Option<TextRules>, ConstraintError> {
    let Some(language) = language(format) else { return Ok(None) };
    let field = format_field(format);
    constraint::check(&language).map_err(|error| error.at(field))?;
    Ok(Some(TextRules::Held(language, field.to_owned())))
}

fn language(format: &ResponseFormat) -> Option<Language> {
    Some(match format {
        ResponseFormat::Text => return None,
        ResponseFormat::JsonObject => Language::JsonObject,
        ResponseFormat::JsonSchema(schema) => Language::JsonSchema(schema.clone()),
        ResponseFormat::Regex(pattern) => Language::Regex(pattern.clone()),
        ResponseFormat::Lark(grammar) => Language::Lark(grammar.clone()),
    })
}

fn format_field(format: &ResponseFormat) -> &'static str {
    match format {
        ResponseFormat::Text | ResponseFormat::JsonObject => "response_format",
        ResponseFormat::JsonSchema(_) => "response_format.json_schema.schema",
        ResponseFormat::Regex(_) => "response_format.regex",
        ResponseFormat::Lark(_) => "response_format.lark",
    }
}

fn check_tools(tools: &[Tool]) -> Result<(), ConstraintError> {
    if tools.len() > MAX_TOOLS {
        let problem = format!("{} tools, at most {MAX_TOOLS} are taken", tools.len());
        return Err(ConstraintError::field("tools", problem));
    }
    let mut names = HashSet::new();
    for (i, tool) in tools.iter().enumerate() {
        let fault =
            |problem| Err(ConstraintError::field(format!("tools[{i}].function.name"), problem));
        if !is_function_name(&tool.name) {
            return fault(format!("{:?} is not 1 to 64 of a-z A-Z 0-9 _ -", tool.name));
        }
        if !names.insert(&tool.name) {
            return fault(format!("{:?} is the name of an earlier tool too", tool.name));
        }
    }
    Ok(())
}

/// How calls are held; `None` where the model has no way to call.
fn style(version: Version, tokenizer: &Tokenizer) -> Option<CallStyle> {
    let has = |name| tokenizer.control_token(name).is_some();
    if !has("[TOOL_CALLS]") {
        return None;
    }
    Some(match version.rules().calls {
        version::CallStyle::WithId if has("[ARGS]") => CallStyle::WithId,
        version::CallStyle::Plain if has("[ARGS]") => CallStyle::Plain,
        // A list says which function it calls only after it has begun, so it cannot be held to any.
        _ => CallStyle::Free,
    })
}

fn calls(
    request: &ChatRequest,
    style: Option<CallStyle>,
    notes: &mut Vec<String>,
) -> Result<Option<CallRules>, ConstraintError> {
    let tools = tools(&request.tools, notes)?;
    let has_tools = !tools.is_empty();
    let fault = |problem: String| Err(ConstraintError::field("tool_choice", problem));
    let must_call = matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let style = match style {
        Some(CallStyle::Free) | None if must_call && has_tools => {
            return fault(
                "this model's way of calling functions cannot be held to anything; use auto"
                    .to_owned(),
            );
        }
        None if !must_call => return Ok(None),
        style => style.unwrap_or(CallStyle::Free),
    };
    let rules =
        |tools, is_required, is_single| Some(CallRules { style, tools, is_required, is_single });
    Ok(match &request.tool_choice {
        ToolChoice::Auto if has_tools => rules(tools, false, false),
        ToolChoice::Auto | ToolChoice::None => None,
        ToolChoice::Required if has_tools => rules(tools, true, false),
        ToolChoice::Required => {
            return fault("a call is required, but there are no tools".to_owned());
        }
        ToolChoice::Named(name) => {
            let named: Vec<_> = tools.into_iter().filter(|tool| tool.name == *name).collect();
            if named.is_empty() {
                return fault(format!("there is no tool {name:?}"));
            }
            rules(named, true, true)
        }
    })
}

/// The tools, their schemas checked.
fn tools(tools: &[Tool], notes: &mut Vec<String>) -> Result<Vec<ToolRules>, ConstraintError> {
    let field = |i: usize| format!("tools[{i}].function.parameters");
    let mut rules = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        check_parameters(&tool.parameters).map_err(|error| error.at(field(i)))?;
        let mut arguments = Language::Arguments(tool.parameters.clone());
        match constraint::check(&arguments) {
            Ok(()) => {}
            Err(error) if tool.strict => return Err(error.at(field(i))),
            Err(error) => {
                notes.push(format!(
                    "{}; its arguments are held to any JSON object",
                    error.at(field(i))
                ));
                arguments = Language::JsonObject;
            }
        }
        rules.push(ToolRules {
            name: tool.name.clone(),
            arguments,
            falls_back: !tool.strict,
            field: field(i),
        });
    }
    Ok(rules)
}

fn check_parameters(parameters: &str) -> Result<(), ConstraintError> {
    let fault = |problem: String| Err(ConstraintError::field("", problem));
    match serde_json::from_str::<serde_json::Value>(parameters) {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => fault("expected a JSON schema, which is an object".to_owned()),
        Err(error) if error.to_string().contains("recursion limit") => {
            fault("nested deeper than 64".to_owned())
        }
        Err(error) => fault(format!("not JSON: {error}")),
    }
}

/// What the prompt has of the reply, where its last message is to be continued.
fn begun(request: &ChatRequest, version: Version) -> Begun {
    let Some(last) = merge::last_assistant(&request.messages, version) else {
        return Begun::Nothing;
    };
    if !last.prefix {
        return Begun::Nothing;
    }
    if !last.tool_calls.is_empty() {
        return Begun::Calls;
    }
    let text = last.content.iter().filter_map(|chunk| match chunk {
        ContentChunk::Text(text) => Some(text.as_str()),
        ContentChunk::Thinking { .. } | ContentChunk::Image(_) => None,
    });
    let mut text: String = text.collect();
    if last.content.len() == 1 {
        // As the encoder does with an answer that is all text.
        text.truncate(text.trim_end_matches(' ').len());
    }
    match last.content.last() {
        Some(ContentChunk::Thinking { closed: false, .. }) => Begun::Reasoning,
        _ if !text.is_empty() => Begun::Text(text),
        Some(ContentChunk::Thinking { .. }) => Begun::Reasoned,
        _ => Begun::Nothing,
    }
}

#[cfg(test)]
mod tests;
