//! The conversation of a REPL: what was said, and how the next answer is asked for.
//!
//! It always stands between two turns: every question in `messages` has its answer, so undo, save
//! and the next request need no special cases. Saving and loading go by way of chat's JSON.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::chat::{
    AssistantMessage, ChatRequest, ContentChunk, Message, ReasoningEffort, Version,
    request_from_json, request_to_json, validate,
};
use crate::vision::Image;

/// Largest conversation that is loaded, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// Messages and settings between two turns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// System prompt, in front of all messages.
    pub system: Option<String>,
    /// Whether the model thinks first.
    pub effort: ReasoningEffort,
    /// Temperature that the user set in the conversation, over the command line's.
    pub temperature: Option<f32>,
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation with these settings.
    pub fn new(system: Option<String>, effort: ReasoningEffort) -> Self {
        Self { system, effort, ..Self::default() }
    }

    /// The request that asks `question`.
    pub fn ask(&self, question: &str) -> ChatRequest {
        let mut request = self.request();
        request.messages.push(Message::user(question));
        request
    }

    /// Keeps a question and its answer.
    pub fn keep(&mut self, question: &str, answer: AssistantMessage) {
        self.messages.push(Message::user(question));
        self.messages.push(Message::Assistant(answer));
    }

    /// Takes the last question and all that followed it out; gives the question's text.
    pub fn undo(&mut self) -> Option<String> {
        let last = self.messages.iter().rposition(|m| matches!(m, Message::User(_)))?;
        let question = self.messages.drain(last..).next()?;
        let Message::User(content) = question else { return None };
        Some(
            content
                .into_iter()
                .map(|chunk| match chunk {
                    ContentChunk::Text(text) => text,
                    ContentChunk::Thinking { .. } | ContentChunk::Image(_) => String::new(),
                })
                .collect(),
        )
    }

    /// Forgets what was said; the system prompt and the settings stay.
    pub fn reset(&mut self) {
        self.messages.clear();
    }

    /// Number of messages, the system prompt not counted.
    pub fn n_messages(&self) -> usize {
        self.messages.len()
    }

    /// Writes the conversation beside `path` and renames it, so that a failure leaves an older
    /// file as it was.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let Some(name) = path.file_name() else { bail!("{} names no file", path.display()) };
        let mut partial = name.to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(partial);
        let mut json = request_to_json(&self.request());
        json.push('\n');
        let written = fs::File::create(&partial)
            .and_then(|mut file| {
                file.write_all(json.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            // It may never have come to be; the first error is the one to tell.
            let _ = fs::remove_file(&partial);
        }
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a conversation that `save`, or any client, wrote. The temperature stays.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let about = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
        if !about.is_file() {
            bail!("{shown} is not a regular file");
        }
        if about.len() > MAX_FILE {
            bail!("{shown} has {} bytes, more than a conversation may have", about.len());
        }
        let json = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let json = String::from_utf8(json).with_context(|| format!("{shown} is not UTF-8"))?;
        let request =
            request_from_json(&json, &mut Image::from_url).with_context(|| shown.to_string())?;
        let loaded = Self::from_request(request, self.temperature);
        validate(&loaded.ask(""), Version::V15).with_context(|| shown.to_string())?;
        *self = loaded;
        Ok(())
    }

    fn request(&self) -> ChatRequest {
        let system = self.system.iter().map(Message::system);
        ChatRequest {
            messages: system.chain(self.messages.iter().cloned()).collect(),
            reasoning_effort: self.effort,
            ..ChatRequest::default()
        }
    }

    fn from_request(request: ChatRequest, temperature: Option<f32>) -> Self {
        let mut messages = request.messages;
        let system = match messages.first() {
            Some(Message::System(content)) => match content.as_slice() {
                [ContentChunk::Text(text)] => Some(text.clone()),
                _ => None,
            },
            _ => None,
        };
        if system.is_some() {
            messages.remove(0);
        }
        Self { system, effort: request.reasoning_effort, temperature, messages }
    }
}

/// The path that a user typed: quotes and backslashes as in a shell, `~/` for the home folder.
pub(super) fn typed_path(typed: &str) -> PathBuf {
    let typed = typed.trim();
    let quoted =
        ['"', '\''].into_iter().find_map(|quote| typed.strip_prefix(quote)?.strip_suffix(quote));
    let path = match quoted {
        Some(inside) => inside.to_owned(),
        None => rustyline::completion::unescape(typed, Some('\\')).into_owned(),
    };
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> AssistantMessage {
        AssistantMessage {
            content: vec![ContentChunk::Text(text.to_owned())],
            ..AssistantMessage::default()
        }
    }

    fn example() -> Conversation {
        let mut conversation = Conversation {
            system: Some("Be brief.".to_owned()),
            effort: ReasoningEffort::High,
            temperature: Some(0.3),
            ..Conversation::default()
        };
        conversation.keep("one", answer("1"));
        conversation.keep("two", answer("2"));
        conversation
    }

    #[test]
    fn undo_takes_back_one_exchange_at_a_time() {
        let mut conversation = example();
        assert_eq!(conversation.undo().as_deref(), Some("two"));
        assert_eq!(conversation.undo().as_deref(), Some("one"));
        assert_eq!(conversation.undo(), None);
        assert_eq!(conversation.system.as_deref(), Some("Be brief."));
    }

    #[test]
    fn what_is_saved_loads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        example().save(&path).unwrap();
        example().save(&path).unwrap();
        let mut loaded = Conversation { temperature: Some(0.3), ..Conversation::default() };
        loaded.load(&path).unwrap();
        assert_eq!(loaded, example());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bad_file_leaves_the_conversation_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut conversation = example();
        let mut check = |name: &str, content: &[u8], expected: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let error = format!("{:#}", conversation.load(&path).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert_eq!(conversation, example());
        };
        check("cut.json", b"{\"messages\": [", "not a chat request");
        check("binary.json", b"\xff\xfe", "not UTF-8");
        check("role.json", br#"{"messages": [{"role": "robot"}]}"#, "messages[0].role");
        check(
            "order.json",
            br#"{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}"#,
            "cannot follow",
        );
        assert!(conversation.load(folder.path()).is_err());
        assert!(conversation.load(&folder.path().join("none.json")).is_err());
        assert!(conversation.save(&folder.path().join("no/such/folder.json")).is_err());
    }

    #[test]
    fn paths_are_read_as_a_shell_reads_them() {
        assert_eq!(typed_path(" a\\ b.json "), PathBuf::from("a b.json"));
        assert_eq!(typed_path("\"a b.json\""), PathBuf::from("a b.json"));
    }
}
