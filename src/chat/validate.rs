//! Refuses the conversations that mistral-common refuses, and no others.
//!
//! Histories as clients send them are wilder than this; making them valid is another step, in
//! front of this one. The rules are those of `MistralRequestValidatorV15` in its `test` mode, in
//! which open tool calls at the end are allowed.

use std::collections::HashSet;

use super::{AssistantMessage, ChatRequest, ContentChunk, EncodeError, Message, python_json};

/// Checks order, content, tool calls and tools of a conversation that the model is to answer.
pub fn validate(request: &ChatRequest) -> Result<(), EncodeError> {
    let messages = &request.messages;
    check_ends(messages)?;
    check_order(messages)?;
    check_pairing(messages)?;
    for (index, message) in messages.iter().enumerate() {
        check_content(message, index, index + 1 == messages.len())?;
    }
    check_assistants_speak(messages)?;
    for tool in &request.tools {
        check_function_name(&tool.name)?;
        if !python_json::is_object(&tool.parameters) {
            return Err(EncodeError::BadParameters { name: tool.name.clone() });
        }
    }
    Ok(())
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

/// Neighbouring assistant messages are one, so one of them may be empty, but not all.
fn check_assistants_speak(messages: &[Message]) -> Result<(), EncodeError> {
    let mut groups = messages.chunk_by(|a, b| a.role() == b.role());
    match groups.any(|group| group.iter().all(is_silent)) {
        true => Err(EncodeError::EmptyAssistant),
        false => Ok(()),
    }
}

/// Whether this is an assistant message that neither says nor calls anything.
pub(super) fn is_silent(message: &Message) -> bool {
    let Message::Assistant(assistant) = message else { return false };
    let is_empty = |chunk: &ContentChunk| matches!(chunk, ContentChunk::Text(t) if t.is_empty());
    assistant.tool_calls.is_empty() && assistant.content.iter().all(is_empty)
}

fn check_content(message: &Message, index: usize, is_last: bool) -> Result<(), EncodeError> {
    match message {
        Message::System(content) | Message::User(content) => {
            refuse_thinking(content, index, message.role())
        }
        Message::Tool(tool) => {
            refuse_thinking(&tool.content, index, message.role())?;
            check_call_id(&tool.tool_call_id, index)
        }
        Message::Assistant(assistant) => check_assistant(assistant, index, is_last),
    }
}

fn refuse_thinking(
    content: &[ContentChunk],
    index: usize,
    role: &'static str,
) -> Result<(), EncodeError> {
    match content.iter().any(|chunk| matches!(chunk, ContentChunk::Thinking { .. })) {
        true => Err(EncodeError::BadChunk { index, role, chunk: "thinking" }),
        false => Ok(()),
    }
}

fn check_assistant(
    assistant: &AssistantMessage,
    index: usize,
    is_last: bool,
) -> Result<(), EncodeError> {
    for call in &assistant.tool_calls {
        check_call_id(&call.id, index)?;
        check_function_name(&call.name)?;
    }
    match assistant.prefix && !is_last {
        true => Err(EncodeError::PrefixNotLast { index }),
        false => Ok(()),
    }
}

fn check_call_id(id: &str, index: usize) -> Result<(), EncodeError> {
    match id.is_empty() || id == "null" {
        true => Err(EncodeError::BadCallId { index }),
        false => Ok(()),
    }
}

/// One line feed at the end is let through, because `$` in the reference's pattern does.
fn check_function_name(name: &str) -> Result<(), EncodeError> {
    match is_function_name(name.strip_suffix('\n').unwrap_or(name)) {
        true => Ok(()),
        false => Err(EncodeError::BadFunctionName { name: name.to_owned() }),
    }
}

/// Whether a name is 1 to 64 of `a-z A-Z 0-9 _ -`.
pub(super) fn is_function_name(name: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(is_word)
}
