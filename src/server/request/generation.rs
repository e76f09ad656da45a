//! A running generation: from a conversation and wishes to pieces of replies.

use tokio::sync::mpsc;

use super::{Asked, Origin, ReplyItem, Source};
use crate::server::SharedApp;
use crate::server::http::{ApiError, ErrorKind};

/// Replies that are being written. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Tokens of the prompt.
    pub(crate) n_prompt: usize,
    /// What was altered in the conversation, and which wishes can be met in part only.
    pub(crate) notes: Vec<String>,
    items: mpsc::Receiver<ReplyItem>,
}

impl Generation {
    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<ReplyItem> {
        self.items.recv().await
    }

    /// One that says what is given.
    #[cfg(test)]
    pub(crate) fn of_items(n_prompt: usize, items: Vec<ReplyItem>) -> Self {
        let (sender, receiver) = mpsc::channel(items.len().max(1));
        for item in items {
            sender.try_send(item).expect("there is room for all");
        }
        Generation { created: 1_700_000_000, n_prompt, notes: Vec::new(), items: receiver }
    }
}

/// Starts the replies. What is at fault with the request is told here; what happens later is an item.
pub(crate) async fn start(
    _app: &SharedApp,
    _origin: &Origin,
    _source: Source,
    _asked: &Asked,
) -> Result<Generation, ApiError> {
    Err(ApiError::new(ErrorKind::Unavailable { retry_after_s: 5 }, "the model is being loaded"))
}

/// Tokens of the prompt that `source` becomes.
pub(crate) async fn count(_app: &SharedApp, _source: Source) -> Result<usize, ApiError> {
    Err(ApiError::new(ErrorKind::Unavailable { retry_after_s: 5 }, "the model is being loaded"))
}
