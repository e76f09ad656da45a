//! Errors in Anthropic's shape.
//!
//! Whatever fails under its addresses, in a handler or before one is reached, is answered in this shape, so
//! the outermost layer dresses answers once more. Only a head that cannot be read has no address.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json};

use crate::server::http::{self, ApiError, ErrorKind};

/// Where clients of this protocol look for a request's name.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The body of an answer, and the data of the event that ends a stream.
pub(super) fn body(error: &ApiError, request_id: &str) -> Value {
    json!({
        "type": "error",
        "error": { "type": type_name(error), "message": message(error) },
        "request_id": request_id,
    })
}

/// An answer under one of this protocol's addresses: the request's name where clients look for it, and
/// errors in the protocol's shape.
pub(crate) fn dressed(mut response: Response, request_id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let (mut parts, _) = response.into_parts();
        let (dressed, body) = http::json(&body(&error, request_id)).into_parts();
        for name in dressed.headers.keys() {
            parts.headers.remove(name);
        }
        parts.headers.extend(dressed.headers);
        response = Response::from_parts(parts, body);
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn type_name(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::Timeout => "timeout_error",
        _ => match error.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        },
    }
}

/// Clients know an overflow by the first words and read the numbers from it.
fn message(error: &ApiError) -> String {
    match error.kind {
        ErrorKind::ContextLength { n_prompt, n_ctx } => {
            let message = &error.message;
            format!("prompt is too long: {n_prompt} tokens > {n_ctx} maximum. {message}")
        }
        _ => error.message.clone(),
    }
}
