//! One error for all protocols, nested and flat at once, so that every client finds its fields.

/// What went wrong, as far as clients tell errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// 400: a field has no meaning here.
    InvalidRequest,
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
    /// 415.
    UnsupportedMediaType,
    /// 422: JSON of the right shape that cannot be processed.
    Unprocessable,
    /// 429: the queue is full; seconds after which to try again.
    Overloaded { retry_after_s: u32 },
    /// 500: the engine failed at this request.
    Engine,
    /// 503: loading, restarting or draining.
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
}

impl ApiError {
    /// An error of this kind about no field.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into(), param: None }
    }

    /// A field whose value has no meaning here. The message names the field itself.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError {
            kind: ErrorKind::InvalidRequest,
            message: message.into(),
            param: Some(param.into()),
        }
    }
}
