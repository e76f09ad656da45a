//! A checkpoint: its shape, its tensors under GGUF's names, and where their values lie.
//!
//! [`Checkpoint::open`] is the gate: behind it every tensor that the model needs is there once, of the
//! right shape, and readable. The values themselves are nobody's business here.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::description::Description;
use super::error::CheckpointError;
use super::img_break;
use super::index::{self, Shard};
use super::json::{self, MAX_CONFIG};
use super::layout::{self, Files, Layout};
use super::names::EAGLE_LINEAR;
use super::tensors::{Entry, Plan, collect};
use super::{config, params, tower};
use crate::export::Source;
use crate::model::{Hparams, MEDIUM_3_5, Projector, RopeScaling, YarnPolicy};

/// What a checkpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole language model, perhaps with a vision tower.
    Model,
    /// A draft head of the EAGLE kind, which shares embedding and output with the model it drafts for.
    Eagle,
}

/// What the user chose about reading.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Which layout; without one, whichever of the two is there.
    pub layout: Option<Layout>,
    /// Whether the vision tower is wanted, and must be there if it is described.
    pub tower: bool,
    /// What becomes of the wrong magnitude of Medium 3.5's first configuration.
    pub yarn: YarnPolicy,
}

impl Default for Reading {
    fn default() -> Self {
        Self { layout: None, tower: true, yarn: YarnPolicy::Correct }
    }
}

/// A tensor under its GGUF name.
#[derive(Debug, Clone)]
pub struct NamedSource<'a> {
    /// Name in GGUF.
    pub name: &'a str,
    /// Dimensions in ggml's order.
    pub dims: &'a [u64],
    /// Where its values lie.
    pub source: Source<'a>,
}

/// A folder whose tensors are all there, of the right shapes.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// Which of the two layouts was taken.
    pub layout: Layout,
    /// What it is for.
    pub kind: Kind,
    /// The shape of the language model; of an EAGLE head, with the architecture of its model.
    pub hparams: Hparams,
    /// The shape of the vision tower, where there is one.
    pub projector: Option<Projector>,
    /// `config.json` or `params.json` as it stands; `hparams` and `projector` are read from it and checked.
    pub config: Map<String, Value>,
    shards: Vec<Shard>,
    text: Vec<Entry>,
    vision: Vec<Entry>,
    notes: Vec<String>,
    inputs: Vec<PathBuf>,
}

impl Checkpoint {
    /// Reads the folder `dir`.
    pub fn open(dir: &Path, reading: Reading) -> Result<Self, CheckpointError> {
        let files = layout::find(dir, reading.layout)?;
        let other = files.other;
        Self::of_files(dir, files, reading).map_err(|error| match other {
            Some(other) if reading.layout.is_none() => {
                CheckpointError::WithOther { error: Box::new(error), other: other.flag() }
            }
            _ => error,
        })
    }

    fn of_files(dir: &Path, mut files: Files, reading: Reading) -> Result<Self, CheckpointError> {
        let mut notes = std::mem::take(&mut files.notes);
        let config = json::read_object(&files.config, MAX_CONFIG)?;
        let shards = index::open(dir, &files)?;
        let mut inputs = inputs(dir, &files);
        let kind = kind(&shards, files.layout);
        let mut description = match files.layout {
            Layout::HuggingFace => config::describe(&files.config, &config)?,
            Layout::Native => params::describe(&files.config, &config, kind)?,
        };
        notes.append(&mut description.notes);
        notes.extend(correct_yarn(&mut description.hparams, files.layout, reading.yarn));
        if !reading.tower {
            description.projector = None;
        }
        if let (Some(projector), Layout::HuggingFace) = (&mut description.projector, files.layout) {
            inputs.extend(tower::read_normalisation(dir, projector)?);
        }
        let break_id = find_break(dir, &description, &mut notes, &mut inputs)?;
        let plan = collect(dir, files.layout, &description, break_id, &shards, reading.tower)?;
        let Plan { text, vision, notes: further } = plan;
        notes.extend(further);
        let Description { hparams, projector, .. } = description;
        let dir = dir.to_owned();
        let layout = files.layout;
        Ok(Self {
            dir,
            layout,
            kind,
            hparams,
            projector,
            config,
            shards,
            text,
            vision,
            notes,
            inputs,
        })
    }

