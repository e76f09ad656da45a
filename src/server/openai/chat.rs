//! `POST /v1/chat/completions`.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::answer::Answer;
use super::chunks::ChatStream;
use super::dialect;
use super::message::ChatBody;
use super::reply;
use super::wire::Head;
use crate::server::http::{self, ApiError, ErrorKind};
use crate::server::request::{
    Asked, ChatExtras, Document, Generation, ReplyItem, Source, read_chat, start, work,
};
use crate::server::{App, Dialect, SharedApp};

/// `POST /v1/chat/completions`.
pub(crate) async fn chat_completions(State(app): State<SharedApp>, request: Request) -> Response {
    complete(app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn complete(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, mut origin) = Document::read(&app, request).await?;
    let read = {
        let (app, origin) = (app.clone(), origin.clone());
        move |_| {
            let (asked, extras, manner) = {
                let fields = document.fields()?;
                let extras = ChatExtras::of(&fields)?;
                let manner = dialect::choose(&origin, &extras, &fields);
                (Asked::openai(&fields, &app)?, extras, manner)
            };
            Ok((document, asked, extras, manner))
        }
    };
    let (document, mut asked, extras, manner) = work(&origin.request_id, read).await?;
    origin.protocol.push_str(match manner.dialect {
        Dialect::OpenAi => " openai",
        Dialect::Mistral => " mistral",
    });
    let (_, reading) = read_chat(&app, document, &origin).await?;
    asked.reasoning_budget = reading.options.reasoning_budget;
    let source = Source::Chat(Box::new(reading.request));
    let generation = start(&app, &origin, source, &asked).await?;
    let answer = Answer {
        head: Head::new("chatcmpl-", generation.created, asked.model),
        manner,
        n: asked.n,
        has_usage_chunk: extras.include_usage && manner.dialect == Dialect::OpenAi,
        hides_reasoning: reading.options.hide_reasoning,
        has_details: extras.is_openrouter,
    };
    let mut changes: Vec<String> = reading.changes.iter().map(ToString::to_string).collect();
    changes.extend(generation.notes.iter().cloned());
    let mut response = respond(&app, answer, asked.stream, generation).await?;
    http::tell_changes(&mut response, &changes);
    Ok(response)
}

/// The answer as a stream or as one body.
pub(super) async fn respond(
    app: &App,
    answer: Answer,
    stream: bool,
    mut generation: Generation,
) -> Result<Response, ApiError> {
    if stream {
        let mut writer = ChatStream::new(answer, app.tokenizer.clone());
        let write = move |item, out: &mut String| writer.push(item, out);
        return Ok(reply::streamed(reply::items(generation), write));
    }
    let mut body = ChatBody::new(answer);
    while let Some(item) = generation.next().await {
        match item {
            ReplyItem::Started(_) => {}
            ReplyItem::Event { choice, event, tokens } => body.push(choice, &event, tokens),
            ReplyItem::Done(usage) => return Ok(reply::whole(body.finish(&usage, &app.tokenizer))),
            ReplyItem::Failed(error, _) => return Err(error),
        }
    }
    Err(ApiError::new(ErrorKind::Engine, "the reply broke off"))
}
