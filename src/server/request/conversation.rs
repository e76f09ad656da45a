//! From a body to a conversation, away from the threads that serve sockets.

use super::{Document, Origin};
use crate::chat::{self, Reading, ResponsesReading};
use crate::server::SharedApp;
use crate::server::http::ApiError;
use crate::vision::Image;

/// Reads the conversation of a body: messages, tools, form, effort. Pictures are decoded, and fetched where
/// that is allowed.
pub(crate) async fn read_chat(
    _app: &SharedApp,
    document: Document,
    _origin: &Origin,
) -> Result<(Document, Reading), ApiError> {
    let reading = chat::read_request(document.text(), &mut Image::from_url)?;
    Ok((document, reading))
}

/// The same for a request of OpenAI's Responses.
pub(crate) async fn read_responses(
    _app: &SharedApp,
    document: Document,
    _origin: &Origin,
) -> Result<(Document, ResponsesReading), ApiError> {
    let reading = chat::responses_from_json(document.text(), &mut Image::from_url)?;
    Ok((document, reading))
}
