//! What one reply may consist of.

use super::Language;

/// The shape of a reply: `([THINK]…[/THINK])? text? calls* </s>`; how calls are written says [`CallStyle`].
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ReplyRules {
    /// Whether reasoning may be opened.
    pub may_reason: bool,
    /// Tokens of reasoning after which it is closed.
    pub reasoning_budget: Option<u32>,
    /// The text.
    pub text: TextRules,
    /// The calls; `None` where none are allowed.
    pub calls: Option<CallRules>,
    /// What the prompt has of the reply already.
    pub begun: Begun,
    /// What the caller should know of that is no error.
    pub notes: Vec<String>,
}

/// What the text must be like.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum TextRules {
    /// Anything, before calls too.
    Free,
    /// There is none.
    Forbidden,
    /// A text of this language, and then no calls; with the field that asks for it, for errors.
    Held(Language, String),
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum CallStyle {
    /// `[TOOL_CALLS]name[ARGS]{…}`
    Plain,
    /// `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`, where the id is nine letters and digits and may be left out.
    WithId,
    /// `[TOOL_CALLS]` and what the model makes of it: nothing is held to anything.
    Free,
}

/// Which functions may be called.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CallRules {
    /// How calls are written.
    pub style: CallStyle,
    /// The functions, each under a name of its own.
    pub tools: Vec<ToolRules>,
    /// Whether there must be a call.
    pub is_required: bool,
    /// Whether there may be only one.
    pub is_single: bool,
}

/// A function.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ToolRules {
    /// Its name.
    pub name: String,
    /// Its arguments. They are compiled when it is called, or at once where nothing else will do.
    pub arguments: Language,
    /// Whether any JSON object will do where these arguments cannot be compiled.
    pub falls_back: bool,
    /// The field that describes the arguments, for errors.
    pub field: String,
}

/// A reply's beginning that is part of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Begun {
    /// Nothing.
    Nothing,
    /// Reasoning that is still open.
    Reasoning,
    /// Reasoning that is closed.
    Reasoned,
    /// Text, with or without reasoning before it.
    Text(String),
    /// Calls.
    Calls,
}
