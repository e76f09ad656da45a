//! Responses, as OpenAI has them: stateless, with its events.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::SharedApp;
use super::http::ApiError;

/// `POST /v1/responses`.
pub(crate) async fn create(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}
