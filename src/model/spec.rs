//! Facts: the architectures that can run, and the tensors that a model of given [`Hparams`] must
//! consist of.
//!
//! The tensor table is checked here once, so that the graph takes tensors by name without looking
//! at shapes again.

use std::collections::HashSet;

use super::error::{ModelError, quoted};
use super::hparams::Hparams;
use super::parts::check_parts;
use super::projector::Projector;
use crate::gguf::{Gguf, Label, TensorInfo, TensorType, Warning, shape};

/// A layout of keys and tensors that this program can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Ministral 3, Devstral 2, Mistral Medium 3.5.
    Mistral3,
    /// Older Mistral models: the same graph, without YaRN.
    Llama,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: &[Self] = &[Self::Mistral3, Self::Llama];

    /// The value of `general.architecture`, and the prefix of the model's keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mistral3 => "mistral3",
            Self::Llama => "llama",
        }
    }

    /// The architecture of the model in `gguf`, or why it cannot be run as one.
    pub fn of(gguf: &Gguf) -> Result<Self, ModelError> {
        let metadata = gguf.metadata();
        let refuse =
            |problem: String| Err(ModelError::Kind { label: gguf.label().clone(), problem });
        let Some(name) = metadata.str("general.architecture")? else {
            let keys = vec!["general.architecture".to_owned()];
            return Err(ModelError::MissingKeys { label: gguf.label().clone(), keys });
        };
        match metadata.str("general.type")? {
            _ if name == "clip" => {
                return refuse(
                    "architecture 'clip' is an image projector: pass it with --mmproj".to_owned(),
                );
            }
            Some("adapter") => {
                return refuse("this is a LoRA adapter; expected a whole model".to_owned());
            }
            _ => {}
        }
        if gguf.tensors().is_empty() {
            return refuse("no tensors, only a vocabulary; expected a whole model".to_owned());
        }
        let known = Self::ALL.iter().copied().find(|arch| arch.name() == name);
        known.map_or_else(
            || {
                let names: Vec<_> = Self::ALL.iter().map(|arch| arch.name()).collect();
                let (found, names) = (quoted(name), names.join(" or "));
                refuse(format!("unsupported architecture; expected {names}, found {found}"))
            },
            Ok,
        )
    }
}

/// Which element types a tensor may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeClass {
    /// A matrix: every type that can be multiplied.
    Weight,
    /// A vector or scalar that enters the graph unconverted: F32 only.
    F32,
}

impl TypeClass {
    fn accepts(self, ty: TensorType) -> bool {
        match self {
            Self::Weight => ty.is_weight_type(),
            Self::F32 => ty == TensorType::F32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Weight => "a float or quantized type",
            Self::F32 => "f32",
        }
    }
}

/// A tensor that a model has or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Name in the file.
    pub name: String,
    /// Dimensions in ggml's order: for a matrix [inputs, outputs].
    pub dims: Vec<u64>,
    /// Types it may have.
    pub class: TypeClass,
    /// Whether the model is incomplete without it.
    pub required: bool,
}

/// Every tensor that a model of this shape has or may have, in the order of the graph.
///
/// Without `output.weight` the head is tied to `token_embd.weight`. The `.scale` and `.input_scale`
/// scalars accompany NVFP4 matrices.
pub fn expected_tensors(hparams: &Hparams) -> Vec<ExpectedTensor> {
    let (n_embd, n_ff, n_vocab) =
        (hparams.n_embd.into(), hparams.n_ff.into(), hparams.n_vocab.into());
    let n_head = u64::from(hparams.n_head);
    let n_q = n_head * u64::from(hparams.n_embd_head_k);
    let n_attn = n_head * u64::from(hparams.n_embd_head_v);

    let mut table = Table::default();
    table.matrix("token_embd", [n_embd, n_vocab], true);
    table.vector("rope_freqs.weight", u64::from(hparams.rope.n_rot / 2), false);
    for layer in 0..hparams.n_layer {
        let blk = |name: &str| format!("blk.{layer}.{name}");
        table.vector(&blk("attn_norm.weight"), n_embd, true);
        table.matrix(&blk("attn_q"), [n_embd, n_q], true);
        table.matrix(&blk("attn_k"), [n_embd, hparams.n_embd_k()], true);
        table.matrix(&blk("attn_v"), [n_embd, hparams.n_embd_v()], true);
        table.matrix(&blk("attn_output"), [n_attn, n_embd], true);
        table.vector(&blk("ffn_norm.weight"), n_embd, true);
        table.matrix(&blk("ffn_gate"), [n_embd, n_ff], true);
        table.matrix(&blk("ffn_up"), [n_embd, n_ff], true);
        table.matrix(&blk("ffn_down"), [n_ff, n_embd], true);
    }
    table.vector("output_norm.weight", n_embd, true);
    table.matrix("output", [n_embd, n_vocab], false);
    table.0
}

