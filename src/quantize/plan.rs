//! From a GGUF and a recipe to the file that is to be written, byte for byte what llama.cpp writes.
//!
//! Keys keep their order, but for those that say how the file was quantized, which move to the end; what
//! tells parts of a split model apart is dropped. Tensors are ordered as `recipe::by_layer` says. Files
//! of language models, of the EAGLE head and of picture towers are planned; the picture part of a file
//! that holds both stays as it is, unless a pattern names it.

use std::path::PathBuf;

use super::imatrix::Imatrix;
use super::recipe::{Candidate, Choice, Recipe, RecipeError, by_layer, is_float, listed, n_dims};
use crate::export::{OutputFile, PlannedTensor, Source};
use crate::gguf::{Gguf, Label, TensorInfo, TensorType, Value, escape};
use crate::model::{Architecture, Facts, Hparams, ModelError, Projector, YarnPolicy};

/// GGUF's number for how ggml's blocks are written at present.
const QUANTIZATION_VERSION: u32 = 2;
/// Longest text that llama.cpp writes about an importance matrix, in bytes.
const MAX_TEXT: usize = 127;
/// Keys that only parts of a split model have, and the one that this program's own alignment replaces.
const DROPPED: &[&str] = &["split.no", "split.count", "split.tensors.count", "general.alignment"];
/// Most layers, far above every model.
const MAX_LAYERS: u32 = 512;

/// What is to be written.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The file.
    pub file: OutputFile<'a>,
    /// The choice for each of its tensors.
    pub choices: Vec<Choice>,
    /// Matrices that the importance matrix does not know.
    pub missing: Vec<String>,
}

/// Why a file cannot be quantized.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum QuantizeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(
        "{label}: unsupported architecture; expected mistral3, llama, eagle or clip, found '{}'",
        escape(.found.as_bytes())
    )]
    Architecture { label: Label, found: String },
    #[error(
        "{label}: keys eagle.block_count and eagle.attention.head_count are missing or too large"
    )]
    Eagle { label: Label },
    #[error(
        "{label}: {} tensors are quantized already, and would lose more than from the original: quantize \
         that, or give --allow-requantize:{}", .tensors.len(), listed(.tensors)
    )]
    Requantize { label: Label, tensors: Vec<String> },
}

/// Plans the file at `path`, made from `gguf`.
pub fn plan<'a>(
    gguf: &'a Gguf,
    path: PathBuf,
    recipe: &Recipe,
    imatrix: Option<&'a Imatrix>,
    allow_requantize: bool,
) -> Result<Plan<'a>, QuantizeError> {
    let facts = facts(gguf, imatrix.is_some())?;
    let mut tensors: Vec<&TensorInfo> = gguf.tensors().iter().collect();
    // The picture part of a file that holds both stays behind the text, in its own order.
    let holds_both = facts.arch.is_some() && Projector::is_inside(gguf);
    let is_vision = |name: &str| holds_both && ["v.", "mm."].iter().any(|p| name.starts_with(p));
    tensors.sort_by(|a, b| match (is_vision(&a.name), is_vision(&b.name)) {
        (false, false) => by_layer(&a.name, &b.name),
        (a, b) => a.cmp(&b),
    });
    let candidates: Vec<Candidate<'_>> = tensors
        .iter()
        .map(|tensor| Candidate { name: &tensor.name, dims: &tensor.dims, ty: tensor.ty })
        .collect();
    let choices = recipe.choose(&candidates, &facts)?;
    if !allow_requantize {
        check_requantized(gguf, &candidates, &choices)?;
    }
    let importances = recipe.importances(&candidates, &choices, imatrix)?;
    let planned = tensors.iter().zip(&choices).zip(importances.columns);
    let planned = planned.map(|((tensor, choice), importance)| PlannedTensor {
        name: tensor.name.clone(),
        ty: choice.ty,
        dims: tensor.dims[..n_dims(&tensor.dims)].to_vec(),
        source: Source::of(gguf, tensor),
        importance,
    });
    let metadata = metadata(gguf, recipe.mix.file_type, imatrix);
    let file = OutputFile { path, metadata, tensors: planned.collect() };
    Ok(Plan { file, choices, missing: importances.missing })
}

