//! The terminal: everything that is shown to a person and everything a person types.

mod printer;

pub use printer::Printer;
