//! Which result answers which call.
//!
//! A result belongs to the nearest earlier call of its id that has none yet; without an id, to the
//! first open call of the last assistant message that has one. A second result of one call is
//! added to the first. Ids that cannot stand are replaced: the model never sees any.

use std::collections::{BTreeSet, HashMap, HashSet};

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

/// Calls without a result: the index of the message and that of the call among all.
type Open = BTreeSet<(usize, usize)>;

/// All calls so far. Histories have thousands, so nothing here looks through all of them.
#[derive(Default)]
struct Calls {
    all: Vec<OpenCall>,
    open: Open,
    /// Those of each id as it was sent: the open ones, and the last one of all.
    by_id: HashMap<String, (Open, usize)>,
}

impl Calls {
    fn push(&mut self, call: OpenCall) {
        let (message, at) = (call.message, self.all.len());
        self.open.insert((message, at));
        let (open, last) = self.by_id.entry(call.sent_id.clone()).or_default();
        open.insert((message, at));
        *last = at;
        self.all.push(call);
    }

    /// The call that a result of this id answers.
    fn find(&self, id: &str) -> Option<usize> {
        if id.is_empty() || id == "null" {
            return first_of_last_message(&self.open);
        }
        // Equal ids within one message are answered in order, and older messages come last.
        let (open, last) = self.by_id.get(id)?;
        Some(first_of_last_message(open).unwrap_or(*last))
    }

    /// Marks a call as answered.
    fn close(&mut self, at: usize) {
        let call = &self.all[at];
        self.open.remove(&(call.message, at));
        if let Some((open, _)) = self.by_id.get_mut(&call.sent_id) {
            open.remove(&(call.message, at));
        }
    }
}

fn first_of_last_message(open: &Open) -> Option<usize> {
    let &(message, _) = open.last()?;
    open.range((message, 0)..).next().map(|&(_, at)| at)
}

/// Gives every call a valid id and takes the results to their calls. The second value are the
/// positions of results without a call, in order.
pub(super) fn assign(history: &mut History, ids: CallIds) -> (Results, Vec<usize>) {
    let mut results = Results::default();
    let mut orphans = Vec::new();
    let mut calls = Calls::default();
    // The last message that is no result.
    let mut last_other = 0;
    for at in 0..history.messages.len() {
        let Placed { index, message } = &mut history.messages[at];
        let index = *index;
        if !matches!(message, Message::Tool(_)) {
            last_other = at;
        }
        match message {
            Message::Assistant(assistant) => {
                let taken = take_calls(assistant, at, ids);
                if taken.iter().any(|call| call.id != call.sent_id) {
                    history.change(index, "calls get ids of their own");
                }
                taken.into_iter().for_each(|call| calls.push(call));
            }
            Message::Tool(tool) => match calls.find(&tool.tool_call_id) {
                None => orphans.push(at),
                Some(found) => {
                    let content = std::mem::take(&mut tool.content);
                    let call = &mut calls.all[found];
                    if tool.tool_call_id != call.sent_id {
                        history.change(index, "a result without an id answers the first open call");
                    }
                    let is_moved = last_other > call.message;
                    results.add(history, call, index, content, is_moved);
                    calls.close(found);
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
    // Everything below it is taken.
    let mut next = 0;
    for (n, call) in assistant.tool_calls.iter_mut().enumerate() {
        let sent_id = call.id.clone();
        let is_valid = match ids {
            CallIds::Nine => is_call_id(&sent_id),
            CallIds::Any => !sent_id.is_empty() && sent_id != "null",
        };
        if !is_valid || used.contains(&sent_id) {
            next = next.max(n);
            call.id = loop {
                let id = format!("call{next:05}");
                next += 1;
                if !used.contains(&id) && !sent.contains(&id) {
                    break id;
                }
            };
        }
        used.insert(call.id.clone());
        calls.push(OpenCall { message, sent_id, id: call.id.clone(), result: None });
    }
    calls
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
