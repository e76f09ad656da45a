//! From a checkpoint and a recipe to the files that are to be written.
//!
//! Types, order and keys are what llama.cpp's two programs give together: its converter's where that writes
//! the type itself, else those of the quantizer that runs after it on F32.

use std::path::{Path, PathBuf};

use regex::Regex;

use super::about::About;
use super::checkpoint::{Checkpoint, Kind, NamedSource};
use super::metadata::{inner_vision_metadata, text_metadata, vision_metadata};
use crate::export::{Encoding, OutputFile, PlannedTensor};
use crate::gguf::{TensorType, Value};
use crate::model::{Facts, Mix, Projector};
use crate::quantize::{
    Candidate, Choice, Imatrix, Recipe, RecipeError, about_imatrix, by_layer, is_float,
};

/// Where a checkpoint goes.
#[derive(Debug, Clone)]
pub enum Places {
    /// The language model alone.
    Text(PathBuf),
    /// Everything in one file.
    Together(PathBuf),
    /// The language model, and the vision tower if there is one.
    Apart(PathBuf, PathBuf),
}

impl Places {
    /// Where the language model goes.
    pub fn text(&self) -> &Path {
        match self {
            Self::Text(path) | Self::Together(path) | Self::Apart(path, _) => path,
        }
    }
}

/// The files, and what is to be told about them.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The files to be written, the language model's first.
    pub files: Vec<OutputFile<'a>>,
    /// The choice for each tensor of each file.
    pub choices: Vec<Vec<Choice>>,
    /// Matrices that the importance matrix does not know.
    pub missing: Vec<String>,
}

/// Tensors with their types.
struct Typed<'a> {
    tensors: Vec<PlannedTensor<'a>>,
    choices: Vec<Choice>,
    missing: Vec<String>,
}

/// Plans the files of `checkpoint`. The vision tower gets `vision_mix`, without an importance matrix.
pub fn plan<'a>(
    checkpoint: &'a Checkpoint,
    about: &About,
    places: &Places,
    recipe: &Recipe,
    vision_mix: &'static Mix,
    imatrix: Option<&'a Imatrix>,
) -> Result<Plan<'a>, RecipeError> {
    let with_tower = checkpoint.projector.is_some() && !matches!(places, Places::Text(_));
    let vision_tensors = if with_tower { checkpoint.vision_tensors() } else { Vec::new() };
    let (recipe, vision_recipe) =
        &apart(recipe, vision_mix, &checkpoint.text_tensors(), &vision_tensors);
    let text = typed(checkpoint.text_tensors(), recipe, &facts(checkpoint, imatrix), imatrix)?;
    let mut metadata = text_metadata(checkpoint, about, recipe.mix.file_type);
    let mut plan = Plan { files: Vec::new(), choices: vec![text.choices], missing: text.missing };
    let mut tensors = text.tensors;
    if let Some(projector) = &checkpoint.projector
        && !matches!(places, Places::Text(_))
    {
        let vision = typed(vision_tensors, vision_recipe, &NO_MODEL, None)?;
        match places {
            Places::Text(_) | Places::Together(_) => {
                metadata.extend(inner_vision_metadata(checkpoint, projector));
                tensors.extend(vision.tensors);
                plan.choices[0].extend(vision.choices);
            }
            Places::Apart(_, path) => {
                plan.files.push(vision_file(
                    checkpoint,
                    projector,
                    about,
                    path,
                    vision_mix,
                    vision.tensors,
                ));
                plan.choices.push(vision.choices);
            }
        }
    }
    let metadata = as_quantized(metadata, recipe.mix, imatrix);
    plan.files.insert(0, OutputFile { path: places.text().to_owned(), metadata, tensors });
    Ok(plan)
}

/// The recipes of the language model and of the vision tower. An override that names tensors of the language
/// model is meant for it, although the tower's `v.blk.0.attn_v` matches `attn_v` too; the tower has those
/// that name its tensors only. One that names none anywhere is refused with the language model's.
fn apart(
    recipe: &Recipe,
    vision_mix: &'static Mix,
    text: &[NamedSource<'_>],
    vision: &[NamedSource<'_>],
) -> (Recipe, Recipe) {
    let names = |tensors: &[NamedSource<'_>], regex: &Regex| {
        tensors.iter().any(|tensor| regex.is_match(tensor.name))
    };
    let (mut ours, mut towers) = (Vec::new(), Vec::new());
    for (regex, ty) in &recipe.overrides {
        let is_towers = names(vision, regex) && !names(text, regex);
        let overrides = if is_towers { &mut towers } else { &mut ours };
        overrides.push((regex.clone(), *ty));
    }
    let recipe = Recipe { overrides: ours, ..recipe.clone() };
    (recipe, Recipe { overrides: towers, ..Recipe::of(vision_mix) })
}

fn vision_file<'a>(
    checkpoint: &'a Checkpoint,
    projector: &Projector,
    about: &About,
    path: &Path,
    mix: &Mix,
    tensors: Vec<PlannedTensor<'a>>,
) -> OutputFile<'a> {
    let metadata = vision_metadata(checkpoint, projector, about, mix.file_type);
    OutputFile { path: path.to_owned(), metadata: as_quantized(metadata, mix, None), tensors }
}

