//! Messages, as Anthropic has them.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::SharedApp;
use super::http::ApiError;

/// `POST /v1/messages`.
pub(crate) async fn messages(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}
