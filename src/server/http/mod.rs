//! Sockets, limits and bytes: everything about HTTP that is the same for all protocols.

mod error;

pub(crate) use error::{ApiError, ErrorKind};
