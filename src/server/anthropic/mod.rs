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
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::json;
use serde_json::value::RawValue;

use self::asked::{asked, refuse_provided};
use self::body::MessageBody;
use self::stream::MessageStream;
use self::wire::Head;
use super::SharedApp;
use super::http::{self, ApiError, RequestId};
use super::request::{self, Document, Generation, Source};

/// `POST /v1/messages`.
pub(crate) async fn messages(State(app): State<SharedApp>, request: Request) -> Response {
    answer(&app, request).await.unwrap_or_else(ApiError::into_response)
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(State(app): State<SharedApp>, request: Request) -> Response {
    count(&app, request).await.unwrap_or_else(ApiError::into_response)
}

async fn answer(app: &SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::queued(app, request).await?;
    let mut asked = asked(&document.fields()?, app)?;
    let (_, reading) = request::read_chat(app, document, &origin).await?;
    asked.reasoning_budget = reading.options.reasoning_budget;
    let head = Head {
        id: format!("msg_{}", RequestId::new().as_str()),
        request_id: origin.request_id.clone(),
        model: asked.model.clone(),
        hides_thinking: reading.options.hide_reasoning,
    };
    let source = Source::Chat(Box::new(reading.request));
    let generation = request::start(app, &origin, source, &asked).await?;
    let mut changes: Vec<String> = reading.changes.iter().map(ToString::to_string).collect();
    changes.extend(generation.notes.iter().cloned());
    let mut response = match asked.stream {
        true => http::sse(events(generation, MessageStream::new(head))),
        false => http::json(&whole(generation, MessageBody::new(head)).await?),
    };
    http::tell_changes(&mut response, &changes);
    Ok(response)
}

fn events(generation: Generation, events: MessageStream) -> impl Stream<Item = String> + Send {
    unfold((generation, events), async |(mut generation, mut events)| {
        while !events.is_over() {
            let event = events.push(generation.expect_next().await);
            if !event.is_empty() {
                return Some((event, (generation, events)));
            }
        }
        None
    })
}

async fn whole(
    mut generation: Generation,
    mut body: MessageBody,
) -> Result<Box<RawValue>, ApiError> {
    loop {
        let item = generation.expect_next().await;
        if let Some(message) = body.push(item)? {
            return Ok(message);
        }
    }
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
