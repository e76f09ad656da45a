//! One error for all protocols, nested and flat at once, so that every client finds its fields.
//!
//! OpenAI's clients read `error.message` and `error.code`, Mistral's the same fields beside each other, and
//! several search the text for fixed phrases; the wording of an overflow is therefore part of the protocol.
//! `code` is a string or null, because some clients refuse a number there.

use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What went wrong, as far as clients tell errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// 400: a field has no meaning here.
    InvalidRequest,
    /// 400: a picture that cannot be used.
    InvalidImage,
    /// 422: the same as `InvalidRequest`, for Mistral's own client.
    Unprocessable,
    /// 400: a field that is known, and that this server cannot do.
    Unsupported,
    /// 400: the prompt does not fit; `n_prompt` of `n_ctx` tokens.
    ContextLength { n_prompt: usize, n_ctx: usize },
    /// 400: no such model.
    ModelNotFound,
    /// 401.
    Unauthorized,
    /// 403: host, origin.
    Forbidden,
    /// 404.
    NotFound,
    /// 405; what is allowed.
    MethodNotAllowed(&'static str),
    /// 408.
    Timeout,
    /// 413.
    TooLarge,
    /// 414: the address.
    UriTooLong,
    /// 415.
    UnsupportedMediaType,
    /// 431: the head.
    HeadTooLarge,
    /// 429: the queue is full; seconds after which to try again.
    Overloaded { retry_after_s: u32 },
    /// 500: the engine failed at this request.
    Engine,
    /// 503: the model is being opened for the first time.
    Loading { retry_after_s: u32 },
    /// 503: restarting or draining.
    Unavailable { retry_after_s: u32 },
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    /// What kind.
    pub(crate) kind: ErrorKind,
    /// For people: lower-case, names the field, what was expected and found.
    pub(crate) message: String,
    /// The field at fault, as `messages[2].content`.
    pub(crate) param: Option<String>,
    /// Whether the log has a line about it.
    pub(crate) is_logged: bool,
}

impl ApiError {
    /// An error that is about no field.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, is_logged: false }
    }

    /// The same, about a field if there is one.
    pub(crate) fn about(mut self, param: Option<String>) -> Self {
        self.param = param;
        self
    }

    /// The same, of which the log has a line now.
    pub(crate) fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// A field that has no meaning here.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message).about(Some(param.into()))
    }

    /// A prompt of `n_prompt` tokens where there is room for `n_ctx`. Every client knows one of the phrases.
    pub(crate) fn context_length(n_prompt: usize, n_ctx: usize, param: &str) -> Self {
        let message = format!(
            "This model's maximum context length is {n_ctx} tokens, but the request has {n_prompt}: prompt \
             is too long and exceeds the available context size"
        );
        let kind = ErrorKind::ContextLength { n_prompt, n_ctx };
        Self::new(kind, message).about(Some(param.to_owned()))
    }

    /// Nothing is served under `path`.
    pub(crate) fn not_found(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(ErrorKind::NotFound, format!("there is nothing at {path:?}; see GET /v1/models"))
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::InvalidRequest
            | ErrorKind::InvalidImage
            | ErrorKind::Unsupported
            | ErrorKind::ContextLength { .. }
            | ErrorKind::ModelNotFound => StatusCode::BAD_REQUEST,
            ErrorKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::UriTooLong => StatusCode::URI_TOO_LONG,
            ErrorKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorKind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ErrorKind::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Engine => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Loading { .. } | ErrorKind::Unavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The word that programs look for.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self.kind {
            ErrorKind::ContextLength { .. } => Some("context_length_exceeded"),
            ErrorKind::ModelNotFound => Some("model_not_found"),
            ErrorKind::InvalidImage => Some("invalid_image"),
            ErrorKind::Unsupported => Some("unsupported_parameter"),
            ErrorKind::Unauthorized => Some("invalid_api_key"),
            ErrorKind::Overloaded { .. } => Some("rate_limit_exceeded"),
            ErrorKind::Loading { .. } => Some("model_loading"),
            ErrorKind::Unavailable { .. } => Some("service_unavailable"),
            _ => None,
        }
    }

    /// OpenAI's and Mistral's name of the class of errors.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Seconds after which the same request may succeed.
    pub(crate) fn retry_after_s(&self) -> Option<u32> {
        match self.kind {
            ErrorKind::Overloaded { retry_after_s }
            | ErrorKind::Loading { retry_after_s }
            | ErrorKind::Unavailable { retry_after_s } => Some(retry_after_s),
            _ => None,
        }
    }

    /// The body of the answer, which is also the data of a terminal event.
    pub(crate) fn body(&self) -> Map<String, Value> {
        let (kind, code) = (self.type_name(), self.code());
        let error = json!({
            "message": self.message, "type": kind, "param": self.param, "code": code,
        });
        let mut body = Map::new();
        body.insert("object".to_owned(), "error".into());
        if let Value::Object(flat) = &error {
            body.extend(flat.clone());
        }
        body.insert("error".to_owned(), error);
        body.insert("raw_status_code".to_owned(), self.status().as_u16().into());
        if let ErrorKind::ContextLength { n_prompt, n_ctx } = self.kind {
            body.insert("n_prompt_tokens".to_owned(), n_prompt.into());
            body.insert("n_ctx".to_owned(), n_ctx.into());
        }
        if self.kind == ErrorKind::Unprocessable {
            let place = self.param.as_deref().unwrap_or_default();
            let detail =
                json!([{ "loc": location(place), "msg": self.message, "type": "value_error" }]);
            body.insert("detail".to_owned(), detail);
        }
        body
    }

    /// The error as Mistral's own client has a type for it: with status 422, and the field as a path.
    pub(crate) fn for_mistral(self) -> Self {
        match self.kind {
            ErrorKind::InvalidRequest if self.param.is_some() => {
                Self { kind: ErrorKind::Unprocessable, ..self }
            }
            _ => self,
        }
    }
}

