//! Which result answers which call.
//!
//! A result belongs to the nearest earlier call of its id that has none yet; without an id, to the
//! first open call of the last assistant message that has one. A second result of one call is
//! added to the first. Ids that cannot stand are replaced: the model never sees any.

use std::collections::{HashMap, HashSet};

use super::{CallIds, History, NO_RESULT, Placed};
use crate::chat::validate::is_call_id;
use crate::chat::{AssistantMessage, Change, ContentChunk, Message, ToolMessage};

/// The results of each message's calls, in the order in which they were sent.
#[derive(Default)]
pub(super) struct Results(HashMap<usize, Vec<Placed>>);

struct OpenCall {
    message: usize,
    /// As it was sent.
    sent_id: String,
    /// As it is now.
    id: String,
    /// Where its result lies in the list of its message.
    result: Option<usize>,
}

/// Gives every call a valid id and takes the results to their calls. The second value are the
/// positions of results without a call.
pub(super) fn assign(history: &mut History, ids: CallIds) -> (Results, Vec<usize>) {
    let mut results = Results::default();
    let mut orphans = Vec::new();
    let mut open: Vec<OpenCall> = Vec::new();
    for at in 0..history.messages.len() {
        let Placed { index, message } = &mut history.messages[at];
        let index = *index;
        match message {
            Message::Assistant(assistant) => {
                let n_before = open.len();
                open.extend(take_calls(assistant, at, ids));
                if open[n_before..].iter().any(|call| call.id != call.sent_id) {
                    history.change(index, "calls get ids of their own");
                }
            }
            Message::Tool(tool) => match find(&open, &tool.tool_call_id) {
                None => orphans.push(at),
                Some(found) => {
                    let content = std::mem::take(&mut tool.content);
                    let has_own_id = tool.tool_call_id == open[found].sent_id;
                    let is_moved = is_moved(history, &open[found], at);
                    if !has_own_id {
                        history.change(index, "a result without an id answers the first open call");
                    }
                    results.add(history, &mut open[found], index, content, is_moved);
                }
            },
            Message::System(_) | Message::User(_) => {}
        }
    }
    (results, orphans)
}

/// The message's calls, each with an id that no other call of it has.
fn take_calls(assistant: &mut AssistantMessage, message: usize, ids: CallIds) -> Vec<OpenCall> {
    let sent: HashSet<String> = assistant.tool_calls.iter().map(|call| call.id.clone()).collect();
    let mut used: HashSet<String> = HashSet::new();
    let mut calls = Vec::new();
    for (n, call) in assistant.tool_calls.iter_mut().enumerate() {
        let sent_id = call.id.clone();
        let is_valid = match ids {
            CallIds::Nine => is_call_id(&sent_id),
            CallIds::Any => !sent_id.is_empty() && sent_id != "null",
        };
        if !is_valid || used.contains(&sent_id) {
            call.id = (n..)
                .map(|n| format!("call{n:05}"))
                .find(|id| !used.contains(id) && !sent.contains(id))
                .expect("only finitely many ids are used");
        }
        used.insert(call.id.clone());
        calls.push(OpenCall { message, sent_id, id: call.id.clone(), result: None });
    }
    calls
}

fn find(open: &[OpenCall], id: &str) -> Option<usize> {
    if id.is_empty() || id == "null" {
        let last = open.iter().rfind(|call| call.result.is_none())?.message;
        return open.iter().position(|call| call.message == last && call.result.is_none());
    }
    let of_id = |call: &&OpenCall| call.sent_id == id;
    // Equal ids within one message are answered in order, and older messages come last.
    let newest = open.iter().rfind(|call| of_id(call) && call.result.is_none());
    match newest {
        Some(newest) => open.iter().position(|call| {
            call.message == newest.message && call.sent_id == id && call.result.is_none()
        }),
        None => open.iter().rposition(|call| call.sent_id == id),
    }
}

/// Whether anything but results stands between a call and its result.
fn is_moved(history: &History, call: &OpenCall, at: usize) -> bool {
    let between = &history.messages[call.message + 1..at];
    between.iter().any(|placed| !matches!(placed.message, Message::Tool(_)))
}

impl Results {
    fn add(
        &mut self,
        history: &mut History,
        call: &mut OpenCall,
        index: usize,
        content: Vec<ContentChunk>,
        is_moved: bool,
    ) {
        let of_message = self.0.entry(call.message).or_default();
        if let Some(first) = call.result {
            history.change(index, "a second result of one call is added to the first");
            let first = of_message[first].message.content_mut();
            first.push(ContentChunk::Text("\n\n".to_owned()));
            first.extend(content);
            return;
        }
        if is_moved {
            history.change(index, "a result moves behind its call");
        }
        call.result = Some(of_message.len());
        let tool_call_id = call.id.clone();
        let message = Message::Tool(ToolMessage { content, tool_call_id });
        of_message.push(Placed { index, message });
    }

    /// The results of the message at `at`. Where the conversation goes on after them, calls that
    /// have none get one that says so.
    pub(super) fn take(
        &mut self,
        at: usize,
        assistant: &AssistantMessage,
        must_be_complete: bool,
        index: usize,
        changes: &mut Vec<Change>,
    ) -> Vec<Placed> {
        let mut results = self.0.remove(&at).unwrap_or_default();
        if !must_be_complete {
            return results;
        }
        let answered: HashSet<String> = results
            .iter()
            .filter_map(|placed| match &placed.message {
                Message::Tool(tool) => Some(tool.tool_call_id.clone()),
                _ => None,
            })
            .collect();
        for call in assistant.tool_calls.iter().filter(|call| !answered.contains(&call.id)) {
            let place = format!("messages[{index}]");
            let what = format!("the call {:?} has no result: {NO_RESULT:?} is told", call.name);
            changes.push(Change::new(place, what));
            let content = vec![ContentChunk::Text(NO_RESULT.to_owned())];
            let tool_call_id = call.id.clone();
            let message = Message::Tool(ToolMessage { content, tool_call_id });
            results.push(Placed { index, message });
        }
        results
    }
}
