//! The terminal: everything that is shown to a person and everything a person types.
//!
//! `printer` owns the streams. `reply` turns reply events into text, tool calls by way of `calls`. `repl`
//! is the chat loop over a `conversation`, with `commands`, the line `editor` and its `history`, files that
//! a question names (`mentions`, `files`), tools (`toolbox`, `tool_command`), Ctrl-C (`interrupt`) and the
//! numbers after an answer (`meter`).

mod calls;
mod commands;
mod conversation;
mod editor;
mod escape;
pub mod files;
mod history;
mod interrupt;
mod mentions;
mod meter;
mod printer;
mod repl;
mod reply;
mod tool_command;
mod toolbox;
pub mod units;

pub use conversation::Conversation;
pub use editor::{Input, LineEditor};
pub use interrupt::Interrupt;
pub use printer::Printer;
pub use repl::{ModelInfo, Repl, Screen, Sink, Turn};
pub use reply::{CallStyle, Rendered, ReplyRenderer, StreamStyle};
pub use toolbox::Toolbox;
