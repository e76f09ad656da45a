//! What was altered on the way from a client's request to one that the model's format can hold.
//!
//! Reading (`json`) and normalising both list their changes, so that a caller can show what the model
//! was told instead of what was sent. A request that mistral-common accepts has none.

use std::fmt;

/// One alteration of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was altered, as `messages[2].content[0]`; messages are counted as they were sent.
    pub place: String,
    /// What was done to it.
    pub what: String,
}

impl Change {
    /// A change of a place.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Change { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}
