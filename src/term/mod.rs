//! The terminal: everything that is shown to a person and everything a person types.
//!
//! `printer` owns the streams. `reply` turns reply events into text. `repl` is the chat loop over
//! a `conversation`, with `commands`, the line `editor` and its `history`, Ctrl-C (`interrupt`) and
//! the numbers after an answer (`meter`).

mod commands;
mod conversation;
mod editor;
mod escape;
mod history;
mod interrupt;
mod meter;
mod printer;
mod repl;
mod reply;
pub mod units;

pub use conversation::Conversation;
pub use editor::{Input, LineEditor};
pub use interrupt::Interrupt;
pub use printer::Printer;
pub use repl::{ModelInfo, Repl, Screen, Sink, Turn};
pub use reply::{Rendered, ReplyRenderer, StreamStyle};
