//! Function names as the model may write them.
//!
//! A name must be 1 to 64 of `a-z A-Z 0-9 _ -`. Tools, calls and the choice of a tool are renamed
//! alike, and two names never become one.

use std::collections::{HashMap, HashSet};

use super::super::validate::is_function_name;
use crate::chat::{Change, ChatRequest, Message, ToolChoice};

/// Longest name.
const MAX_LEN: usize = 64;

/// Renames what has no valid name.
pub(super) fn make_valid(request: &mut ChatRequest, changes: &mut Vec<Change>) {
    let mut renaming = Renaming::new(request);
    for (i, tool) in request.tools.iter_mut().enumerate() {
        renaming.apply(&mut tool.name, || format!("tools[{i}]"), changes);
    }
    for (i, message) in request.messages.iter_mut().enumerate() {
        if let Message::Assistant(assistant) = message {
            for call in &mut assistant.tool_calls {
                renaming.apply(&mut call.name, || format!("messages[{i}]"), changes);
            }
        }
    }
    if let ToolChoice::Named(name) = &mut request.tool_choice {
        renaming.apply(name, || "tool_choice".to_owned(), changes);
    }
}

struct Renaming {
    taken: HashSet<String>,
    renamed: HashMap<String, String>,
}

impl Renaming {
    fn new(request: &ChatRequest) -> Self {
        let tools = request.tools.iter().map(|tool| &tool.name);
        let calls = request.messages.iter().flat_map(super::calls).map(|call| &call.name);
        let taken = tools.chain(calls).filter(|name| is_function_name(name)).cloned().collect();
        Renaming { taken, renamed: HashMap::new() }
    }

    fn apply(&mut self, name: &mut String, place: impl Fn() -> String, changes: &mut Vec<Change>) {
        // One line feed at the end passes the reference's pattern.
        if is_function_name(name.strip_suffix('\n').unwrap_or(name)) {
            return;
        }
        let valid = match self.renamed.get(name.as_str()) {
            Some(valid) => valid.clone(),
            None => {
                let valid = self.free(name);
                self.taken.insert(valid.clone());
                self.renamed.insert(name.clone(), valid.clone());
                valid
            }
        };
        changes.push(Change::new(place(), format!("the function {name:?} is called {valid:?}")));
        *name = valid;
    }

    fn free(&self, name: &str) -> String {
        let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
        let word: String =
            name.chars().take(MAX_LEN).map(|c| if is_word(&c) { c } else { '_' }).collect();
        let word = if word.is_empty() { "function".to_owned() } else { word };
        if !self.taken.contains(&word) {
            return word;
        }
        (2_usize..)
            .map(|n| {
                let end = format!("_{n}");
                format!("{}{end}", &word[..word.len().min(MAX_LEN - end.len())])
            })
            .find(|candidate| !self.taken.contains(candidate))
            .expect("only finitely many names are taken")
    }
}
