//! Refuses the conversations that mistral-common refuses, and no others.
//!
//! Histories as clients send them are wilder than this; making them valid is another step, in
//! front of this one. The rules are those of mistral-common's request validators in their `test`
//! mode, in which open tool calls at the end are allowed. Two things are let through: a reasoning
//! effort of `none` where a version has no settings, which is the same as none given, and schemas
//! that break JSON schema's own schema, which `draft7` looks at.

use std::collections::HashSet;

use super::version::{CallIds, Rules};
use super::{
    AssistantMessage, ChatRequest, ContentChunk, EncodeError, Message, ReasoningEffort, Version,
    python_json,
};

/// Checks order, content, tool calls and tools of a conversation that the model is to answer.
pub fn validate(request: &ChatRequest, version: Version) -> Result<(), EncodeError> {
    let rules = version.rules();
    let messages = &request.messages;
    check_ends(messages)?;
    check_order(messages)?;
    match rules.pairs_ids {
        true => check_pairing(messages)?,
        false => check_counts(messages)?,
    }
    for (index, message) in messages.iter().enumerate() {
        check_content(message, index, index + 1 == messages.len(), rules)?;
    }
    check_assistants_speak(messages)?;
    for (index, tool) in request.tools.iter().enumerate() {
        check_function_name(&tool.name, || format!("tools[{index}]"))?;
        if !python_json::is_object(&tool.parameters) {
            return Err(EncodeError::BadParameters { index, name: tool.name.clone() });
        }
    }
    match request.reasoning_effort != ReasoningEffort::None && !rules.settings {
        true => Err(EncodeError::NoEffort { version: rules.name }),
        false => Ok(()),
    }
}

fn check_ends(messages: &[Message]) -> Result<(), EncodeError> {
    match messages {
        [] => Err(EncodeError::NoMessages),
        [Message::System(_) | Message::User(_)] => Ok(()),
        [only] => Err(EncodeError::BadFirst { role: only.role() }),
        [.., Message::Assistant(last)] if !last.prefix => {
            Err(EncodeError::LastIsAssistant { index: messages.len() - 1 })
        }
        _ => Ok(()),
    }
}

fn check_order(messages: &[Message]) -> Result<(), EncodeError> {
    for (i, pair) in messages.windows(2).enumerate() {
        let (previous, role) = (pair[0].role(), pair[1].role());
        let allowed = match role {
            "system" => matches!(previous, "system" | "user"),
            "tool" => matches!(previous, "assistant" | "tool"),
            _ => true,
        };
        if !allowed {
            return Err(EncodeError::BadOrder { index: i + 1, role, previous });
        }
    }
    Ok(())
}

/// Every result answers one call of the latest assistant message, and no later assistant message
/// comes before all of them are answered. The first message is not looked at.
fn check_pairing(messages: &[Message]) -> Result<(), EncodeError> {
    let mut called: HashSet<&str> = HashSet::new();
    let mut answered: HashSet<&str> = HashSet::new();
    for (index, message) in messages.iter().enumerate().skip(1) {
        let problem = |problem: String| Err(EncodeError::BadPairing { index, problem });
        match message {
            Message::Tool(result) => {
                let id = result.tool_call_id.as_str();
                if !called.contains(id) {
                    return problem(format!("no open tool call has the id {id:?}"));
                }
                if !answered.insert(id) {
                    return problem(format!("the tool call {id:?} has a second result"));
                }
            }
            Message::Assistant(assistant) => {
                if called.len() != answered.len() {
                    return problem(format!(
                        "{} of {} tool calls before it have no result",
                        called.len() - answered.len(),
                        called.len()
                    ));
                }
                called.clear();
                answered.clear();
                for call in &assistant.tool_calls {
                    if !called.insert(&call.id) {
                        return problem(format!("two tool calls have the id {:?}", call.id));
                    }
                }
            }
            Message::System(_) | Message::User(_) => {}
        }
    }
    Ok(())
}

