//! Chat completions, completions and fill-in-the-middle, as OpenAI and Mistral have them.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::SharedApp;
use super::http::ApiError;

/// `POST /v1/chat/completions`.
pub(crate) async fn chat_completions(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}

/// `POST /v1/completions`.
pub(crate) async fn completions(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}

/// `POST /v1/fim/completions`.
pub(crate) async fn fim_completions(State(_app): State<SharedApp>, request: Request) -> Response {
    ApiError::not_found(request.uri().path()).into_response()
}
