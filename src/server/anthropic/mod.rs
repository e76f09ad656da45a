//! Messages, as Anthropic has them.

mod asked;
mod body;
mod error;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use error::dressed;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::json;

use self::asked::{asked, refuse_provided};
use self::body::MessageBody;
use self::stream::MessageStream;
use self::wire::Head;
use super::SharedApp;
use super::http::{self, ApiError, ErrorKind};
use super::request::{self, Document, Generation, Source, random_id};

/// `POST /v1/messages`.
pub(crate) async fn messages(State(app): State<SharedApp>, request: Request) -> Response {
    answer(&app, request).await.unwrap_or_else(ApiError::into_response)
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(State(app): State<SharedApp>, request: Request) -> Response {
    count(&app, request).await.unwrap_or_else(ApiError::into_response)
}

async fn answer(app: &SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::read(app, request).await?;
    let mut asked = asked(&document.fields()?, app)?;
    let (_, reading) = request::read_chat(app, document, &origin).await?;
    asked.reasoning_budget = reading.options.reasoning_budget;
    let head = Head {
        id: random_id("msg_"),
        request_id: origin.request_id.clone(),
        model: asked.model.clone(),
        hides_thinking: reading.options.hide_reasoning,
    };
    let source = Source::Chat(Box::new(reading.request));
    let mut generation = request::start(app, &origin, source, &asked).await?;
    if asked.stream {
        return Ok(stream(generation, MessageStream::new(head)));
    }
    let mut body = MessageBody::new(head);
    while let Some(item) = generation.next().await {
        if let Some(message) = body.push(item)? {
            return Ok(http::json(&message));
        }
    }
    Err(ApiError::new(ErrorKind::Engine, "the reply ended without an end"))
}

fn stream(generation: Generation, events: MessageStream) -> Response {
    http::sse(unfold((generation, events), |(mut generation, mut events)| async {
        loop {
            let event = events.push(generation.next().await?);
            if !event.is_empty() {
                return Some((event, (generation, events)));
            }
        }
    }))
}

async fn count(app: &SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::read(app, request).await?;
    {
        let fields = document.fields()?;
        request::model(&fields, app)?;
        refuse_provided(&fields)?;
    }
    let (_, reading) = request::read_chat(app, document, &origin).await?;
    let source = Source::Chat(Box::new(reading.request));
    let n = request::count(app, source).await?;
    Ok(http::json(&json!({ "input_tokens": n })))
}