#[derive(Default)]
pub(super) struct Table(pub(super) Vec<ExpectedTensor>);

impl Table {
    pub(super) fn push(&mut self, name: String, dims: Vec<u64>, class: TypeClass, required: bool) {
        self.0.push(ExpectedTensor { name, dims, class, required });
    }

    pub(super) fn vector(&mut self, name: &str, n: u64, required: bool) {
        self.push(name.to_owned(), vec![n], TypeClass::F32, required);
    }

    /// A matrix with what may accompany it: a bias in the layers, and the scalars of NVFP4.
    fn matrix(&mut self, name: &str, dims: [u64; 2], required: bool) {
        self.push(format!("{name}.weight"), dims.to_vec(), TypeClass::Weight, required);
        if name.starts_with("blk.") {
            self.vector(&format!("{name}.bias"), dims[1], false);
        }
        if name != "token_embd" {
            self.vector(&format!("{name}.scale"), 1, false);
            self.vector(&format!("{name}.input_scale"), 1, false);
        }
    }
}

/// Compares the tensors of `gguf` with the table; all mismatches are reported together.
pub fn check_tensors(gguf: &Gguf, hparams: &Hparams) -> Result<Vec<Warning>, ModelError> {
    check_parts(gguf)?;
    let expected = expected_tensors(hparams);
    let mut faults: Vec<String> =
        expected.iter().filter_map(|expected| fault(gguf, expected)).collect();
    let names: HashSet<&str> = expected.iter().map(|expected| expected.name.as_str()).collect();
    let mut n_vision = 0;
    for tensor in gguf.tensors().iter().filter(|tensor| !names.contains(tensor.name.as_str())) {
        if is_vision(&tensor.name) {
            n_vision += 1;
        } else {
            faults.push(format!("{}: unexpected tensor", place(gguf, tensor)));
        }
    }
    if !faults.is_empty() {
        return Err(ModelError::Tensors { label: gguf.label().clone(), faults });
    }
    let text = format!("{}: {n_vision} vision tensors are not used; pass --mmproj", gguf.label());
    // Without the projector's keys no one knows how the tensors go together; Ollama names them otherwise.
    let is_unused = n_vision > 0 && !Projector::is_inside(gguf);
    Ok(if is_unused { vec![Warning(text)] } else { Vec::new() })
}

/// Whether a tensor in a model's file belongs to an image projector.
pub(super) fn is_vision(name: &str) -> bool {
    name.starts_with("v.") || name.starts_with("mm.")
}

pub(super) fn place(gguf: &Gguf, tensor: &TensorInfo) -> String {
    let name = quoted(&tensor.name);
    match gguf.parts()[tensor.part].label() {
        Label { part: Some((k, n)), .. } => format!("tensor {name} (part {k}/{n})"),
        Label { part: None, .. } => format!("tensor {name}"),
    }
}

/// What is wrong with the tensor that should be `expected`.
pub(super) fn fault(gguf: &Gguf, expected: &ExpectedTensor) -> Option<String> {
    let Some(tensor) = gguf.tensor(&expected.name) else {
        let shape = shape(&expected.dims);
        let missing = || format!("tensor {}: missing; expected {shape}", quoted(&expected.name));
        return expected.required.then(missing);
    };
    let place = place(gguf, tensor);
    // Writers may pad the rank with ones.
    let found = tensor
        .dims
        .iter()
        .rposition(|&dim| dim != 1)
        .map_or(&tensor.dims[..1], |last| &tensor.dims[..=last]);
    let wanted = &expected.dims[..];
    if found != wanted {
        let (wanted, found) = (shape(wanted), tensor.shape());
        return Some(format!("{place}: wrong shape; expected {wanted}, found {found}"));
    }
    if !expected.class.accepts(tensor.ty) {
        let (wanted, found) = (expected.class.name(), tensor.ty);
        return Some(format!("{place}: wrong type; expected {wanted}, found {found}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::medium_3_5;

    #[test]
    fn medium_3_5_has_795_tensors_and_125_billion_weights() {
        let expected = expected_tensors(&medium_3_5());
        let weights =
            expected.iter().filter(|tensor| tensor.required || tensor.name == "output.weight");
        assert_eq!(weights.clone().count(), 795);
        let n: u64 = weights.map(|tensor| tensor.dims.iter().product::<u64>()).sum();
        assert_eq!(n, 125_025_988_608);
    }
}
