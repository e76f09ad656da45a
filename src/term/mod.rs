//! The terminal: everything that is shown to a person and everything a person types.

mod printer;
pub mod units;

pub use printer::Printer;
