//! Which address has which handler.
//!
//! A table instead of a router: the gate has to know the route's methods before anything is read, metrics
//! count by it, and addresses are compared byte for byte, so that nothing like `//v1` or `%2e` is another
//! spelling of a guarded one.

use axum::extract::{Request, State};
use axum::response::Response;

use super::{models, status, tokens};
use crate::server::{SharedApp, anthropic, openai, responses};

/// What is asked for, by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Metrics,
    Props,
    Models,
    Model,
    ChatCompletions,
    Completions,
    FimCompletions,
    Messages,
    CountTokens,
    Responses,
    InputTokens,
    Tokenize,
    Detokenize,
    ApplyTemplate,
}

impl Route {
    /// All routes.
    #[cfg(test)]
    pub(super) const ALL: [Route; 15] = [
        Route::Health,
        Route::Metrics,
        Route::Props,
        Route::Models,
        Route::Model,
        Route::ChatCompletions,
        Route::Completions,
        Route::FimCompletions,
        Route::Messages,
        Route::CountTokens,
        Route::Responses,
        Route::InputTokens,
        Route::Tokenize,
        Route::Detokenize,
        Route::ApplyTemplate,
    ];

    /// The route of an address, its query left out.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/health" | "/v1/health" => Route::Health,
            "/metrics" => Route::Metrics,
            "/props" => Route::Props,
            "/v1/models" | "/models" => Route::Models,
            "/v1/chat/completions" | "/chat/completions" => Route::ChatCompletions,
            "/v1/completions" | "/completions" => Route::Completions,
            "/v1/fim/completions" | "/fim/completions" => Route::FimCompletions,
            // Anthropic's clients append `/v1` to the server's address, which people give with it.
            "/v1/messages" | "/messages" | "/v1/v1/messages" => Route::Messages,
            "/v1/messages/count_tokens"
            | "/messages/count_tokens"
            | "/v1/v1/messages/count_tokens" => Route::CountTokens,
            "/v1/responses" | "/responses" => Route::Responses,
            "/v1/responses/input_tokens" | "/responses/input_tokens" => Route::InputTokens,
            "/tokenize" => Route::Tokenize,
            "/detokenize" => Route::Detokenize,
            "/apply-template" => Route::ApplyTemplate,
            _ if Self::model_id(path).is_some() => Route::Model,
            _ => return None,
        })
    }

    /// The model's name in such an address, still percent-encoded. A name may contain slashes.
    pub(super) fn model_id(path: &str) -> Option<&str> {
        let id = path.strip_prefix("/v1/models/").or_else(|| path.strip_prefix("/models/"))?;
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        id.split('/').all(is_plain).then_some(id)
    }

    /// How metrics call it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Route::Health => "/health",
            Route::Metrics => "/metrics",
            Route::Props => "/props",
            Route::Models => "/v1/models",
            Route::Model => "/v1/models/{id}",
            Route::ChatCompletions => "/v1/chat/completions",
            Route::Completions => "/v1/completions",
            Route::FimCompletions => "/v1/fim/completions",
            Route::Messages => "/v1/messages",
            Route::CountTokens => "/v1/messages/count_tokens",
            Route::Responses => "/v1/responses",
            Route::InputTokens => "/v1/responses/input_tokens",
            Route::Tokenize => "/tokenize",
            Route::Detokenize => "/detokenize",
            Route::ApplyTemplate => "/apply-template",
        }
    }

    /// Whether it takes a body, and so POST; the others take GET and HEAD.
    pub(super) fn takes_body(self) -> bool {
        !matches!(
            self,
            Route::Health | Route::Metrics | Route::Props | Route::Models | Route::Model
        )
    }

    /// Whether nothing can be answered before the model is open.
    pub(super) fn needs_engine(self) -> bool {
        matches!(
            self,
            Route::ChatCompletions
                | Route::Completions
                | Route::FimCompletions
                | Route::Messages
                | Route::CountTokens
                | Route::Responses
                | Route::InputTokens
                | Route::ApplyTemplate
        )
    }

    /// The methods it answers, for people and for `Allow`.
    pub(super) fn methods(self) -> &'static str {
        match self.takes_body() {
            true => "POST, OPTIONS",
            false => "GET, HEAD, OPTIONS",
        }
    }
}

/// Whether an address is below Anthropic's, where their clients ask for more than there is.
pub(super) fn is_anthropic(path: &str) -> bool {
    let below = ["/v1/messages", "/messages", "/v1/v1/messages"]
        .into_iter()
        .find_map(|messages| path.strip_prefix(messages));
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request that the gate has let through.
pub(super) async fn answer(route: Route, app: SharedApp, request: Request) -> Response {
    let app = State(app);
    match route {
        Route::ChatCompletions => openai::chat_completions(app, request).await,
        Route::Completions => openai::completions(app, request).await,
        Route::FimCompletions => openai::fim_completions(app, request).await,
        Route::Messages => anthropic::messages(app, request).await,
        Route::CountTokens => anthropic::count_tokens(app, request).await,
        Route::Responses => responses::create(app, request).await,
        Route::InputTokens => responses::input_tokens(app, request).await,
        Route::Tokenize => tokens::tokenize(app.0, request).await,
        Route::Detokenize => tokens::detokenize(app.0, request).await,
        Route::ApplyTemplate => tokens::apply_template(app.0, request).await,
        Route::Health => status::health(&app),
        Route::Metrics => status::metrics(&app),
        Route::Props => status::props(&app),
        Route::Models => models::list(&app, models::kind(request.headers())),
        Route::Model => {
            let id = Route::model_id(request.uri().path()).unwrap_or_default();
            models::one(&app, id, models::kind(request.headers()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_byte_for_byte() {
        for (path, route) in [
            ("/v1/chat/completions", Some(Route::ChatCompletions)),
            ("/v1/models", Some(Route::Models)),
            ("/models/mistral-medium-3.5", Some(Route::Model)),
            ("/v1/models/mistralai/mistral-medium-3.5", Some(Route::Model)),
            ("/v1/models/", None),
            ("/v1/models/..", None),
            ("/v1/models/a//b", None),
            ("/v1/chat/completions/", None),
            ("//v1/chat/completions", None),
            ("/v1//chat/completions", None),
            ("/V1/models", None),
            ("/v1/%6dodels", None),
            ("/v1/x/%2e%2e/models", None),
            ("/health/../v1/models", None),
            ("/", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        for (path, expected) in [
            ("/v1/messages", true),
            ("/v1/v1/messages/count_tokens", true),
            ("/v1/messages/batches/x/results", true),
            ("/messages/", true),
            ("/v1/messages-x", false),
            ("/v1/chat/completions", false),
        ] {
            assert_eq!(is_anthropic(path), expected, "{path}");
        }
        for (k, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, k);
        }
    }
}
