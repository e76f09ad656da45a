//! Text and token ids: `/tokenize`, `/detokenize`, and the prompt that a chat request becomes.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{ApiError, ErrorKind, json as answer, models};
use crate::server::SharedApp;
use crate::server::request::{Document, fields, read_chat};
use crate::tokenizer::{TokenId, Tokenizer};

/// `POST /tokenize`: `content`, `add_special`, `with_pieces` → `tokens`.
pub(super) async fn tokenize(app: SharedApp, request: Request) -> Response {
    let (document, _) = match Document::read(&app, request).await {
        Ok(read) => read,
        Err(error) => return error.into_response(),
    };
    answered(move || {
        let fields = document.fields()?;
        let content = fields::text(&fields, "content")?
            .ok_or_else(|| ApiError::invalid("content", "content: expected a string"))?;
        let mut ids = Vec::new();
        if fields::flag(&fields, "add_special")?.unwrap_or(false) {
            ids.push(app.tokenizer.bos());
        }
        app.tokenizer.encode_into(&content, &mut ids);
        if !fields::flag(&fields, "with_pieces")?.unwrap_or(false) {
            return Ok(json!({ "tokens": ids }));
        }
        let pieces: Vec<_> = ids.iter().map(|&id| piece(&app.tokenizer, id)).collect();
        Ok(json!({ "tokens": pieces }))
    })
    .await
}

/// A token and its text; its bytes where they are no text by themselves.
fn piece(tokenizer: &Tokenizer, id: TokenId) -> Value {
    match std::str::from_utf8(tokenizer.token_bytes(id)) {
        Ok(text) => json!({ "id": id, "piece": text }),
        Err(_) => json!({ "id": id, "piece": tokenizer.token_bytes(id) }),
    }
}

/// `POST /detokenize`: `tokens` → `content`.
pub(super) async fn detokenize(app: SharedApp, request: Request) -> Response {
    let (document, _) = match Document::read(&app, request).await {
        Ok(read) => read,
        Err(error) => return error.into_response(),
    };
    answered(move || {
        let fields = document.fields()?;
        let n_vocab = app.tokenizer.n_vocab();
        let mut ids = Vec::new();
        for node in fields.need("tokens")?.items()? {
            let id = node.count()?;
            if id as usize >= n_vocab {
                let problem = format!("expected an id below {n_vocab}, found {id}");
                return Err(node.error(problem).into());
            }
            ids.push(id);
        }
        let content = String::from_utf8_lossy(&app.tokenizer.decode(&ids)).into_owned();
        Ok(json!({ "content": content }))
    })
    .await
}

/// `POST /apply-template`: a chat request → its prompt as text, with control tokens spelt out, and as ids.
pub(super) async fn apply_template(app: SharedApp, request: Request) -> Response {
    let read = async {
        let (document, origin) = Document::read(&app, request).await?;
        read_chat(&app, document, &origin).await
    };
    let (_, reading) = match read.await {
        Ok(read) => read,
        Err(error) => return error.into_response(),
    };
    answered(move || {
        let patches = models::facts(&app)?.patches.unwrap_or_default();
        let (request, changes) = app.format.normalise(reading.request);
        let prompt = app
            .format
            .encode(&request, &app.tokenizer, &patches)
            .map_err(|error| ApiError::invalid("messages", error.to_string()))?;
        let mut bytes = Vec::new();
        for &id in &prompt.tokens {
            bytes.extend_from_slice(app.tokenizer.token_bytes(id));
        }
        let changes: Vec<_> =
            reading.changes.iter().chain(&changes).map(ToString::to_string).collect();
        Ok(json!({
            "prompt": String::from_utf8_lossy(&bytes),
            "tokens": prompt.tokens,
            "changes": changes,
        }))
    })
    .await
}

/// The answer that `work` finds, away from the threads that serve sockets.
async fn answered(work: impl FnOnce() -> Result<Value, ApiError> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => answer(&value),
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            let message = "a fault of the server's own; please report it";
            ApiError::new(ErrorKind::Engine, message).into_response()
        }
    }
}
