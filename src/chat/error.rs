//! Why a conversation cannot be encoded.
//!
//! The rules are mistral-common's, so that whatever passes here means the same there. Messages are
//! counted from 0, as in the request's JSON.

use thiserror::Error;

/// A conversation that has no encoding.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// There is nothing to encode.
    #[error("the conversation is empty; it needs at least one message")]
    NoMessages,
    /// A single message must be something to answer.
    #[error(
        "messages[0]: a conversation cannot start with a lone {role} message; \
             expected user or system"
    )]
    BadFirst {
        /// Role found.
        role: &'static str,
    },
    /// Two roles that may not follow each other.
    #[error("messages[{index}]: a {role} message cannot follow a {previous} message")]
    BadOrder {
        /// The later message.
        index: usize,
        /// Its role.
        role: &'static str,
        /// The role before it.
        previous: &'static str,
    },
    /// The model would answer itself.
    #[error(
        "messages[{index}]: the last message is the assistant's; \
             expected user or tool, or an assistant message with \"prefix\": true"
    )]
    LastIsAssistant {
        /// The last message.
        index: usize,
    },
    /// `prefix` before the end.
    #[error("messages[{index}]: only the last message may have \"prefix\": true")]
    PrefixNotLast {
        /// The message.
        index: usize,
    },
    /// A chunk that the role cannot hold.
    #[error("messages[{index}]: a {role} message cannot hold {chunk} chunks")]
    BadChunk {
        /// The message.
        index: usize,
        /// Its role.
        role: &'static str,
        /// Kind of chunk.
        chunk: &'static str,
    },
    /// An assistant message that says and calls nothing.
    #[error("an assistant message has neither content nor tool calls")]
    EmptyAssistant,
    /// A call or result without an id.
    #[error("messages[{index}]: a tool call id must be a non-empty string other than \"null\"")]
    BadCallId {
        /// The message.
        index: usize,
    },
    /// A name the model was not trained to write.
    #[error("function name {name:?} is not 1 to 64 of a-z, A-Z, 0-9, underscore and dash")]
    BadFunctionName {
        /// The name.
        name: String,
    },
    /// Calls and results do not pair up.
    #[error("messages[{index}]: {problem}")]
    BadPairing {
        /// The message at which it shows.
        index: usize,
        /// What does not pair up.
        problem: String,
    },
    /// A tool's schema is not JSON.
    #[error("tool {name:?}: its parameters are not a JSON object")]
    BadParameters {
        /// The tool.
        name: String,
    },
    /// The vocabulary belongs to another model family or version.
    #[error(
        "the tokenizer has no control token {name}; \
             it is not a v15 tokenizer, so this chat format does not fit"
    )]
    MissingControlToken {
        /// The token's name.
        name: &'static str,
    },
}
