//! [`Recipe`]: a mix, with what the user changes about it, applied to the tensors of a model.
//!
//! The rules around the mix are llama.cpp's: which tensors stay as they are, which flag wins over which,
//! what must not be quantized blindly. So is the order in which matrices are counted: by layer, leaving
//! out those whose type the user names. `plan.rs` brings the tensors of a GGUF here, `convert` those of a
//! checkpoint.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

use super::imatrix::{Imatrix, ImatrixError};
use crate::ggml::{DType, needs_importance};
use crate::gguf::{TensorType, escape};
use crate::model::{Facts, Mix, Part, fitting};

/// Tensors that one message lists.
const MAX_LISTED: usize = 20;
/// What a compiled pattern may take, in bytes: it matches names of at most 63.
const MAX_REGEX: usize = 1 << 20;

/// Which type each tensor gets.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The table to start from.
    pub mix: &'static Mix,
    /// Types for the tensors whose name matches; the first match counts.
    pub overrides: Vec<(Regex, TensorType)>,
    /// The type of `output.weight`, before all overrides.
    pub output_type: Option<TensorType>,
    /// The type of `token_embd.weight`, before all overrides.
    pub embed_type: Option<TensorType>,
    /// The mix's main type for all, without its exceptions.
    pub pure: bool,
}

/// A tensor that may be quantized.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Name in the output.
    pub name: &'a str,
    /// Dimensions in ggml's order.
    pub dims: &'a [u64],
    /// Its type where nothing is quantized.
    pub ty: TensorType,
}

/// The type of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What it gets.
    pub ty: TensorType,
    /// What it should have got, if its rows were a multiple of that type's blocks.
    pub fallback_from: Option<TensorType>,
}

/// Why tensors cannot get their types.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum RecipeError {
    #[error("--tensor-type '{pattern}': no tensor has a name that matches")]
    Unmatched { pattern: String },
    #[error("--tensor-type '{pattern}': only tensors that are never quantized match:{}", listed(.names))]
    Unquantizable { pattern: String, names: Vec<String> },
    #[error(
        "an importance matrix is needed for the types of {} tensors; give one with --imatrix, or choose \
         types for these:{}", .tensors.len(), listed(.tensors)
    )]
    NeedsImatrix { tensors: Vec<String> },
    #[error(
        "{file}: no entry for {} tensors whose types need an importance matrix; choose other types for \
         these:{}", .tensors.len(), listed(.tensors)
    )]
    NotInImatrix { file: String, tensors: Vec<String> },
    #[error("{file}: no entry for any tensor to be quantized: it was made from another model")]
    ForeignImatrix { file: String },
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
}

/// One indented line per tensor, the first ones only.
pub(super) fn listed(tensors: &[String]) -> String {
    let mut text: String =
        tensors.iter().take(MAX_LISTED).map(|tensor| format!("\n  {tensor}")).collect();
    if tensors.len() > MAX_LISTED {
        text += &format!("\n  and {} more", tensors.len() - MAX_LISTED);
    }
    text
}

/// Importance of the columns of each tensor, and what has none.
#[derive(Debug)]
pub struct Importances<'a> {
    /// For each candidate; `None` also where its type does not change.
    pub columns: Vec<Option<&'a [f32]>>,
    /// Names of matrices that an importance matrix should know and does not.
    pub missing: Vec<String>,
}

/// Tensors in llama.cpp's order: what belongs to no layer, then layer by layer, by name in each.
pub fn by_layer(a: &str, b: &str) -> Ordering {
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

/// The layer in a tensor's name; `None` comes first.
fn layer(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("blk.")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// A pattern for names of tensors: found anywhere in the name, in any letter case.
pub fn name_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).case_insensitive(true).size_limit(MAX_REGEX).build()
}