    /// The language model's tensors (or the head's), in the order in which llama.cpp's converter writes them.
    pub fn text_tensors(&self) -> Vec<NamedSource<'_>> {
        self.named(&self.text)
    }

    /// The vision tower's and projector's tensors, in the order in which llama.cpp's converter writes them.
    pub fn vision_tensors(&self) -> Vec<NamedSource<'_>> {
        self.named(&self.vision)
    }

    /// The file that holds the tensor of this GGUF name.
    pub fn file_of(&self, name: &str) -> Option<PathBuf> {
        let entry = self.text.iter().chain(&self.vision).find(|entry| entry.name == name)?;
        Some(self.dir.join(&self.shards[entry.shard].name))
    }

    /// What a person should know: which layout was taken, what was corrected.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every file that was read.
    pub fn inputs(&self) -> &[PathBuf] {
        &self.inputs
    }

    fn named<'a>(&'a self, entries: &'a [Entry]) -> Vec<NamedSource<'a>> {
        let named = |entry: &'a Entry| NamedSource {
            name: &entry.name,
            dims: &entry.dims,
            source: Source {
                file: entry.own.as_ref().unwrap_or(&self.shards[entry.shard].bytes),
                range: entry.range.clone(),
                encoding: entry.encoding.clone(),
                n_cols: entry.dims[0],
                n_rows: entry.dims[1..].iter().product(),
                order: entry.order,
            },
        };
        entries.iter().map(named).collect()
    }
}

fn inputs(dir: &Path, files: &Files) -> Vec<PathBuf> {
    let mut inputs = vec![files.config.clone()];
    inputs.extend(files.index.as_ref().map(|(path, _)| path.clone()));
    inputs.extend(files.shards.iter().map(|name| dir.join(name)));
    inputs
}

fn kind(shards: &[Shard], layout: Layout) -> Kind {
    let is_head = |shard: &Shard| shard.tensors.iter().any(|tensor| tensor.name == EAGLE_LINEAR);
    match layout == Layout::Native && shards.iter().any(is_head) {
        true => Kind::Eagle,
        false => Kind::Model,
    }
}

/// Corrects the magnitude that the first configurations of Medium 3.5 state wrongly, and says so.
pub(super) fn correct_yarn(
    hparams: &mut Hparams,
    layout: Layout,
    policy: YarnPolicy,
) -> Option<String> {
    if !MEDIUM_3_5.shares_wrong_yarn(hparams) {
        return None;
    }
    let RopeScaling::Yarn { log_multiplier, .. } = &mut hparams.rope.scaling else { return None };
    let stated = match layout {
        Layout::HuggingFace => format!("mscale_all_dim {log_multiplier} where it is 0"),
        Layout::Native => "apply_scale false where it is true".to_owned(),
    };
    let outcome = match policy {
        YarnPolicy::Correct => {
            *log_multiplier = 0.0;
            "corrected (--yarn-as-is keeps it)"
        }
        YarnPolicy::AsIs => "kept as it is",
    };
    Some(format!(
        "wrong YaRN magnitude, {outcome}: positions are those of {}, whose first published \
         configuration stated {stated}",
        MEDIUM_3_5.name
    ))
}

/// The row of the embedding that ends a row of a picture.
fn find_break(
    dir: &Path,
    description: &Description,
    notes: &mut Vec<String>,
    inputs: &mut Vec<PathBuf>,
) -> Result<Option<u32>, CheckpointError> {
    if description.projector.is_none() || description.break_id.is_some() {
        return Ok(description.break_id);
    }
    let Some((id, file)) = img_break::find(dir)? else {
        let problem = "no [IMG_BREAK] token is described, so the vision tower's file will lack its \
                       embedding; engines take the model's own";
        notes.push(problem.to_owned());
        return Ok(None);
    };
    let n_vocab = description.hparams.n_vocab;
    if id >= n_vocab {
        let problem = format!("the token [IMG_BREAK] has id {id}; expected one below {n_vocab}");
        return Err(CheckpointError::File { file, problem });
    }
    inputs.push(file);
    Ok(Some(id))
}
