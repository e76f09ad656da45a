//! Which type each tensor of a quantized file gets, and importance matrices; from a GGUF to a plan.
//!
//! A recipe is a named mix (`model::Mix`) with what the user changes about it. `convert` asks the same
//! recipe for the tensors of a checkpoint.

mod imatrix;
mod legacy;
mod plan;
mod recipe;
mod statistics;

pub use imatrix::{Imatrix, ImatrixError};
pub use plan::{Plan, QuantizeError, about_imatrix, facts, fallbacks, plan, unweighted};
pub use recipe::{
    Candidate, Choice, Importances, Recipe, RecipeError, by_layer, is_float, name_pattern,
};
pub use statistics::{Statistics, StatisticsError, Sums};