/// Whether a tensor has another than its own type in a quantized file.
fn is_quantizable(tensor: &Candidate<'_>) -> bool {
    // Too sensitive for the little they take.
    const KEPT: &[&str] = &[
        "_norm.weight",
        "ffn_gate_inp.weight",
        "position_embd",
        "token_types.weight",
        ".patch_embd",
        ".patch_merger",
    ];
    n_dims(tensor.dims) >= 2
        && tensor.name.ends_with("weight")
        && !KEPT.iter().any(|kept| tensor.name.contains(kept))
        && tensor.ty.is_weight_type()
}

/// Dimensions without trailing ones, as ggml counts them.
pub(super) fn n_dims(dims: &[u64]) -> usize {
    dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1)
}

/// Whether the tensor belongs to the picture part of a file that holds the text part as well.
fn is_vision(name: &str) -> bool {
    name.starts_with("v.") || name.starts_with("mm.")
}

/// Whether numbers of this type are rounded one by one.
pub fn is_float(ty: TensorType) -> bool {
    use TensorType as T;
    matches!(ty, T::F64 | T::F32 | T::F16 | T::BF16 | T::F8_E4M3)
}

impl Recipe {
    /// A mix as it is.
    pub fn of(mix: &'static Mix) -> Self {
        Self { mix, overrides: Vec::new(), output_type: None, embed_type: None, pure: false }
    }

    /// The type of each of `tensors`, which are all tensors of one file, in any order.
    pub fn choose(
        &self,
        tensors: &[Candidate<'_>],
        facts: &Facts,
    ) -> Result<Vec<Choice>, RecipeError> {
        self.check_overrides(tensors)?;
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|&a, &b| by_layer(tensors[a].name, tensors[b].name));
        let mut counts = Counts::new(tensors, facts);
        let mut choices: Vec<Choice> =
            tensors.iter().map(|tensor| Choice { ty: tensor.ty, fallback_from: None }).collect();
        for idx in order {
            let tensor = &tensors[idx];
            let Some(wanted) = self.wanted(tensor, facts, &mut counts) else { continue };
            let ty = fitting(wanted, tensor.dims[0]);
            choices[idx] = Choice { ty, fallback_from: (ty != wanted).then_some(wanted) };
        }
        Ok(choices)
    }

    /// The type for one tensor, whatever its rows; `None` if it stays as it is.
    fn wanted(
        &self,
        tensor: &Candidate<'_>,
        facts: &Facts,
        counts: &mut Counts,
    ) -> Option<TensorType> {
        if !is_quantizable(tensor) {
            return None;
        }
        let mut part = Part::of(tensor.name);
        let named = match part {
            Part::Embedding => self.embed_type,
            Part::Output => self.output_type,
            _ => None,
        };
        let matching = || self.overrides.iter().find(|(name, _)| name.is_match(tensor.name));
        if let Some(ty) = named.or_else(|| matching().map(|(_, ty)| *ty)) {
            return Some(ty);
        }
        if facts.arch.is_some() && is_vision(tensor.name) {
            return None;
        }
        if self.pure || is_float(self.mix.base) {
            return Some(self.mix.base);
        }
        if part == Part::Embedding && counts.is_tied {
            if self.output_type.is_some() {
                return self.output_type;
            }
            part = Part::Output;
        }
        let (i, n) = counts.next(part);
        Some(self.mix.wanted(part, i, n, tensor.dims[0], facts))
    }

