//! Requests as JSON: what clients of OpenAI, Mistral and Anthropic send becomes one `ChatRequest`.
//!
//! The same form serves saved conversations, test cases and requests. Only what the conversation
//! needs is read; other fields (`model`, `temperature`, …) are somebody else's and are passed over.
//! Reading is tolerant and lists what it altered; strict reading refuses instead of altering.

mod calls;
mod content;
mod message;
mod node;
mod options;
mod responses;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

use super::{Change, ChatRequest, Message, ResponseFormat};
use crate::vision::{Image, ImageError};

pub use self::node::{Fields, Node};
pub use self::options::RequestOptions;
pub use self::responses::{ClientTool, responses_from_json};
pub use self::write::request_to_json;

/// Chunks of all contents of one request. Each takes far more room in memory than in a body.
const MAX_PARTS: usize = 1 << 16;
/// Pictures of one request.
const MAX_IMAGES: usize = 256;
/// Pixels of one request's different pictures: 300 MB once they are decoded.
const MAX_REQUEST_PIXELS: u64 = 100_000_000;

/// Why a text is no conversation.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Not JSON.
    #[error("not a chat request: {}", located(.0))]
    Json(serde_json::Error),
    /// Brackets within brackets.
    #[error("not a chat request: it is nested more than {max} levels deep")]
    TooDeep {
        /// The bound.
        max: usize,
    },
    /// A field whose value has no meaning here.
    #[error("{}{problem}", separated(.place))]
    Field {
        /// The field, as `messages[2].content[0].type`; empty for the request itself.
        place: String,
        /// What is found there and what was expected.
        problem: String,
    },
    /// A picture that cannot be used.
    #[error("{place}: {error}")]
    Image {
        /// The field that holds it.
        place: String,
        /// What is wrong with it.
        error: ImageError,
    },
    /// Pictures that are too many or too large together.
    #[error("{place}: {problem}")]
    Images {
        /// The field that holds the first one too many.
        place: String,
        /// How many there are, and may be.
        problem: String,
    },
}

fn separated(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}

/// What is wrong, with the line only where there are several: requests stand on one.
fn located(error: &serde_json::Error) -> String {
    error.to_string().replacen(" at line 1 column ", " at column ", 1)
}

impl From<serde_json::Error> for RequestError {
    fn from(error: serde_json::Error) -> Self {
        RequestError::Json(error)
    }
}

impl RequestError {
    fn field(place: impl Into<String>, problem: impl Into<String>) -> Self {
        RequestError::Field { place: place.into(), problem: problem.into() }
    }
}

/// A request as it was meant, and what had to be altered to read it so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The conversation, not yet normalised or validated.
    pub request: ChatRequest,
    /// What the request says beside the conversation.
    pub options: RequestOptions,
    /// What means something else now than what was sent.
    pub changes: Vec<Change>,
}

/// Turns a picture's URL into the picture.
pub type ImageSource<'a> = dyn FnMut(&str) -> Result<Image, ImageError> + 'a;

/// Reads a request of mistral-common's own form and refuses whatever it would have to alter. The
/// conversation is not yet validated.
pub fn request_from_json(
    json: &str,
    images: &mut ImageSource<'_>,
) -> Result<ChatRequest, RequestError> {
    Ok(Reader::new(images, true).read(json)?.request)
}

/// Reads whatever a client of OpenAI, Mistral or Anthropic legally sends.
pub fn read_request(json: &str, images: &mut ImageSource<'_>) -> Result<Reading, RequestError> {
    Reader::new(images, false).read(json)
}

/// Reads tools alone: a list of them, or a request that has them. Also says what was altered or left out.
pub fn tools_from_json(json: &str) -> Result<(Vec<super::Tool>, Vec<Change>), RequestError> {
    let mut no_images = |_: &str| Err(ImageError::NoUrl);
    let mut reader = Reader::new(&mut no_images, false);
    let root = Node::root(json)?;
    let tools = match root.is_list() {
        true => reader.tools(&root),
        false => match root.fields()?.get("tools") {
            Some(tools) => reader.tools(&tools),
            None => Err(root.error("expected a list of tools, or an object with \"tools\"")),
        },
    }?;
    Ok((tools, reader.changes))
}

