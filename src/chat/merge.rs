//! Joins neighbouring messages of one role and puts tool results into the order of their calls.
//!
//! What comes out has no two user or assistant messages in a row and no two text chunks in a row,
//! so that every text run is one BPE encode. The rules are those of mistral-common's request
//! normalizers: text of two messages is joined by a blank line, text of one message by what the
//! version says, and a chunk that is not text ends the run.

use std::collections::HashMap;
use std::mem;

use super::version::Rules;
use super::{AssistantMessage, ContentChunk, Message, ToolCall, ToolMessage, Version, python_json};

/// The conversation in the shape in which it is encoded.
pub(super) fn merge(messages: &[Message], version: Version) -> Vec<Message> {
    let rules = version.rules();
    let separator = rules.chunk_separator;
    let mut merged = Vec::new();
    // Ids of the calls since the last results; they order the next results.
    let mut call_ids: Vec<String> = Vec::new();
    for group in messages.chunk_by(|a, b| a.role() == b.role()) {
        match &group[0] {
            Message::System(_) => merged.extend(
                group
                    .iter()
                    .map(|message| Message::System(join_content([content(message)], separator))),
            ),
            Message::User(_) => {
                merged.push(Message::User(join_content(group.iter().map(content), separator)));
            }
            Message::Assistant(_) => {
                let assistant = merge_assistant(group, separator);
                call_ids.extend(assistant.tool_calls.iter().map(|call| call.id.clone()));
                merged.push(Message::Assistant(assistant));
            }
            Message::Tool(_) => {
                merged.extend(results(group, &call_ids, rules).into_iter().map(Message::Tool));
                call_ids.clear();
            }
        }
    }
    merged
}

/// The assistant's messages that end a conversation, as the one that is encoded.
pub(super) fn last_assistant(messages: &[Message], version: Version) -> Option<AssistantMessage> {
    let is_other = |message: &Message| !matches!(message, Message::Assistant(_));
    let start = messages.iter().rposition(is_other).map_or(0, |place| place + 1);
    let group = &messages[start..];
    (!group.is_empty()).then(|| merge_assistant(group, version.rules().chunk_separator))
}

fn content(message: &Message) -> &[ContentChunk] {
    match message {
        Message::System(content) | Message::User(content) => content,
        Message::Assistant(assistant) => &assistant.content,
        Message::Tool(tool) => &tool.content,
    }
}

fn merge_assistant(group: &[Message], separator: &str) -> AssistantMessage {
    let mut merged = AssistantMessage {
        content: join_content(group.iter().map(content), separator),
        ..AssistantMessage::default()
    };
    for message in group {
        if let Message::Assistant(assistant) = message {
            merged.tool_calls.extend(assistant.tool_calls.iter().map(|call| ToolCall {
                arguments: dump_arguments(&call.arguments),
                ..call.clone()
            }));
            merged.prefix |= assistant.prefix;
        }
    }
    merged
}

/// Arguments as the model writes them: no text is `{}`, text that is not JSON is a JSON string.
fn dump_arguments(arguments: &str) -> String {
    if arguments.is_empty() {
        return "{}".to_owned();
    }
    python_json::redump(arguments).unwrap_or_else(|| {
        let mut quoted = String::with_capacity(arguments.len() + 2);
        python_json::write_string(arguments, &mut quoted);
        quoted
    })
}

fn results(group: &[Message], call_ids: &[String], rules: &Rules) -> Vec<ToolMessage> {
    let mut results: Vec<ToolMessage> = group
        .iter()
        .filter_map(|message| match message {
            Message::Tool(tool) => Some(ToolMessage {
                content: join_content([tool.content.as_slice()], rules.chunk_separator),
                tool_call_id: tool.tool_call_id.clone(),
            }),
            _ => None,
        })
        .collect();
    if rules.sorts_results {
        let place: HashMap<&str, usize> =
            call_ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
        results.sort_by_key(|result| {
            place.get(result.tool_call_id.as_str()).copied().unwrap_or(usize::MAX)
        });
    }
    results
}

/// Coalesces text within messages, by `separator`, and across messages. Empty text never adds one.
fn join_content<'a>(
    contents: impl IntoIterator<Item = &'a [ContentChunk]>,
    separator: &str,
) -> Vec<ContentChunk> {
    let mut joined = Vec::new();
    let mut run = String::new();
    for content in contents {
        // Only text that continues a run of an earlier message is set off by a blank line.
        let mut needs_blank_line = !run.is_empty();
        for chunk in content {
            match chunk {
                ContentChunk::Text(text) if text.is_empty() => {}
                ContentChunk::Text(text) => {
                    if !run.is_empty() {
                        run.push_str(if needs_blank_line { "\n\n" } else { separator });
                    }
                    run.push_str(text);
                    needs_blank_line = false;
                }
                ContentChunk::Thinking { .. } | ContentChunk::Image(_) => {
                    if !run.is_empty() {
                        joined.push(ContentChunk::Text(mem::take(&mut run)));
                    }
                    joined.push(chunk.clone());
                }
            }
        }
    }
    if !run.is_empty() {
        joined.push(ContentChunk::Text(run));
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> ContentChunk {
        ContentChunk::Text(text.to_owned())
    }

    fn think(thinking: &str) -> ContentChunk {
        ContentChunk::Thinking { thinking: thinking.to_owned(), closed: true }
    }

    #[track_caller]
    fn check(contents: &[&[ContentChunk]], expected: &[ContentChunk]) {
        assert_eq!(join_content(contents.iter().copied(), ""), expected);
    }

    #[test]
    fn text_is_joined_by_a_blank_line_only_across_messages() {
        check(&[&[text("a"), text("b")], &[text("c")]], &[text("ab\n\nc")]);
        check(&[&[text("")], &[text("c")]], &[text("c")]);
        check(&[&[text("a")], &[text("")], &[text("c")]], &[text("a\n\nc")]);
        check(&[&[text("a")], &[think("t"), text("b")]], &[text("a"), think("t"), text("b")]);
        check(
            &[&[think("t"), text("a")], &[text(""), text("b"), text("c")]],
            &[think("t"), text("a\n\nbc")],
        );
        check(&[&[], &[]], &[]);
        let joined = join_content([[text("a"), text(""), text("b")].as_slice()], "\n\n");
        assert_eq!(joined, [text("a\n\nb")]);
    }
}
