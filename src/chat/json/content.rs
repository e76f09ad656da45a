//! The content of a message: a string, or a list of strings and chunks of many kinds.
//!
//! Kinds that say the same under several names are read alike. What the model cannot take in is an
//! error where it carries meaning (sound, documents), and is left out and listed where it does not.

use super::node::Node;
use super::{Fields, MAX_PARTS, Reader, RequestError};
use crate::chat::{ContentChunk, ToolCall, ToolMessage};

/// An element of a content list.
pub(super) enum Part {
    Chunk(ContentChunk),
    Call(ToolCall),
    Result(ToolMessage),
}

impl Reader<'_, '_> {
    /// Every part with its place.
    pub(super) fn parts(&mut self, node: &Node<'_>) -> Result<Vec<(String, Part)>, RequestError> {
        let text = |text: String| Part::Chunk(ContentChunk::Text(text));
        if node.is_string() {
            // An empty string says as little as no chunk at all.
            let said = node.text()?;
            let part = (!said.is_empty()).then(|| (node.place.clone(), text(said)));
            return Ok(part.into_iter().collect());
        }
        if !node.is_list() {
            return Err(node.error("expected a string or a list of chunks"));
        }
        let items = node.items()?;
        self.n_parts += items.len();
        if self.n_parts > MAX_PARTS {
            return Err(node.error(format!("the request has more than {MAX_PARTS} chunks")));
        }
        let mut parts = Vec::new();
        for item in items {
            if item.is_string() {
                self.foreign(&item.place, "a chunk is an object")?;
                parts.push((item.place.clone(), text(item.text()?)));
            } else if let Some(part) = self.part(&item)? {
                parts.push((item.place, part));
            }
        }
        Ok(parts)
    }

    fn part(&mut self, node: &Node<'_>) -> Result<Option<Part>, RequestError> {
        let fields = node.fields()?;
        let kind = match fields.get("type") {
            Some(kind) => kind.text()?,
            None if fields.get("text").is_some() => "text".to_owned(),
            None => return Err(fields.need("type").err().unwrap_or_else(|| node.error("no type"))),
        };
        let chunk = match kind.as_str() {
            "text" => ContentChunk::Text(fields.need("text")?.text()?),
            "input_text" | "output_text" | "refusal" => {
                self.foreign(&fields.place_of("type"), "expected \"text\"")?;
                let name = if kind == "refusal" { "refusal" } else { "text" };
                ContentChunk::Text(fields.need(name)?.text()?)
            }
            "image_url" | "input_image" => self.image_url(&fields)?,
            "image" => self.image_block(&fields)?,
            "thinking" if fields.get("signature").is_some() && says_nothing(&fields)? => {
                self.change(&node.place, "thinking that the client was not shown is left out")?;
                return Ok(None);
            }
            "thinking" | "reasoning" | "reasoning_text" => self.thinking(&fields)?,
            "redacted_thinking" => {
                self.change(&node.place, "redacted thinking is left out")?;
                return Ok(None);
            }
            "reference" | "tool_reference" => {
                self.change(&node.place, "a reference is left out")?;
                return Ok(None);
            }
            "tool_use" => return self.tool_use(&fields).map(|call| Some(Part::Call(call))),
            "tool_result" => return self.tool_result(&fields).map(|r| Some(Part::Result(r))),
            "document" => self.document(&fields)?,
            "search_result" => self.search_result(&fields)?,
            kind if is_provided(kind) => {
                self.change(&node.place, format!("{kind:?}, its provider's own, is left out"))?;
                return Ok(None);
            }
            found => {
                return Err(RequestError::field(
                    fields.place_of("type"),
                    format!(
                        "{found:?} chunks cannot be told to the model; expected text, image_url, \
                         thinking or another form of these"
                    ),
                ));
            }
        };
        Ok(Some(Part::Chunk(chunk)))
    }

    fn image_url(&mut self, fields: &Fields<'_>) -> Result<ContentChunk, RequestError> {
        if let Some(file) = fields.get("file_id") {
            return Err(file.error("no files are kept here: send the picture in image_url"));
        }
        let node = fields.need("image_url")?;
        let url = match node.is_object() {
            true => node.fields()?.need("url")?,
            false => node,
        };
        let text = url.text()?;
        Ok(ContentChunk::Image(self.image(&url.place, &text)?))
    }