/// What the recipe has to know about the model in `gguf`.
pub fn facts(gguf: &Gguf, has_imatrix: bool) -> Result<Facts, QuantizeError> {
    let metadata = gguf.metadata();
    let arch = metadata.str("general.architecture").map_err(ModelError::from)?.unwrap_or_default();
    let other = Facts { arch: None, n_layer: 0, n_head: 1, n_head_kv: 1, has_imatrix };
    match arch {
        // llama.cpp knows no layers of a picture tower either.
        "clip" => Ok(other),
        "eagle" => {
            let count = |key: &str| metadata.u32(&format!("eagle.{key}")).map_err(ModelError::from);
            let (n_layer, n_head) = (count("block_count")?, count("attention.head_count")?);
            let n_head_kv = count("attention.head_count_kv")?.or(n_head);
            match (n_layer, n_head, n_head_kv) {
                (Some(n_layer @ 0..=MAX_LAYERS), Some(n_head), Some(n_head_kv)) => {
                    Ok(Facts { n_layer, n_head, n_head_kv, ..other })
                }
                _ => Err(QuantizeError::Eagle { label: gguf.label().clone() }),
            }
        }
        _ if Architecture::ALL.iter().all(|known| known.name() != arch) => {
            let (label, found) = (gguf.label().clone(), arch.to_owned());
            Err(QuantizeError::Architecture { label, found })
        }
        _ => Ok(Facts::of(&Hparams::from_gguf(gguf, YarnPolicy::AsIs)?.0, has_imatrix)),
    }
}

fn check_requantized(
    gguf: &Gguf,
    tensors: &[Candidate<'_>],
    choices: &[Choice],
) -> Result<(), QuantizeError> {
    let again = |(tensor, choice): &(&Candidate<'_>, &Choice)| {
        tensor.ty != choice.ty && !is_float(tensor.ty)
    };
    let again: Vec<String> = tensors
        .iter()
        .zip(choices)
        .filter(again)
        .map(|(tensor, _)| format!("{} ({})", escape(tensor.name.as_bytes()), tensor.ty))
        .collect();
    match again.is_empty() {
        true => Ok(()),
        false => Err(QuantizeError::Requantize { label: gguf.label().clone(), tensors: again }),
    }
}

/// Keys of the quantized file.
fn metadata(gguf: &Gguf, file_type: u32, imatrix: Option<&Imatrix>) -> Vec<(String, Value)> {
    let mut last = vec![
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("general.file_type", Value::U32(file_type)),
    ];
    last.extend(imatrix.into_iter().flat_map(about_imatrix));
    let is_kept = |key: &str| !DROPPED.contains(&key) && last.iter().all(|(set, _)| *set != key);
    let kept = gguf.metadata().iter().filter(|(key, _)| is_kept(key));
    let kept = kept.map(|(key, value)| (key.to_owned(), value.clone()));
    let mut all: Vec<(String, Value)> = kept.collect();
    all.extend(last.into_iter().map(|(key, value)| (key.to_owned(), value)));
    all
}

/// The keys that llama.cpp writes about an importance matrix.
pub fn about_imatrix(imatrix: &Imatrix) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text[..text.floor_char_boundary(MAX_TEXT)].to_owned());
    let mut keys = vec![("quantize.imatrix.file", text(&imatrix.file))];
    if let Some(dataset) = imatrix.datasets.first() {
        keys.push(("quantize.imatrix.dataset", text(dataset)));
    }
    keys.push(("quantize.imatrix.entries_count", Value::U32(imatrix.len() as u32)));
    if imatrix.n_chunks > 0 {
        keys.push(("quantize.imatrix.chunks_count", Value::U32(imatrix.n_chunks)));
    }
    keys
}

/// Tensors that get another type than their mix says, because their rows do not fill its blocks; one
/// line for each pair of types.
pub fn fallbacks<'a>(
    tensors: impl Iterator<Item = (&'a PlannedTensor<'a>, &'a Choice)>,
) -> Vec<String> {
    let mut kinds: Vec<(TensorType, TensorType, u64, Vec<String>)> = Vec::new();
    for (tensor, choice) in tensors {
        let Some(from) = choice.fallback_from else { continue };
        let (key, name) = ((from, choice.ty, tensor.dims[0]), escape(tensor.name.as_bytes()));
        match kinds.iter_mut().find(|kind| (kind.0, kind.1, kind.2) == key) {
            Some(kind) => kind.3.push(name),
            None => kinds.push((key.0, key.1, key.2, vec![name])),
        }
    }
    let line = |(from, to, n_cols, names): (TensorType, TensorType, u64, Vec<String>)| {
        let (n, first) = (names.len(), &names[0]);
        let block = from.block_size();
        let which = match n {
            1 => first.clone(),
            n => format!("{first} and {} more", n - 1),
        };
        format!("rows of {n_cols} do not fill {from}'s blocks of {block}: {to} instead for {which}")
    };
    kinds.into_iter().map(line).collect()
}

