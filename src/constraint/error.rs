//! Why a grammar, a schema or a tool cannot hold an answer to its shape.
//!
//! Whoever asks for an answer of a certain shape either gets it or is told the place that is at fault:
//! the field of the request, and within a schema the keyword, as a JSON pointer. Nothing is dropped
//! silently.

use thiserror::Error;

/// A constraint that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConstraintError {
    /// Something in a JSON schema.
    #[error("{}{pointer}: {problem}", prefix(.place))]
    Schema {
        /// Field of the request that holds the schema; empty until [`at`](Self::at) names it.
        place: String,
        /// Where in the schema, such as `#/properties/a/not`.
        pointer: String,
        /// What is found there and what was expected.
        problem: String,
    },
    /// Something else in a request.
    #[error("{}{problem}", prefix(.place))]
    Field {
        /// Field of the request; empty until [`at`](Self::at) names it.
        place: String,
        /// What is found there and what was expected.
        problem: String,
    },
    /// The vocabulary cannot be searched.
    #[error("the vocabulary allows no constraints: {problem}")]
    Vocabulary {
        /// What is wrong with it.
        problem: String,
    },
    /// The model has no word for something.
    #[error("this model has no control token {name}, which {purpose} needs")]
    ControlToken {
        /// The token's name.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The grammar became too much while it was followed.
    #[error("the grammar could not be followed any further: {problem}")]
    Run {
        /// What the grammar engine says.
        problem: String,
    },
}

impl ConstraintError {
    pub(super) fn schema(pointer: impl Into<String>, problem: impl Into<String>) -> Self {
        ConstraintError::Schema {
            place: String::new(),
            pointer: pointer.into(),
            problem: problem.into(),
        }
    }

    /// A fault of the field `place`.
    pub fn field(place: impl Into<String>, problem: impl Into<String>) -> Self {
        ConstraintError::Field { place: place.into(), problem: problem.into() }
    }

    /// Says what was being followed when the grammar became too much.
    pub(super) fn of(self, what: &str) -> Self {
        match self {
            ConstraintError::Run { problem } => {
                ConstraintError::Run { problem: format!("{what}: {problem}") }
            }
            other => other,
        }
    }

    /// Names the field that the fault is in.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        if let ConstraintError::Schema { place, .. } | ConstraintError::Field { place, .. } =
            &mut self
        {
            *place = field.into();
        }
        self
    }
}

fn prefix(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}
