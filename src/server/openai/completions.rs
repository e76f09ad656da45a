//! `POST /v1/completions`: plain text goes on. Several prompts in one request are as many generations.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::value::RawValue;

use super::text::{TextAnswer, TextWriter};
use super::wire::Head;
use super::{fim, reply};
use crate::chat::{self, Fields, Node, ResponseFormat};
use crate::server::http::{self, ApiError, ErrorKind};
use crate::server::request::{Asked, ChatExtras, Document, Source, fields, start, work};
use crate::server::{App, SharedApp};
use crate::tokenizer::TokenId;

/// Prompts of one request.
const MAX_PROMPTS: usize = 16;

/// `POST /v1/completions`.
pub(crate) async fn completions(State(app): State<SharedApp>, request: Request) -> Response {
    complete(app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn complete(app: SharedApp, request: Request) -> Result<Response, ApiError> {
    let (document, origin) = Document::queued(&app, request).await?;
    let reader = app.clone();
    let read = move |_| Wishes::read(&document.fields()?, &reader);
    let Wishes { asked, format, has_usage_chunk, prompts } = work(&origin.request_id, read).await?;
    let (mut generations, mut echoes) = (Vec::new(), Vec::new());
    for Prompt { tokens, echo } in prompts {
        generations.push(start(&app, &origin, Source::Text(tokens, format.clone()), &asked).await?);
        echoes.push(echo);
    }
    let created = generations.first().map_or(0, |generation| generation.created);
    let answer = TextAnswer {
        head: Head::new("cmpl-", created, asked.model),
        echoes,
        n: asked.n,
        has_usage_chunk,
    };
    let notes = generations.first().map(|generation| generation.notes.clone()).unwrap_or_default();
    let mut writer = TextWriter::new(answer, app.tokenizer.clone());
    let items = generations.into_iter().enumerate();
    let mut items = stream::select_all(items.map(|(prompt, generation)| {
        Box::pin(reply::items(generation).map(move |item| (prompt, item)))
    }));
    let mut response = if asked.stream {
        let write = move |(prompt, item), out: &mut String| writer.push(prompt, item, out);
        reply::streamed(items, write)
    } else {
        loop {
            let Some((prompt, item)) = items.next().await else {
                return Err(ApiError::new(ErrorKind::Engine, "the reply broke off"));
            };
            if writer.take(prompt, item)? {
                break reply::whole(writer.finish());
            }
        }
    };
    http::tell_changes(&mut response, &notes);
    Ok(response)
}

/// What a body says.
struct Wishes {
    asked: Asked,
    /// Of each reply.
    format: ResponseFormat,
    has_usage_chunk: bool,
    prompts: Vec<Prompt>,
}

#[derive(Debug, PartialEq)]
struct Prompt {
    tokens: Vec<TokenId>,
    /// What stands before the reply.
    echo: String,
}

impl Wishes {
    fn read(fields: &Fields<'_>, app: &App) -> Result<Self, ApiError> {
        let asked = Asked::openai_text(fields, app)?;
        let suffix = fields::text(fields, "suffix")?.filter(|suffix| !suffix.is_empty());
        let echo = fields::flag(fields, "echo")?.unwrap_or(false);
        if echo && asked.n_logprobs.is_some() {
            let message =
                "echo and logprobs: a prompt's tokens have no probabilities here; leave one out";
            return Err(ApiError::invalid("echo", message));
        }
        let prompts = prompts(&fields.need("prompt")?, suffix.as_deref(), app)?;
        let prompts = prompts.into_iter().map(|prompt| match echo {
            true => prompt,
            false => Prompt { echo: String::new(), ..prompt },
        });
        Ok(Wishes {
            format: chat::format_from_fields(fields)?,
            has_usage_chunk: ChatExtras::of(fields)?.include_usage,
            prompts: prompts.collect(),
            asked,
        })
    }
}

fn prompts(node: &Node<'_>, suffix: Option<&str>, app: &App) -> Result<Vec<Prompt>, ApiError> {
    if !node.is_list() {
        return Ok(vec![text_prompt(node.text()?, node.place(), suffix, app)?]);
    }
    let is_ids = node.raw()[1..].trim_start().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if is_ids {
        return Ok(vec![id_prompt(node, suffix, app)?]);
    }
    let items = node.items()?;
    if items.is_empty() || items.len() > MAX_PROMPTS {
        let message =
            format!("{}: expected 1 to {MAX_PROMPTS} prompts, found {}", node.place(), items.len());
        return Err(ApiError::invalid(node.place(), message));
    }
    let prompt = |node: &Node<'_>| match node.is_list() {
        true => id_prompt(node, suffix, app),
        false => text_prompt(node.text()?, node.place(), suffix, app),
    };
    items.iter().map(prompt).collect()
}

fn text_prompt(
    text: String,
    place: &str,
    suffix: Option<&str>,
    app: &App,
) -> Result<Prompt, ApiError> {
    let tokens = match suffix {
        Some(suffix) => fim::encode(&app.tokenizer, &text, suffix)?,
        None if text.is_empty() => return Err(empty(place)),
        None => {
            let mut tokens = vec![app.tokenizer.bos()];
            app.tokenizer.encode_into(&text, &mut tokens);
            tokens
        }
    };
    Ok(Prompt { tokens, echo: text })
}

/// A prompt of token ids; `<s>` is put before it where it is missing.
fn id_prompt(node: &Node<'_>, suffix: Option<&str>, app: &App) -> Result<Prompt, ApiError> {
    let place = node.place();
    if suffix.is_some() {
        let message =
            format!("suffix: {place} is a list of token ids, which has no gap; send texts");
        return Err(ApiError::invalid("suffix", message));
    }
    // Not `Node::items`: a prompt may be as long as the context, and each node would have a place.
    let ids: Vec<&RawValue> = serde_json::from_str(node.raw())
        .map_err(|error| ApiError::invalid(place, format!("{place}: {error}")))?;
    let n_vocab = app.tokenizer.n_vocab();
    let mut tokens = Vec::with_capacity(ids.len() + 1);
    for (i, id) in ids.iter().enumerate() {
        match id.get().parse::<TokenId>() {
            Ok(id) if (id as usize) < n_vocab => tokens.push(id),
            _ => {
                let place = format!("{place}[{i}]");
                let shown: String = id.get().chars().take(40).collect();
                let message = format!(
                    "{place}: expected the id of a token, 0 to {}, found {shown}",
                    n_vocab - 1
                );
                return Err(ApiError::invalid(place, message));
            }
        }
    }
    let echo = String::from_utf8_lossy(&app.tokenizer.decode(&tokens)).into_owned();
    match tokens.first() {
        None => return Err(empty(place)),
        Some(&first) if first != app.tokenizer.bos() => tokens.insert(0, app.tokenizer.bos()),
        Some(_) => {}
    }
    Ok(Prompt { tokens, echo })
}

fn empty(place: &str) -> ApiError {
    ApiError::invalid(
        place,
        format!("{place}: a prompt is empty; give at least one character or token"),
    )
}
