//! A checkpoint: its shape, its tensors under GGUF's names, and where their values lie.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::layout::Layout;
use crate::export::Source;
use crate::model::{Hparams, Projector};

/// What a checkpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole language model, perhaps with a vision tower.
    Model,
    /// A draft head of the EAGLE kind, which shares embedding and output with the model it drafts for.
    Eagle,
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
    notes: Vec<String>,
    inputs: Vec<PathBuf>,
}

impl Checkpoint {
    /// Reads the folder `dir`; without `layout`, whichever of the two is there.
    pub fn open(dir: &Path, layout: Option<Layout>) -> Result<Self, CheckpointError> {
        let problem = format!("not a checkpoint of layout {layout:?}");
        Err(CheckpointError::Folder { folder: dir.to_owned(), problem })
    }

    /// The language model's tensors (or the head's), in the order in which llama.cpp's converter writes them.
    pub fn text_tensors(&self) -> Vec<NamedSource<'_>> {
        Vec::new()
    }

    /// The vision tower's and projector's tensors, in the order in which llama.cpp's converter writes them.
    pub fn vision_tensors(&self) -> Vec<NamedSource<'_>> {
        Vec::new()
    }

    /// What a person should know: which layout was taken, what was corrected.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every file that was read.
    pub fn inputs(&self) -> &[PathBuf] {
        &self.inputs
    }
}