/// The type in which most weights of the checkpoint are written.
pub fn main_encoding(checkpoint: &Checkpoint) -> &'static str {
    let mut sizes: Vec<(&str, u64)> = Vec::new();
    for tensor in checkpoint.text_tensors() {
        let name = match tensor.source.encoding {
            Encoding::F8E4m3(_) => "FP8",
            Encoding::Ggml(TensorType::BF16) => "BF16",
            Encoding::Ggml(TensorType::F16) => "F16",
            Encoding::Ggml(ty) => ty.name(),
        };
        let n: u64 = tensor.dims.iter().product();
        match sizes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, size)) => *size += n,
            None => sizes.push((name, n)),
        }
    }
    sizes.iter().max_by_key(|(_, size)| *size).map_or("no", |(name, _)| name)
}

/// What choices depend on where no language model is concerned.
const NO_MODEL: Facts =
    Facts { arch: None, n_layer: 0, n_head: 1, n_head_kv: 1, has_imatrix: false };

fn facts(checkpoint: &Checkpoint, imatrix: Option<&Imatrix>) -> Facts {
    let facts = Facts::of(&checkpoint.hparams, imatrix.is_some());
    match checkpoint.kind {
        Kind::Model => facts,
        Kind::Eagle => Facts { arch: None, ..facts },
    }
}

/// Whether llama.cpp's converter writes files of this mix itself, in its own order.
fn is_direct(mix: &Mix) -> bool {
    is_float(mix.base) || mix.name == "Q8_0"
}

fn typed<'a>(
    mut tensors: Vec<NamedSource<'a>>,
    recipe: &Recipe,
    facts: &Facts,
    imatrix: Option<&'a Imatrix>,
) -> Result<Typed<'a>, RecipeError> {
    if !is_direct(recipe.mix) {
        tensors.sort_by(|a, b| by_layer(a.name, b.name));
    }
    let candidates: Vec<Candidate<'_>> = (tensors.iter())
        .map(|tensor| Candidate {
            name: tensor.name,
            dims: tensor.dims,
            ty: unquantized(tensor.name, recipe.mix),
        })
        .collect();
    let choices = recipe.choose(&candidates, facts)?;
    let importances = recipe.importances(&candidates, &choices, imatrix)?;
    let planned = tensors.into_iter().zip(&choices).zip(importances.columns);
    let planned = planned.map(|((tensor, choice), importance)| PlannedTensor {
        name: tensor.name.to_owned(),
        ty: choice.ty,
        dims: tensor.dims.to_vec(),
        source: tensor.source,
        importance,
    });
    Ok(Typed { tensors: planned.collect(), missing: importances.missing, choices })
}

/// The type of a tensor that is not quantized.
fn unquantized(name: &str, mix: &Mix) -> TensorType {
    // The pictures' way in is never quantized; llama.cpp's converter has it in F16 in a file of F16.
    let is_way_in = name.contains(".patch_embd.weight") || name.contains(".patch_merger.weight");
    match mix.base {
        TensorType::F16 if is_way_in => TensorType::F16,
        _ => TensorType::F32,
    }
}

/// The keys as the quantizer leaves them: those about the types last.
fn as_quantized(
    mut metadata: Vec<(String, Value)>,
    mix: &Mix,
    imatrix: Option<&Imatrix>,
) -> Vec<(String, Value)> {
    if !is_direct(mix) {
        for key in ["general.quantization_version", "general.file_type"] {
            if let Some(at) = metadata.iter().position(|(known, _)| known == key) {
                let moved = metadata.remove(at);
                metadata.push(moved);
            }
        }
    }
    let about = imatrix.map(about_imatrix).unwrap_or_default();
    metadata.extend(about.into_iter().map(|(key, value)| (key.to_owned(), value)));
    metadata
}
