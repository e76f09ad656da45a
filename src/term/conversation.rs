//! The conversation of a REPL: what was said, and how the next answer is asked for.
//!
//! It always stands between two turns: every question in `messages` has its answer and every tool call
//! its result, so undo, save and the next request need no special cases. What is being said, the exchange,
//! comes in when it is complete. Saving and loading go by way of chat's JSON.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};

use super::files::read_text;
use super::toolbox::Toolbox;
use crate::chat::{
    Change, ChatRequest, ContentChunk, Message, ReasoningEffort, ResponseFormat, Version,
    normalise, read_request, request_to_json,
};
use crate::vision::Image;

/// Largest conversation that is loaded, in bytes; pictures are in it.
const MAX_FILE: u64 = 256 << 20;

/// Messages and settings between two turns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// System prompt, in front of all messages.
    pub system: Option<String>,
    /// Whether the model thinks first.
    pub effort: ReasoningEffort,
    /// Temperature that the user set in the conversation, over the command line's.
    pub temperature: Option<f32>,
    /// Tokens after which a thought is to end.
    pub reasoning_budget: Option<u32>,
    /// What the model may call.
    pub tools: Toolbox,
    /// What answers must look like.
    pub format: ResponseFormat,
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation with these settings.
    pub fn new(system: Option<String>, effort: ReasoningEffort) -> Self {
        Self { system, effort, ..Self::default() }
    }

    /// The request that asks for the next message of an exchange.
    pub fn request(&self, exchange: &[Message]) -> ChatRequest {
        let system = self.system.iter().map(Message::system);
        ChatRequest {
            messages: system.chain(self.messages.iter().chain(exchange).cloned()).collect(),
            tools: self.tools.tools().to_vec(),
            response_format: self.format.clone(),
            reasoning_effort: self.effort,
            ..ChatRequest::default()
        }
    }

    /// Keeps an exchange: a question, calls and their results, and the answer.
    pub fn keep(&mut self, exchange: Vec<Message>) {
        self.messages.extend(exchange);
    }

    /// Takes the last question and all that followed it out; gives the question.
    pub fn undo(&mut self) -> Option<Vec<ContentChunk>> {
        let last = self.messages.iter().rposition(|m| matches!(m, Message::User(_)))?;
        match self.messages.drain(last..).next()? {
            Message::User(question) => Some(question),
            _ => None,
        }
    }

    /// Drops the first question and all that followed it up to the second; gives the question.
    pub fn drop_oldest(&mut self) -> Option<Vec<ContentChunk>> {
        let is_question = |message: &Message| matches!(message, Message::User(_));
        let first = self.messages.iter().position(is_question)?;
        let rest = &self.messages[first + 1..];
        let n = rest.iter().position(is_question).unwrap_or(rest.len());
        match self.messages.drain(first..=first + n).next()? {
            Message::User(question) => Some(question),
            _ => None,
        }
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
        let mut json = request_to_json(&self.request(&[]));
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

    /// Reads a conversation that `save`, or any client, wrote, and mends what cannot be asked on from; gives
    /// what was mended. What the file does not say stays: temperature and budget, and without tools or a
    /// format in it, these too.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<Vec<Change>> {
        let json = read_text(path, MAX_FILE)?;
        let shown = || path.display().to_string();
        let reading = read_request(&json, &mut Image::from_url).with_context(shown)?;
        let (mut request, mut changes) = (reading.request, reading.changes);
        // It is valid if a question can follow.
        let question = Message::user("?");
        request.messages.push(question.clone());
        let (mut request, mended) = normalise(request, Version::V15);
        changes.extend(mended);
        if request.messages.pop() != Some(question) {
            bail!("{}: no question can follow this conversation", shown());
        }
        *self = self.with(request);
        Ok(changes)
    }

    /// The conversation that a request holds, with this one's settings where it has none.
    fn with(&self, request: ChatRequest) -> Self {
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
        Self {
            system,
            effort: request.reasoning_effort,
            temperature: self.temperature,
            reasoning_budget: self.reasoning_budget,
            tools: match request.tools.is_empty() {
                true => self.tools.clone(),
                false => Toolbox::new(request.tools),
            },
            format: match request.response_format {
                ResponseFormat::Text => self.format.clone(),
                format => format,
            },
            messages,
        }
    }
}

/// The text of a message's content, pictures and thoughts left out.
pub(super) fn plain_text(content: &[ContentChunk]) -> String {
    let texts = content.iter().filter_map(|chunk| match chunk {
        ContentChunk::Text(text) => Some(text.as_str()),
        ContentChunk::Thinking { .. } | ContentChunk::Image(_) => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::AssistantMessage;

    fn exchange(question: &str, answer: &str) -> Vec<Message> {
        let content = vec![ContentChunk::Text(answer.to_owned())];
        let answer = AssistantMessage { content, ..AssistantMessage::default() };
        vec![Message::user(question), Message::Assistant(answer)]
    }

    fn example() -> Conversation {
        let mut conversation = Conversation {
            system: Some("Be brief.".to_owned()),
            effort: ReasoningEffort::High,
            temperature: Some(0.3),
            ..Conversation::default()
        };
        conversation.keep(exchange("one", "1"));
        conversation.keep(exchange("two", "2"));
        conversation
    }

    #[test]
    fn undo_takes_back_one_exchange_at_a_time() {
        let mut conversation = example();
        for question in ["two", "one"] {
            assert_eq!(conversation.undo().map(|q| plain_text(&q)).as_deref(), Some(question));
        }
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
        check("cut.json", b"{\"messages\": [", "cut.json");
        check("binary.json", b"\xff\xfe", "not UTF-8");
        check("role.json", br#"{"messages": [{"role": "robot"}]}"#, "messages[0].role");
        assert!(conversation.load(folder.path()).is_err());
        assert!(conversation.load(&folder.path().join("none.json")).is_err());
        assert!(conversation.save(&folder.path().join("no/such/folder.json")).is_err());
    }

    #[test]
    fn a_foreign_history_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("order.json");
        let json = r#"{"messages": [{"role": "user", "content": "a"},
            {"role": "tool", "content": "b"}, {"role": "assistant", "content": "c"}]}"#;
        fs::write(&path, json).unwrap();
        let mut conversation = Conversation::default();
        assert!(!conversation.load(&path).unwrap().is_empty());
        assert!(conversation.undo().is_some());
    }
}
