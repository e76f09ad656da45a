//! Speed measurements, the substance of `gust bench`.
//!
//! `measure` times prefill and decode on an opened engine, `bandwidth` times the machine's memory,
//! `synth` makes a model of a true shape out of random weights where no file is at hand, and `report`
//! turns seconds into rows. Nothing here prints: the command does, row by row.

mod bandwidth;
mod filler;
mod measure;
mod report;
mod synth;

pub use bandwidth::ReadBuffer;
pub use measure::{Bench, Case, Plan, Seconds};
pub use report::{Format, Report, Row, Setup};
pub use synth::{Projection, Shape, Synth, SynthError};
