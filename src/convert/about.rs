//! What a checkpoint says about itself beside its weights: vocabulary, templates, model card, settings.

use std::path::PathBuf;

use super::chat_template::ChatTemplates;
use super::checkpoint::{Checkpoint, Kind};
use super::error::CheckpointError;
use super::general::Sources;
use super::generation::Generation;
use super::model_card::Card;
use super::side_file::{MAX_TEXT, SideFiles};
use super::vocabulary::Vocabulary;

/// Most bytes of a licence's text that are carried over; the longest in common use has 35 KB.
const MAX_LICENSE: u64 = 64 << 10;

/// Everything of a checkpoint but its tensors, read and checked.
#[derive(Debug)]
pub struct About {
    pub(super) sources: Sources,
    pub(super) generation: Generation,
    pub(super) templates: ChatTemplates,
    pub(super) system_prompt: Option<String>,
    /// The whole text of the licence.
    pub(super) license: Option<String>,
    /// An EAGLE head has its model's.
    pub(super) vocabulary: Option<Vocabulary>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Every file that was read.
    pub inputs: Vec<PathBuf>,
}

impl About {
    /// Reads the files beside the weights of `checkpoint`; `name` is what the user calls the model.
    pub fn read(checkpoint: &Checkpoint, name: Option<&str>) -> Result<Self, CheckpointError> {
        let mut files = SideFiles::new(&checkpoint.dir);
        let mut notes = Vec::new();
        let readme = files.description("README.md", MAX_TEXT);
        let license = ["LICENSE", "LICENSE.txt", "LICENSE.md"].into_iter();
        let license = { license }.find_map(|name| files.description(name, MAX_LICENSE));
        let card = Card::parse(readme.as_deref().unwrap_or_default());
        tell_skipped(&card, &mut notes);
        let generation = Generation::read(&mut files)?;
        let vocabulary = match checkpoint.kind {
            Kind::Eagle => None,
            Kind::Model => {
                Some(Vocabulary::read(&mut files, checkpoint.hparams.n_vocab, &mut notes)?)
            }
        };
        if let Some(vocabulary) = &vocabulary {
            generation.check(&files, &vocabulary.tokenizer, &mut notes)?;
        }
        let is_model = vocabulary.is_some();
        let templates =
            if is_model { ChatTemplates::read(&mut files)? } else { ChatTemplates::default() };
        if is_model && !templates.is_there() {
            notes.push("no chat template in the folder; the file will have none".to_owned());
        }
        let sources = Sources {
            card,
            name_or_path: name_or_path(&mut files)?,
            folder: folder_name(checkpoint),
            name: name.map(str::to_owned),
        };
        let system_prompt = if is_model { files.text("SYSTEM_PROMPT.txt")? } else { None };
        notes.extend(files.notes);
        notes.dedup();
        let inputs = files.read;
        Ok(Self {
            sources,
            generation,
            templates,
            system_prompt,
            license,
            vocabulary,
            notes,
            inputs,
        })
    }

    /// The template to chat with.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.default.as_deref()
    }

    /// What the model is called.
    pub fn name(&self) -> String {
        self.sources.name(0)
    }
}

/// Tells which keys that would matter could not be read.
fn tell_skipped(card: &Card, notes: &mut Vec<String>) {
    const USED: [&str; 8] = [
        "name",
        "license",
        "license_name",
        "license_link",
        "base_model",
        "datasets",
        "tags",
        "language",
    ];
    let skipped: Vec<_> =
        USED.into_iter().filter(|used| card.skipped.iter().any(|key| key == used)).collect();
    if !skipped.is_empty() {
        notes.push(format!(
            "README.md: not understood, so not carried over: {}",
            skipped.join(", ")
        ));
    }
}

/// The name that config.json remembers, whichever layout is read.
fn name_or_path(files: &mut SideFiles<'_>) -> Result<Option<String>, CheckpointError> {
    let config = files.json("config.json")?;
    Ok(config.and_then(|config| Some(config.get("_name_or_path")?.as_str()?.to_owned())))
}

/// The folder's own name, also where it was given as `.`.
fn folder_name(checkpoint: &Checkpoint) -> String {
    let dir = checkpoint.dir.canonicalize().unwrap_or_else(|_| checkpoint.dir.clone());
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
