//! Why a conversation cannot be encoded.
//!
//! The rules are mistral-common's, so that whatever passes here means the same there. Messages are
//! counted from 0, as in the request's JSON.

use thiserror::Error;

use super::TemplateError;

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
    #[error("messages[{index}]: a {role} message of a {version} chat cannot hold {chunk} chunks")]
    BadChunk {
        /// The message.
        index: usize,
        /// Its role.
        role: &'static str,
        /// Kind of chunk.
        chunk: &'static str,
        /// The chat format's version.
        version: &'static str,
    },
    /// An assistant message that says and calls nothing.
    #[error("messages[{index}]: an assistant message has neither content nor tool calls")]
    EmptyAssistant {
        /// The message; the first of them if there are several in a row.
        index: usize,
    },
    /// A call or result without an id.
    #[error("messages[{index}]: tool call id {id:?}; expected {expected}")]
    BadCallId {
        /// The message.
        index: usize,
        /// The id.
        id: String,
        /// What ids look like.
        expected: &'static str,
    },
    /// A name the model was not trained to write.
    #[error("{place}: function name {name:?} is not 1 to 64 of a-z, A-Z, 0-9, underscore and dash")]
    BadFunctionName {
        /// The tool or call, as `tools[0]`.
        place: String,
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
    #[error("tools[{index}]: the parameters of {name:?} are not a JSON object")]
    BadParameters {
        /// The tool's place.
        index: usize,
        /// The tool.
        name: String,
    },
    /// A tool's schema is JSON, but no schema.
    #[error(
        "tools[{index}]: the parameters of {name:?} are no JSON schema: \"{pointer}\" is not {expected}"
    )]
    BadSchema {
        /// The tool's place.
        index: usize,
        /// The tool.
        name: String,
        /// JSON pointer into its parameters.
        pointer: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// An effort is asked for where the model cannot be told.
    #[error("reasoning_effort: a {version} model has no such setting; leave it out or say none")]
    NoEffort {
        /// The chat format's version.
        version: &'static str,
    },
    /// The vocabulary belongs to another model family or version.
    #[error(
        "the tokenizer has no control token {name}, \
             so this chat format does not fit it; choose another version"
    )]
    MissingControlToken {
        /// The token's name.
        name: &'static str,
    },
    /// A template does not give a prompt.
    #[error(transparent)]
    Template(#[from] TemplateError),
}
