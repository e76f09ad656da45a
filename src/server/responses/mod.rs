//! Responses, as OpenAI has them: stateless, with its events.
//!
//! Nothing is kept between requests: each brings its whole input, and what refers to an earlier answer is
//! refused with a text that says so.

mod answer;
mod asked;
mod items;
#[cfg(test)]
mod tests;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;

use self::answer::{Answer, Head};
use super::SharedApp;
use super::http::{self, ApiError, RequestId};
use super::request::{self, Asked, Document, Generation, Source};
use crate::chat::Reading;

/// `POST /v1/responses`.
pub(crate) async fn create(State(app): State<SharedApp>, request: Request) -> Response {
    answer(app, request).await.unwrap_or_else(|error| of_input(error).into_response())
}

/// `POST /v1/responses/input_tokens`.
pub(crate) async fn input_tokens(State(app): State<SharedApp>, request: Request) -> Response {
    count(app, request).await.unwrap_or_else(|error| of_input(error).into_response())
}

async fn answer(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::queued(&app, request).await?;
    let asked = asked::asked(&document.fields()?, &app)?;
    let (document, reading) = request::read_responses(&app, document, &origin).await?;
    let Reading { request, options, changes } = reading;
    let asked = Asked { reasoning_budget: options.reasoning_budget, ..asked };
    let fields = document.fields()?;
    let mut head = Head {
        digits: RequestId::new().as_str().to_owned(),
        created: 0,
        model: asked.model.clone(),
        echo: asked::echo(&fields),
        tools: options.tools,
        hides_reasoning: options.hide_reasoning,
        encrypts_reasoning: asked::includes(&fields, "reasoning.encrypted_content")?,
    };
    drop(document);
    let source = Source::Chat(Box::new(request));
    let mut generation = request::start(&app, &origin, source, &asked).await?;
    head.created = generation.created;
    let mut altered: Vec<String> = changes.iter().map(ToString::to_string).collect();
    altered.append(&mut generation.notes);
    let answer = Answer::new(head);
    let mut response = match asked.stream {
        true => http::sse(events(app, generation, answer)),
        false => whole(&app, generation, answer).await?,
    };
    http::tell_changes(&mut response, &altered);
    Ok(response)
}

/// The reply's events, as they come.
fn events(
    app: SharedApp,
    generation: Generation,
    mut answer: Answer,
) -> impl futures_util::Stream<Item = String> + Send + 'static {
    let begin = answer.begin();
    stream::unfold((Some(begin), generation, answer), move |(begin, mut generation, mut answer)| {
        let app = app.clone();
        async move {
            if let Some(begin) = begin {
                return Some((begin, (None, generation, answer)));
            }
            while !answer.is_over() {
                let item = generation.expect_next().await;
                let events = answer.take(item, &app.tokenizer);
                if !events.is_empty() {
                    return Some((events, (None, generation, answer)));
                }
            }
            None
        }
    })
}

async fn whole(
    app: &SharedApp,
    mut generation: Generation,
    mut answer: Answer,
) -> Result<Response, ApiError> {
    while !answer.is_over() {
        let item = generation.expect_next().await;
        answer.take(item, &app.tokenizer);
    }
    match answer.error() {
        Some(error) => Err(error.clone()),
        None => Ok(http::json(&answer.object())),
    }
}

/// What only shows when the prompt is written is told of messages, which this protocol has not.
fn of_input(mut error: ApiError) -> ApiError {
    if error.param.as_ref().is_some_and(|param| param.starts_with("messages")) {
        error.param = Some("input".to_owned());
    }
    error
}

async fn count(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::read(&app, request).await?;
    asked::asked(&document.fields()?, &app)?;
    let (_, reading) = request::read_responses(&app, document, &origin).await?;
    let n = request::count(&app, Source::Chat(Box::new(reading.request))).await?;
    Ok(http::json(&json!({"object": "response.input_tokens", "input_tokens": n})))
}