    fn check_overrides(&self, tensors: &[Candidate<'_>]) -> Result<(), RecipeError> {
        for (regex, _) in &self.overrides {
            // Shown as it was given, whose backslashes are its own.
            let pattern = || escape(regex.as_str().as_bytes()).replace(r"\\", r"\");
            let matching = || tensors.iter().filter(|tensor| regex.is_match(tensor.name));
            if matching().next().is_none() {
                return Err(RecipeError::Unmatched { pattern: pattern() });
            }
            if !matching().any(is_quantizable) {
                let names = matching().map(|tensor| escape(tensor.name.as_bytes())).collect();
                return Err(RecipeError::Unquantizable { pattern: pattern(), names });
            }
        }
        Ok(())
    }

    /// What `imatrix` says about `tensors`, which are to have the types of `choices`.
    pub fn importances<'a>(
        &self,
        tensors: &[Candidate<'_>],
        choices: &[Choice],
        imatrix: Option<&'a Imatrix>,
    ) -> Result<Importances<'a>, RecipeError> {
        let mut all = Importances { columns: vec![None; tensors.len()], missing: Vec::new() };
        let mut blind = Vec::new();
        for (idx, (tensor, choice)) in tensors.iter().zip(choices).enumerate() {
            if choice.ty == tensor.ty || is_float(choice.ty) {
                continue;
            }
            if let Some(imatrix) = imatrix {
                let n_matrices = tensor.dims.get(2).copied().unwrap_or(1);
                let n_columns = tensor.dims[0] * n_matrices;
                all.columns[idx] = imatrix.importance(tensor.name, n_columns)?;
            }
            if all.columns[idx].is_some() {
                continue;
            }
            let name = escape(tensor.name.as_bytes());
            if !matches!(Part::of(tensor.name), Part::Embedding | Part::Output) {
                all.missing.push(name.clone());
            }
            if self.needs_imatrix(tensor.name, choice.ty) {
                blind.push(format!("{name} ({})", choice.ty));
            }
        }
        let file = imatrix.map(|imatrix| escape(imatrix.file.as_bytes()));
        let has_any = all.columns.iter().any(Option::is_some);
        match file {
            Some(file) if !has_any && !all.missing.is_empty() => {
                Err(RecipeError::ForeignImatrix { file })
            }
            Some(file) if !blind.is_empty() => {
                Err(RecipeError::NotInImatrix { file, tensors: blind })
            }
            None if !blind.is_empty() => Err(RecipeError::NeedsImatrix { tensors: blind }),
            None => Ok(Importances { missing: Vec::new(), ..all }),
            Some(_) => Ok(all),
        }
    }

    /// Whether the type would be chosen blindly without an importance matrix, to a useless result.
    fn needs_imatrix(&self, name: &str, ty: TensorType) -> bool {
        use TensorType as T;
        let dtype = DType::from_id(ty.ggml_id()).expect("types of files are ggml's");
        if needs_importance(dtype) {
            return true;
        }
        if matches!(Part::of(name), Part::Embedding | Part::Output) {
            return false;
        }
        matches!(ty, T::IQ1_M | T::IQ2_S | T::IQ3_XXS) || ty == T::Q2_K && self.mix.name == "Q2_K_S"
    }
}

/// How many matrices of each part have been seen, by layers.
struct Counts {
    is_tied: bool,
    n_layer: u32,
    n_v: u32,
    seen: [u32; 4],
}

impl Counts {
    fn new(tensors: &[Candidate<'_>], facts: &Facts) -> Self {
        let is_text = |name: &str| facts.arch.is_none() || !is_vision(name);
        let n_v = tensors.iter().filter(|t| Part::of(t.name) == Part::V && is_text(t.name)).count();
        let is_tied = !tensors.iter().any(|tensor| Part::of(tensor.name) == Part::Output);
        Self { is_tied, n_layer: facts.n_layer, n_v: n_v as u32, seen: [0; 4] }
    }

    /// Which matrix of its part this is, and how many there are.
    fn next(&mut self, part: Part) -> (u32, u32) {
        let (slot, n) = match part {
            Part::V => (0, self.n_v),
            Part::Down => (1, self.n_layer),
            Part::Gate => (2, self.n_layer),
            Part::Up => (3, self.n_layer),
            _ => return (0, self.n_layer),
        };
        self.seen[slot] += 1;
        (self.seen[slot] - 1, n)
    }
}

#[cfg(test)]
mod tests;
