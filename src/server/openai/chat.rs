//! `POST /v1/chat/completions`.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::answer::Answer;
use super::chunks::ChatStream;
use super::dialect::{self, Manner};
use super::message::ChatBody;
use super::reply;
use super::wire::Head;
use crate::chat::Reading;
use crate::server::http::{self, ApiError};
use crate::server::request::{
    Asked, ChatExtras, Document, Generation, Origin, ReplyItem, Source, read_chat, start, work,
};
use crate::server::{App, Dialect, SharedApp};

/// `POST /v1/chat/completions`.
pub(crate) async fn chat_completions(State(app): State<SharedApp>, request: Request) -> Response {
    complete(app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn complete(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, mut origin) = Document::queued(&app, request).await?;
    let read = read(&app, document, &mut origin).await;
    let Wishes { asked, extras, manner, reading } =
        read.map_err(|error| dialect::unread(error, &origin))?;
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

/// What a body says.
struct Wishes {
    asked: Asked,
    extras: ChatExtras,
    manner: Manner,
    reading: Reading,
}

async fn read(
    app: &SharedApp,
    document: Document,
    origin: &mut Origin,
) -> Result<Wishes, ApiError> {
    let reader = app.clone();
    let read = move |_| {
        let fields = document.fields()?;
        let (asked, extras) = (Asked::openai(&fields, &reader)?, ChatExtras::of(&fields)?);
        drop(fields);
        Ok((document, asked, extras))
    };
    let (document, mut asked, extras) = work(&origin.request_id, read).await?;
    let (document, reading) = read_chat(app, document, origin).await?;
    asked.reasoning_budget = reading.options.reasoning_budget;
    // Looks into messages, whose number and chunks are known to be bounded by now.
    let (from, seen) = (origin.clone(), extras.clone());
    let choose = move |_| Ok(dialect::choose(&from, &seen, &document.fields()?));
    let manner = work(&origin.request_id, choose).await?;
    origin.protocol.push_str(match manner.dialect {
        Dialect::OpenAi => " openai",
        Dialect::Mistral => " mistral",
    });
    Ok(Wishes { asked, extras, manner, reading })
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
    loop {
        match generation.expect_next().await {
            ReplyItem::Started(_) => {}
            ReplyItem::Event { choice, event, tokens } => body.push(choice, &event, tokens),
            ReplyItem::Done(usage) => return Ok(reply::whole(body.finish(&usage, &app.tokenizer))),
            ReplyItem::Failed(error, _) => return Err(error),
        }
    }
}