/// `messages[2].content` as a path of names and numbers, from the body on.
fn location(place: &str) -> Vec<Value> {
    let steps = place.split(['.', '[']).filter(|step| !step.is_empty());
    let step = |step: &str| match step.strip_suffix(']').and_then(|index| index.parse::<u64>().ok())
    {
        Some(index) => Value::from(index),
        None => Value::from(step),
    };
    std::iter::once("body".into()).chain(steps.map(step)).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = super::json(&Value::Object(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match self.kind {
            ErrorKind::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            ErrorKind::MethodNotAllowed(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        // Whoever answers in another protocol's shape finds it there.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_has_the_words_that_clients_look_for() {
        let error = ApiError::context_length(9000, 4096, "messages");
        let body = Value::Object(error.body());
        let message = "This model's maximum context length is 4096 tokens, but the request has 9000: prompt \
                       is too long and exceeds the available context size";
        let nested = json!({
            "message": message, "type": "invalid_request_error", "param": "messages",
            "code": "context_length_exceeded",
        });
        assert_eq!(body["error"], nested);
        for (key, value) in nested.as_object().unwrap() {
            assert_eq!(&body[key], value);
        }
        assert_eq!(body["object"], "error");
        assert_eq!(body["n_prompt_tokens"], 9000);
        assert_eq!(body["n_ctx"], 4096);
        assert_eq!(body["raw_status_code"], 400);
    }

    #[test]
    fn each_kind_has_its_status_code_and_headers() {
        let retry = ErrorKind::Overloaded { retry_after_s: 3 };
        for (kind, status, code, header) in [
            (ErrorKind::InvalidRequest, 400, None, None),
            (ErrorKind::InvalidImage, 400, Some("invalid_image"), None),
            (ErrorKind::Unprocessable, 422, None, None),
            (ErrorKind::ModelNotFound, 400, Some("model_not_found"), None),
            (ErrorKind::Unsupported, 400, Some("unsupported_parameter"), None),
            (
                ErrorKind::Unauthorized,
                401,
                Some("invalid_api_key"),
                Some(("www-authenticate", "Bearer")),
            ),
            (ErrorKind::MethodNotAllowed("GET, HEAD"), 405, None, Some(("allow", "GET, HEAD"))),
            (ErrorKind::TooLarge, 413, None, None),
            (retry, 429, Some("rate_limit_exceeded"), Some(("retry-after", "3"))),
            (ErrorKind::Engine, 500, None, None),
            (
                ErrorKind::Loading { retry_after_s: 2 },
                503,
                Some("model_loading"),
                Some(("retry-after", "2")),
            ),
        ] {
            let error = ApiError::new(kind, "no");
            assert_eq!(error.code(), code);
            assert_eq!(error.body().contains_key("detail"), status == 422);
            let response = error.into_response();
            assert_eq!(response.status().as_u16(), status);
            if let Some((name, value)) = header {
                assert_eq!(response.headers()[name], value);
            }
        }
    }

    #[test]
    fn mistral_s_client_has_a_path_to_the_field() {
        let error = ApiError::invalid("messages[2].content[0].text", "no").for_mistral();
        let detail = json!([{
            "loc": ["body", "messages", 2, "content", 0, "text"], "msg": "no", "type": "value_error",
        }]);
        assert_eq!(error.body()["detail"], detail);
        assert_eq!(error.body()["message"], "no");
        for error in [
            ApiError::new(ErrorKind::InvalidRequest, "no JSON"),
            ApiError::context_length(2, 1, "messages"),
            ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(ErrorKind::ModelNotFound, "no")
            },
        ] {
            assert_eq!(error.clone().for_mistral(), error);
        }
    }
}
