//! What `run` and `chat` ask of a model besides a text: pictures, tools, and the form of the answer.
//!
//! Files are read and checked before a model is loaded, which may take minutes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::value::RawValue;

use crate::chat::{self, ChatFormat, ChatRequest, Message, ResponseFormat, ToolChoice, Version};
use crate::constraint::{ConstraintError, Grammars};
use crate::model;
use crate::term::files::{Attachment, MAX_IMAGES, read_image, read_text};
use crate::term::{Printer, Toolbox};
use crate::tokenizer::Tokenizer;
use crate::vision::PatchConfig;

/// Largest schema or grammar, in bytes.
const MAX_GRAMMAR: u64 = 4 << 20;

/// Pictures, tools and the form of the answer.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Pictures, tools, structured answers")]
pub(super) struct RequestArgs {
    /// Picture that goes with the prompt; may be given again
    #[arg(long, value_name = "FILE")]
    pub(super) image: Vec<PathBuf>,
    /// JSON file of tools that the model may call
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Answer with a JSON object
    #[arg(long, group = "format")]
    json: bool,
    /// Answer with JSON that obeys the schema in FILE
    #[arg(long, value_name = "FILE", group = "format")]
    json_schema: Option<PathBuf>,
    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", group = "format", allow_hyphen_values = true)]
    regex: Option<String>,
    /// Answer with a text of the language that the Lark grammar in FILE describes
    #[arg(long, value_name = "FILE", group = "format")]
    grammar: Option<PathBuf>,
}

impl RequestArgs {
    /// Decodes the pictures.
    pub(super) fn images(&self) -> anyhow::Result<Vec<Attachment>> {
        if self.image.len() > MAX_IMAGES {
            bail!("{} pictures, at most {MAX_IMAGES} are possible", self.image.len());
        }
        self.image.iter().map(|path| read_image(path)).collect()
    }

    /// Reads the tools, and says what was altered or left out.
    pub(super) fn tools(&self, printer: &Printer) -> anyhow::Result<Toolbox> {
        let Some(path) = &self.tools else { return Ok(Toolbox::default()) };
        let (tools, changes) = Toolbox::read(path)?;
        changes.iter().for_each(|change| printer.warn(format!("{}: {change}", path.display())));
        Ok(tools)
    }

    /// Reads what the answer must look like.
    pub(super) fn format(&self) -> anyhow::Result<ResponseFormat> {
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), ..) => ResponseFormat::JsonSchema(schema(path)?),
            (_, Some(regex), _) => ResponseFormat::Regex(regex.clone()),
            (.., Some(path)) => ResponseFormat::Lark(read_text(path, MAX_GRAMMAR)?),
            _ if self.json => ResponseFormat::JsonObject,
            _ => ResponseFormat::Text,
        })
    }

    /// Whether these tools and this form can be kept at all. No grammar depends on the vocabulary, so that of the
    /// built-in model does.
    pub(super) fn check(
        &self,
        tools: &Toolbox,
        tool_choice: &ToolChoice,
        format: &ResponseFormat,
    ) -> anyhow::Result<()> {
        if tools.is_empty() && matches!(format, ResponseFormat::Text | ResponseFormat::JsonObject) {
            return Ok(());
        }
        let request = ChatRequest {
            messages: vec![Message::user("")],
            tools: tools.tools().to_vec(),
            tool_choice: tool_choice.clone(),
            response_format: format.clone(),
            ..ChatRequest::default()
        };
        // But for a grammar that names tokens by their numbers.
        if matches!(format, ResponseFormat::Lark(grammar) if grammar.contains("<[")) {
            return Ok(());
        }
        let tokenizer = Tokenizer::from_gguf(&model::builtin())?;
        let chat_format = ChatFormat::Mistral(Version::of(&tokenizer));
        chat::constraint(&request, &chat_format, &Grammars::new(&tokenizer), &tokenizer, None)
            .map_err(|error| locate(self, error.into()))?;
        Ok(())
    }
}

/// Names the file in an error about tools or a schema; the error itself names the field of a request, which
/// nobody has typed here.
pub(super) fn locate(args: &RequestArgs, error: anyhow::Error) -> anyhow::Error {
    let place = match error.downcast_ref::<ConstraintError>() {
        Some(ConstraintError::Schema { place, .. } | ConstraintError::Field { place, .. }) => place,
        _ => return error,
    };
    let tools = args.tools.as_ref().filter(|_| place.starts_with("tools"));
    let format = args.json_schema.as_ref().or(args.grammar.as_ref());
    let format = format.filter(|_| place.starts_with("response_format"));
    match tools.or(format) {
        Some(path) => error.context(path.display().to_string()),
        None => error,
    }
}

/// The choice of that name, or of the tool of that name.
pub(super) fn tool_choice(name: Option<&str>, tools: &Toolbox) -> anyhow::Result<ToolChoice> {
    Ok(match name {
        None | Some("auto") => ToolChoice::Auto,
        Some("none") => ToolChoice::None,
        Some("required") if tools.is_empty() => {
            bail!("--tool-choice required needs a tool, but the file of --tools has none")
        }
        Some("required") => ToolChoice::Required,
        Some(name) if tools.has(name) => ToolChoice::Named(name.to_owned()),
        Some(name) => bail!(
            "--tool-choice {name}: expected auto, none, required or a tool's name ({})",
            tools.names()
        ),
    })
}

/// Says what each picture costs; an error if the model cannot see.
pub(super) fn announce(
    images: &[Attachment],
    patches: Option<&PatchConfig>,
    printer: &Printer,
) -> anyhow::Result<()> {
    if !images.is_empty() && patches.is_none() {
        bail!("this model cannot see; give its vision projector with --mmproj FILE");
    }
    images.iter().for_each(|image| printer.note(image.label(patches)));
    Ok(())
}

/// Reads a schema, which must be JSON.
fn schema(path: &Path) -> anyhow::Result<String> {
    let schema = read_text(path, MAX_GRAMMAR)?;
    let checked: Result<&RawValue, _> = serde_json::from_str(&schema);
    checked.with_context(|| format!("{} is not JSON", path.display()))?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Tool;

    #[test]
    fn choices_name_themselves_or_a_tool() {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: String::new(),
            parameters: "{}".to_owned(),
            strict: false,
        };
        let tools = Toolbox::new(vec![tool("f"), tool("g")]);
        let choice = |name| tool_choice(Some(name), &tools);
        assert_eq!(choice("none").unwrap(), ToolChoice::None);
        assert_eq!(choice("g").unwrap(), ToolChoice::Named("g".to_owned()));
        let error = choice("h").unwrap_err().to_string();
        assert!(error.contains("(f, g)"), "{error}");
        assert!(tool_choice(Some("required"), &Toolbox::default()).is_err());
    }
}
