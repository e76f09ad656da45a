//! What the slash commands do, but for those that ask the model.

use std::path::Path;

use anyhow::bail;

use super::{Repl, Sink, Turn};
use crate::chat::{Change, ContentChunk, ResponseFormat, Usage};
use crate::term::commands::{self, Command, Format};
use crate::term::conversation::plain_text;
use crate::term::files::{Attachment, MAX_IMAGES, name, read_image, read_text};
use crate::term::meter;
use crate::term::toolbox::Toolbox;

/// Largest schema that is read, in bytes.
const MAX_SCHEMA: u64 = 4 << 20;

impl<G> Repl<'_, G>
where
    G: FnMut(&Turn<'_>, &mut Sink<'_>) -> anyhow::Result<Usage>,
{
    pub(super) fn obey(&mut self, command: Command) {
        let told = match command {
            Command::Help => commands::help().trim_end().to_owned(),
            Command::ShowSystem => {
                self.conversation.system.clone().unwrap_or("no system prompt".into())
            }
            Command::ShowThink => self.thinking(),
            Command::ShowBudget => self.budget(),
            Command::ShowImages => self.images(),
            Command::ShowTools => self.tools(),
            Command::ShowFormat => self.format(),
            Command::ShowTemperature => self.temperature(),
            Command::Stats => self.stats(),
            Command::AddImage(path) => self.add_image(&path),
            Command::ClearImages => {
                self.pending.clear();
                self.images()
            }
            Command::Undo => self.undo(),
            Command::Drop => match self.conversation.drop_oldest() {
                Some(question) => format!("dropped: {}", first_line(&plain_text(&question))),
                None => "there is nothing to drop".to_owned(),
            },
            Command::Reset => {
                self.conversation.reset();
                self.pending.clear();
                self.last = None;
                "the conversation starts anew".to_owned()
            }
            Command::Save(path) => match self.conversation.save(&path) {
                Ok(()) => format!("saved to {}", path.display()),
                Err(error) => format!("{error:#}"),
            },
            Command::Load(path) => self.load(&path),
            Command::Retry | Command::Quit => return,
            setting => self.set(setting),
        };
        self.screen.note(&told);
    }

    /// Changes what the next answers are asked for.
    fn set(&mut self, setting: Command) -> String {
        let conversation = &mut self.conversation;
        match setting {
            Command::SetSystem(system) => {
                conversation.system = system;
                "from the next question on".to_owned()
            }
            Command::SetThink(effort) => {
                conversation.effort = effort;
                self.thinking()
            }
            Command::ShowReasoning(show) => {
                self.screen.show_reasoning = show;
                self.thinking()
            }
            Command::SetBudget(budget) => {
                conversation.reasoning_budget = budget;
                self.budget()
            }
            Command::SetTemperature(temperature) => {
                conversation.temperature = temperature;
                self.temperature()
            }
            Command::SetTools(None) => {
                conversation.tools = Toolbox::default();
                self.tools()
            }
            Command::SetTools(Some(path)) => match Toolbox::read(&path) {
                Ok((tools, changes)) => {
                    conversation.tools = tools;
                    with_changes(self.tools(), &changes)
                }
                Err(error) => format!("{error:#}; the tools are as they were"),
            },
            Command::SetFormat(format) => match read_format(format) {
                Ok(format) => {
                    conversation.format = format;
                    self.format()
                }
                Err(error) => format!("{error:#}"),
            },
            other => unreachable!("{other:?} is no setting"),
        }
    }

    fn undo(&mut self) -> String {
        match self.conversation.undo() {
            Some(question) => {
                let told = format!("taken back: {}", first_line(&plain_text(&question)));
                told + &self.give_back(question)
            }
            None => "there is nothing to take back".to_owned(),
        }
    }

    fn load(&mut self, path: &Path) -> String {
        match self.conversation.load(path) {
            Ok(changes) => {
                let told = format!("{} messages loaded", self.conversation.n_messages());
                with_changes(told, &changes)
            }
            Err(error) => format!("{error:#}; the conversation is as it was"),
        }
    }

    fn temperature(&self) -> String {
        match self.conversation.temperature {
            Some(temperature) => format!("temperature: {temperature}"),
            None => "temperature: the default".to_owned(),
        }
    }

    fn thinking(&self) -> String {
        let shown = if self.screen.show_reasoning { "shown" } else { "hidden" };
        format!("reasoning effort: {}, {shown}", self.conversation.effort.name())
    }

    fn budget(&self) -> String {
        match self.conversation.reasoning_budget {
            Some(n) => format!("reasoning ends after {} tokens", meter::count(n as usize)),
            None => "reasoning ends by itself".to_owned(),
        }
    }

    fn images(&self) -> String {
        if self.pending.is_empty() {
            return "no image waits for the next message; /image FILE attaches one".to_owned();
        }
        let patches = self.model.patches.as_ref();
        self.pending.iter().map(|image| image.label(patches)).collect::<Vec<_>>().join("\n")
    }

    fn add_image(&mut self, path: &Path) -> String {
        let attached = self.room_for_image().and_then(|()| read_image(path));
        match attached {
            Ok(image) => {
                let label = image.label(self.model.patches.as_ref());
                self.pending.push(image);
                label
            }
            Err(error) => format!("{error:#}"),
        }
    }

    /// Whether one more picture can go with the next message.
    pub(super) fn room_for_image(&self) -> anyhow::Result<()> {
        if self.model.patches.is_none() {
            bail!("this model cannot see: start gust with --mmproj FILE, its vision projector");
        }
        if self.pending.len() >= MAX_IMAGES {
            bail!("{MAX_IMAGES} images wait already; /image clear drops them");
        }
        Ok(())
    }

    /// Attaches the pictures of a question that was taken back to the next one; says so.
    pub(super) fn give_back(&mut self, question: Vec<ContentChunk>) -> String {
        let images = question.into_iter().filter_map(|chunk| match chunk {
            ContentChunk::Image(image) => Some(image),
            _ => None,
        });
        let n_before = self.pending.len();
        for (i, image) in images.enumerate() {
            self.pending.push(Attachment { name: format!("image {}", i + 1), image });
        }
        self.pending.truncate(MAX_IMAGES);
        match self.pending.len() - n_before {
            0 => String::new(),
            1 => "; its image waits for the next question".to_owned(),
            n => format!("; its {n} images wait for the next question"),
        }
    }

    fn tools(&self) -> String {
        match self.conversation.tools.is_empty() {
            true => "no tools; /tools FILE reads some".to_owned(),
            false => format!("the model may call\n{}", self.conversation.tools.list()),
        }
    }

    fn format(&self) -> String {
        match &self.conversation.format {
            ResponseFormat::Text => "answers may be any text",
            ResponseFormat::JsonObject => "answers are JSON objects",
            ResponseFormat::JsonSchema(_) => "answers obey the schema",
            ResponseFormat::Regex(_) => "answers match the regular expression",
            ResponseFormat::Lark(_) => "answers obey the grammar",
        }
        .to_owned()
    }

    fn stats(&self) -> String {
        let conversation = &self.conversation;
        let mut told = format!(
            "model: {}\nmessages: {} · {} · {}\n{}\ntokens written in all: {}",
            self.model.name,
            conversation.n_messages(),
            self.thinking(),
            self.temperature(),
            self.format(),
            meter::count(self.n_generated),
        );
        if !conversation.tools.is_empty() {
            told.push_str(&format!("\ntools: {}", conversation.tools.names()));
        }
        match &self.last {
            Some(usage) => {
                told.push_str("\nlast answer: ");
                told.push_str(&meter::usage_line(usage, self.model.n_ctx));
            }
            None => {
                let n_ctx = meter::count(self.model.n_ctx as usize);
                told.push_str(&format!("\ncontext: {n_ctx} tokens"));
            }
        }
        told
    }
}

fn read_format(format: Format) -> anyhow::Result<ResponseFormat> {
    Ok(match format {
        Format::Text => ResponseFormat::Text,
        Format::Json => ResponseFormat::JsonObject,
        Format::Schema(path) => {
            let schema = read_text(&path, MAX_SCHEMA)?;
            if let Err(error) = serde_json::from_str::<&serde_json::value::RawValue>(&schema) {
                bail!("{} is not JSON: {error}", name(&path));
            }
            ResponseFormat::JsonSchema(schema)
        }
    })
}

fn with_changes(mut told: String, changes: &[Change]) -> String {
    changes.iter().for_each(|change| told.push_str(&format!("\n  {change}")));
    told
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