/// Tensors to be quantized by an importance that is 0 in all columns, as that of a matrix that met only
/// zeros: it tells no value from another.
pub fn unweighted(tensors: &[PlannedTensor<'_>]) -> Vec<String> {
    let is_zero = |weights: &[f32]| weights.iter().all(|&weight| weight == 0.0);
    let all = tensors.iter().filter(|tensor| tensor.importance.is_some_and(is_zero));
    all.map(|tensor| escape(tensor.name.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::HeaderBuilder;
    use crate::model::{Mix, builtin};
    use crate::quantize::imatrix::tests::flat;

    fn recipe(name: &str) -> Recipe {
        Recipe::of(Mix::from_name(name).unwrap())
    }

    fn try_plan(gguf: &Gguf, mix: &str, again: bool) -> Result<(), String> {
        let plan = plan(gguf, "out.gguf".into(), &recipe(mix), None, again);
        plan.map(|_| ()).map_err(|error| error.to_string())
    }

    fn model(arch: &str) -> Gguf {
        let mut header = HeaderBuilder::new();
        header.set("general.architecture", &Value::String(arch.to_owned()));
        header.set("split.count", &Value::U16(1));
        header.set("general.file_type", &Value::U32(1));
        header.set("general.name", &Value::String("x".to_owned()));
        header.tensor("v.blk.1.attn_q.weight", TensorType::F16, &[64, 32, 1]);
        header.tensor("mm.1.weight", TensorType::F16, &[40, 32]);
        let layout = header.finish();
        let mut bytes = layout.header;
        bytes.resize(layout.n_bytes as usize, 0);
        Gguf::from_bytes("x", bytes).unwrap()
    }

    #[test]
    fn keys_and_tensors_are_in_llama_cpps_order() {
        let (gguf, imatrix) = (model("clip"), flat(&[("v.blk.1.attn_q.weight", 64)]));
        let plan = plan(&gguf, "o".into(), &recipe("Q4_K_M"), Some(&imatrix), false).unwrap();
        let keys: Vec<&str> = plan.file.metadata.iter().map(|(key, _)| key.as_str()).collect();
        let expected = [
            "general.architecture",
            "general.name",
            "general.quantization_version",
            "general.file_type",
            "quantize.imatrix.file",
            "quantize.imatrix.entries_count",
        ];
        assert_eq!(keys, expected);
        assert_eq!(plan.file.metadata[3].1, Value::U32(15));
        let tensors: Vec<_> =
            plan.file.tensors.iter().map(|t| (t.name.as_str(), t.ty, t.dims.clone())).collect();
        let expected = [
            ("mm.1.weight", TensorType::F16, vec![40, 32]),
            ("v.blk.1.attn_q.weight", TensorType::Q5_0, vec![64, 32]),
        ];
        assert_eq!(tensors, expected);
        assert_eq!(plan.missing, Vec::<String>::new());
        let lines = fallbacks(plan.file.tensors.iter().zip(&plan.choices));
        assert_eq!(
            lines,
            [
                "rows of 40 do not fill q4_K's blocks of 256: f16 instead for mm.1.weight",
                "rows of 64 do not fill q4_K's blocks of 256: q5_0 instead for v.blk.1.attn_q.weight",
            ]
        );
    }

    #[test]
    fn an_importance_of_zeros_is_named() {
        let gguf = model("clip");
        let mut plan = plan(&gguf, "o".into(), &recipe("Q4_K_M"), None, false).unwrap();
        plan.file.tensors[0].importance = Some(&[0.0, 1.0]);
        plan.file.tensors[1].importance = Some(&[0.0, 0.0]);
        assert_eq!(unweighted(&plan.file.tensors), ["v.blk.1.attn_q.weight"]);
    }

    #[test]
    fn other_models_and_quantized_ones_are_refused() {
        let text = try_plan(&model("gemma3"), "Q8_0", false).unwrap_err();
        assert!(text.contains("expected mistral3, llama, eagle or clip, found 'gemma3'"), "{text}");
        assert!(
            try_plan(&model("eagle"), "Q8_0", false).unwrap_err().contains("eagle.block_count")
        );
        let gguf = builtin();
        let text = try_plan(&gguf, "Q4_0", false).unwrap_err();
        assert!(text.contains("give --allow-requantize:\n  output.weight (q8_0)"), "{text}");
        try_plan(&gguf, "Q4_0", true).unwrap();
        // Nothing changes its type, so nothing is lost.
        try_plan(&gguf, "Q8_0", false).unwrap();
    }
}