    /// Anthropic's `source`, or the URL or bare base64 of several others.
    fn image_block(&mut self, fields: &Fields<'_>) -> Result<ContentChunk, RequestError> {
        let (node, media_type) = match fields.get("source") {
            Some(source) if source.is_object() => {
                let source = source.fields()?;
                let data = source.any(&["data", "url"]);
                let data = data.ok_or_else(|| {
                    RequestError::field(&source.place, "expected \"data\" or \"url\"")
                })?;
                (data, source.text("media_type")?)
            }
            Some(source) => (source, None),
            None => {
                let data = fields.any(&["image", "image_url", "url", "data"]);
                let data = data.ok_or_else(|| {
                    RequestError::field(&fields.place, "an image chunk needs \"source\"")
                })?;
                (data, fields.any(&["mimeType", "mime_type"]).map(|n| n.text()).transpose()?)
            }
        };
        let mut url = node.text()?;
        if !url.contains(':') {
            let media_type = media_type.as_deref().unwrap_or("image/png");
            url = format!("data:{media_type};base64,{url}");
        }
        Ok(ContentChunk::Image(self.image(&node.place, &url)?))
    }

    /// Thinking as text, or as a list of text chunks; OpenAI's reasoning items have summaries.
    fn thinking(&mut self, fields: &Fields<'_>) -> Result<ContentChunk, RequestError> {
        let names = ["thinking", "text", "summary", "content"];
        let node = match self.strict {
            true => fields.need("thinking")?,
            false => match fields.any(&names) {
                Some(node) => node,
                None => fields.need("thinking")?,
            },
        };
        let thinking = self.plain_text(&node, "thinking is text")?;
        Ok(ContentChunk::Thinking { thinking, closed: fields.flag("closed")?.unwrap_or(true) })
    }

    fn tool_use(&mut self, fields: &Fields<'_>) -> Result<ToolCall, RequestError> {
        self.foreign(&fields.place, "calls stand in tool_calls")?;
        let id = match fields.get("id") {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        let name = fields.need("name")?.text()?;
        let arguments = self.arguments(fields.get("input"))?;
        Ok(ToolCall { id, name, arguments })
    }

    fn tool_result(&mut self, fields: &Fields<'_>) -> Result<ToolMessage, RequestError> {
        self.foreign(&fields.place, "results stand in tool messages")?;
        let tool_call_id = match fields.any(&["tool_use_id", "tool_call_id"]) {
            Some(id) => self.id(&id)?,
            None => String::new(),
        };
        let mut content = match fields.get("content") {
            Some(node) => self.content(&node)?,
            None => Vec::new(),
        };
        if fields.flag("is_error")? == Some(true) {
            let place = fields.place_of("is_error");
            if content.is_empty() {
                content.push(ContentChunk::Text("error".to_owned()));
                self.change(&place, "a failed call without a message gives \"error\"")?;
            } else {
                self.change(&place, "the model is given the error's text without the mark")?;
            }
        }
        Ok(ToolMessage { content, tool_call_id })
    }

    /// A document that is text after all.
    fn document(&mut self, fields: &Fields<'_>) -> Result<ContentChunk, RequestError> {
        let source = fields.need("source")?.fields()?;
        self.foreign(&fields.place, "a document is text")?;
        match source.kind()?.as_str() {
            "text" => Ok(ContentChunk::Text(source.need("data")?.text()?)),
            "content" => {
                let parts = source.need("content")?;
                Ok(ContentChunk::Text(
                    self.plain_text(&parts, "a document's content is text here")?,
                ))
            }
            found => Err(RequestError::field(
                source.place_of("type"),
                format!(
                    "a document of {found:?} cannot be told to the model, only one of plain text: send its \
                     text"
                ),
            )),
        }
    }

    /// What a client's own search found, as text.
    fn search_result(&mut self, fields: &Fields<'_>) -> Result<ContentChunk, RequestError> {
        self.foreign(&fields.place, "a search result is text")?;
        let text = self.plain_text(&fields.need("content")?, "a search result is text")?;
        let title = fields.text("title")?.unwrap_or_default();
        let source = fields.text("source")?.unwrap_or_default();
        Ok(ContentChunk::Text(format!("{title}\n{source}\n\n{text}")))
    }

    /// The text of parts that must be text.
    fn plain_text(&mut self, node: &Node<'_>, problem: &str) -> Result<String, RequestError> {
        let mut said = String::new();
        for (place, part) in self.parts(node)? {
            match part {
                Part::Chunk(ContentChunk::Text(text)) => said.push_str(&text),
                _ => return Err(RequestError::field(place, problem)),
            }
        }
        Ok(said)
    }
}

/// Whether this is thinking without a word: only its signature was kept.
fn says_nothing(fields: &Fields<'_>) -> Result<bool, RequestError> {
    let thinking = fields.get("thinking").filter(Node::is_string);
    thinking.map_or(Ok(false), |node| Ok(node.text()?.is_empty()))
}

/// Chunks of Anthropic's histories about what its own machines did: calls, results, notes. No client can
/// leave them out, and only those machines understand them.
fn is_provided(kind: &str) -> bool {
    let others =
        ["server_tool_use", "mcp_tool_use", "mcp_tool_listing", "container_upload", "fallback"];
    others.contains(&kind) || kind.ends_with("_tool_result")
}