/// The form that a request asks for, under any of the names that servers have for it.
pub fn format_from_fields(fields: &Fields<'_>) -> Result<ResponseFormat, RequestError> {
    let mut no_images = |_: &str| Err(ImageError::NoUrl);
    Reader::new(&mut no_images, false).response_format(fields)
}

struct Reader<'a, 'i> {
    images: &'a mut ImageSource<'i>,
    n_parts: usize,
    n_images: usize,
    /// Pixels that were decoded.
    n_pixels: u64,
    /// Pictures by the hashes of their URLs: histories repeat them, and one copy is enough.
    seen: HashMap<blake3::Hash, Arc<Image>>,
    strict: bool,
    changes: Vec<Change>,
}

impl<'a, 'i> Reader<'a, 'i> {
    fn new(images: &'a mut ImageSource<'i>, strict: bool) -> Self {
        Reader {
            images,
            n_parts: 0,
            n_images: 0,
            n_pixels: 0,
            seen: HashMap::new(),
            strict,
            changes: Vec::new(),
        }
    }

    fn read(mut self, json: &str) -> Result<Reading, RequestError> {
        let fields = Node::root(json)?.fields()?;
        let mut messages = Vec::new();
        if let Some(system) = fields.get("system") {
            self.foreign(&system.place, "instructions stand in a system message")?;
            messages.push(Message::System(self.content(&system)?));
        }
        for message in fields.need("messages")?.items()? {
            self.message(&message, &mut messages)?;
        }
        if fields.flag("continue_final_message")? == Some(true)
            && let Some(Message::Assistant(last)) = messages.last_mut()
        {
            last.prefix = true;
        }
        let tools = match fields.any(&["tools", "functions"]) {
            Some(tools) => self.tools(&tools)?,
            None => Vec::new(),
        };
        let (reasoning_effort, options) = self.reasoning(&fields)?;
        let request = ChatRequest {
            messages,
            tools,
            tool_choice: self.tool_choice(&fields)?,
            response_format: self.response_format(&fields)?,
            reasoning_effort,
        };
        Ok(Reading { request, options, changes: self.changes })
    }

    /// Notes an alteration; a strict reading refuses it.
    fn change(&mut self, place: &str, what: impl Into<String>) -> Result<(), RequestError> {
        let what = what.into();
        if self.strict {
            return Err(RequestError::field(place, format!("would have to be altered: {what}")));
        }
        self.changes.push(Change::new(place, what));
        Ok(())
    }

    /// Another protocol's way to say what can be said exactly; only a strict reading minds.
    fn foreign(&self, place: &str, expected: &str) -> Result<(), RequestError> {
        match self.strict {
            true => Err(RequestError::field(place, format!("is not of this protocol: {expected}"))),
            false => Ok(()),
        }
    }

    fn image(&mut self, place: &str, url: &str) -> Result<Arc<Image>, RequestError> {
        self.n_images += 1;
        if self.n_images > MAX_IMAGES {
            let problem = format!("the request has more than {MAX_IMAGES} pictures");
            return Err(RequestError::Images { place: place.to_owned(), problem });
        }
        let name = blake3::hash(url.as_bytes());
        if let Some(image) = self.seen.get(&name) {
            return Ok(image.clone());
        }
        let image = (self.images)(url)
            .map_err(|error| RequestError::Image { place: place.to_owned(), error })?;
        let (width, height) = (image.width(), image.height());
        self.n_pixels += u64::from(width) * u64::from(height);
        if self.n_pixels > MAX_REQUEST_PIXELS {
            let problem = format!(
                "with this picture of {width}x{height} the request has {} megapixels, at most {} are \
                 allowed: scale the pictures down or send fewer",
                self.n_pixels.div_ceil(1_000_000),
                MAX_REQUEST_PIXELS / 1_000_000
            );
            return Err(RequestError::Images { place: place.to_owned(), problem });
        }
        // The same file may come under several URLs.
        let equal = self
            .seen
            .values()
            .find(|known| known.hash() == image.hash() && known.file() == image.file());
        let image = equal.cloned().unwrap_or_else(|| Arc::new(image));
        self.seen.insert(name, image.clone());
        Ok(image)
    }
}