/// Before each assistant message there are as many results as calls, whatever their ids. The first
/// message is not looked at.
fn check_counts(messages: &[Message]) -> Result<(), EncodeError> {
    let (mut n_calls, mut n_results) = (0, 0);
    for (index, message) in messages.iter().enumerate().skip(1) {
        match message {
            Message::Tool(_) => n_results += 1,
            Message::Assistant(assistant) if n_calls == n_results => {
                (n_calls, n_results) = (assistant.tool_calls.len(), 0);
            }
            Message::Assistant(_) => {
                let problem = format!("{n_calls} tool calls before it have {n_results} results");
                return Err(EncodeError::BadPairing { index, problem });
            }
            Message::System(_) | Message::User(_) => {}
        }
    }
    Ok(())
}

/// Neighbouring assistant messages are one, so one of them may be empty, but not all.
fn check_assistants_speak(messages: &[Message]) -> Result<(), EncodeError> {
    let is_silent = |message: &Message| {
        let Message::Assistant(assistant) = message else { return false };
        let is_empty =
            |chunk: &ContentChunk| matches!(chunk, ContentChunk::Text(t) if t.is_empty());
        assistant.tool_calls.is_empty() && assistant.content.iter().all(is_empty)
    };
    let mut index = 0;
    for group in messages.chunk_by(|a, b| a.role() == b.role()) {
        if group.iter().all(is_silent) {
            return Err(EncodeError::EmptyAssistant { index });
        }
        index += group.len();
    }
    Ok(())
}

fn check_content(
    message: &Message,
    index: usize,
    is_last: bool,
    rules: &Rules,
) -> Result<(), EncodeError> {
    let role = message.role();
    let content = match message {
        Message::System(content) | Message::User(content) => content,
        Message::Tool(tool) => {
            check_call_id(&tool.tool_call_id, index, rules)?;
            &tool.content
        }
        Message::Assistant(assistant) => {
            check_assistant(assistant, index, is_last, rules)?;
            &assistant.content
        }
    };
    for chunk in content {
        let (chunk, roles) = match chunk {
            ContentChunk::Text(_) => continue,
            ContentChunk::Thinking { .. } => ("thinking", rules.thinking_in),
            ContentChunk::Image(_) => ("image", rules.images_in),
        };
        if !roles.contains(&role) {
            return Err(EncodeError::BadChunk { index, role, chunk, version: rules.name });
        }
    }
    Ok(())
}

fn check_assistant(
    assistant: &AssistantMessage,
    index: usize,
    is_last: bool,
    rules: &Rules,
) -> Result<(), EncodeError> {
    for (i, call) in assistant.tool_calls.iter().enumerate() {
        check_call_id(&call.id, index, rules)?;
        check_function_name(&call.name, || format!("messages[{index}].tool_calls[{i}]"))?;
    }
    match assistant.prefix && !is_last {
        true => Err(EncodeError::PrefixNotLast { index }),
        false => Ok(()),
    }
}

fn check_call_id(id: &str, index: usize, rules: &Rules) -> Result<(), EncodeError> {
    let (is_good, expected) = match rules.call_ids {
        CallIds::Nine => (is_call_id(without_line_feed(id)), "nine letters and digits"),
        CallIds::Any => (!id.is_empty() && id != "null", "a non-empty string other than \"null\""),
    };
    match is_good {
        true => Ok(()),
        false => Err(EncodeError::BadCallId { index, id: id.to_owned(), expected }),
    }
}

fn check_function_name(name: &str, place: impl Fn() -> String) -> Result<(), EncodeError> {
    match is_function_name(without_line_feed(name)) {
        true => Ok(()),
        false => Err(EncodeError::BadFunctionName { place: place(), name: name.to_owned() }),
    }
}

/// One line feed at the end is let through, because `$` in the reference's patterns does.
fn without_line_feed(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// Whether a name is 1 to 64 of `a-z A-Z 0-9 _ -`.
pub(super) fn is_function_name(name: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(is_word)
}

/// Whether an id is nine letters and digits, as every version takes it.
pub(super) fn is_call_id(id: &str) -> bool {
    id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric())
}
