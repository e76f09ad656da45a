//! Facts: the architectures that can run, the model this program is made for, and the tensors that
//! a model of given [`Hparams`] must consist of.
//!
//! The tensor table is checked here once, so that the graph takes tensors by name without looking
//! at shapes again.

use std::collections::HashSet;

use super::error::{ModelError, quoted};
use super::hparams::Hparams;
use super::parts::check_parts;
use super::projector::Projector;
use super::rope::{Rope, RopeScaling};
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

/// What is known of one published model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name for messages.
    pub name: &'static str,
    /// Layout.
    pub arch: Architecture,
    /// Number of layers.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// YaRN's factor.
    pub yarn_factor: f32,
    /// Context length before YaRN.
    pub n_ctx_orig: u32,
    /// Context length.
    pub n_ctx: u32,
    /// YaRN's fast beta, which is unlike that of all siblings.
    pub beta_fast: f32,
    /// The log multiplier in files made from the model's first, wrong config; the right one is 0.
    pub wrong_log_multiplier: f32,
}

/// Mistral Medium 3.5 128B, the model this program is made for.
pub const MEDIUM_3_5: ModelSpec = ModelSpec {
    name: "Mistral Medium 3.5",
    arch: Architecture::Mistral3,
    n_layer: 88,
    n_embd: 12_288,
    yarn_factor: 64.0,
    n_ctx_orig: 4096,
    n_ctx: 262_144,
    beta_fast: 4.0,
    wrong_log_multiplier: 1.0,
};

/// The shape of Medium 3.5 as its published files have it.
pub fn medium_3_5() -> Hparams {
    Hparams {
        arch: Architecture::Mistral3,
        n_layer: 88,
        n_embd: 12_288,
        n_ff: 28_672,
        n_head: 96,
        n_head_kv: 8,
        n_embd_head_k: 128,
        n_embd_head_v: 128,
        n_vocab: 131_072,
        n_ctx_train: 262_144,
        norm_eps: 1e-5,
        rope: Rope {
            n_rot: 128,
            freq_base: 1e6,
            scaling: RopeScaling::Yarn {
                factor: 64.0,
                n_ctx_orig: 4096,
                beta_fast: 4.0,
                beta_slow: 1.0,
                log_multiplier: 0.0,
            },
            magnitude: 1.0,
        },
        attn_temperature: None,
    }
}

impl ModelSpec {
    /// Whether a file of this shape holds this model.
    pub fn describes(&self, hparams: &Hparams) -> bool {
        hparams.arch == self.arch
            && (hparams.n_layer, hparams.n_embd) == (self.n_layer, self.n_embd)
            && matches!(hparams.rope.scaling, RopeScaling::Yarn { factor, n_ctx_orig, .. }
                if (factor, n_ctx_orig) == (self.yarn_factor, self.n_ctx_orig))
    }

    /// Whether positions are this model's, whatever the shape: fine-tunes, distilled and test models have
    /// them too. Two things in common tell, since no other published model has two of them; three, where
    /// all else is as in a sibling.
    pub fn has_recipe(&self, stated: &StatedYarn) -> bool {
        self.n_in_common(stated) >= if stated.is_sibling() { 3 } else { 2 }
    }

    /// How many of the things that tell this model's positions from those of its siblings are so.
    pub fn n_in_common(&self, stated: &StatedYarn) -> usize {
        let matches = [
            stated.factor == Some(self.yarn_factor),
            stated.n_ctx_orig == Some(self.n_ctx_orig),
            stated.n_ctx == Some(self.n_ctx),
            stated.betas[0] == self.beta_fast,
            stated.is_namesake,
        ];
        matches.into_iter().filter(|&is_equal| is_equal).count()
    }

    /// Whether a checkpoint states the wrong magnitude of the model's first config for this model's
    /// shape or positions. Wider than [`has_wrong_yarn`](Self::has_wrong_yarn), which is for files that
    /// nobody may look at again: who converts is told, and can keep it.
    pub fn shares_wrong_yarn(&self, hparams: &Hparams) -> bool {
        let Some(stated) = StatedYarn::of(hparams) else { return false };
        let has_shape = (hparams.n_layer, hparams.n_embd) == (self.n_layer, self.n_embd);
        hparams.arch == self.arch
            && (has_shape || self.has_recipe(&stated))
            && hparams.attn_temperature.is_none()
            && stated.log_multiplier == self.wrong_log_multiplier
    }

    /// Whether the file states the YaRN magnitude of the model's first, wrong config.
    ///
    /// Siblings were trained with the very value that is wrong here: only the whole fingerprint
    /// tells. None of them has attention temperature scaling switched off.
    pub fn has_wrong_yarn(&self, hparams: &Hparams) -> bool {
        self.describes(hparams)
            && hparams.attn_temperature.is_none()
            && matches!(hparams.rope.scaling, RopeScaling::Yarn { log_multiplier, .. }
                if log_multiplier == self.wrong_log_multiplier)
    }
}

/// What a file or a configuration states about positions: by these numbers a model's recipe is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatedYarn {
    /// How far positions are stretched.
    pub factor: Option<f32>,
    /// Context length before YaRN.
    pub n_ctx_orig: Option<u32>,
    /// Context length.
    pub n_ctx: Option<u32>,
    /// The fast and the slow beta.
    pub betas: [f32; 2],
    /// The log multiplier.
    pub log_multiplier: f32,
    /// Scale of the attention temperature; 0 without one.
    pub temperature: f32,
    /// Whether the model's name is in the file's.
    pub is_namesake: bool,
}

impl StatedYarn {
    /// What `hparams` has; `None` where positions are not stretched by YaRN.
    pub fn of(hparams: &Hparams) -> Option<Self> {
        let RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } =
            hparams.rope.scaling
        else {
            return None;
        };
        Some(Self {
            factor: Some(factor),
            n_ctx_orig: Some(n_ctx_orig),
            n_ctx: Some(hparams.n_ctx_train),
            betas: [beta_fast, beta_slow],
            log_multiplier,
            temperature: hparams.attn_temperature.map_or(0.0, |temperature| temperature.scale),
            is_namesake: false,
        })
    }

    /// Whether everything else is as in the models that were trained with an attention temperature.
    fn is_sibling(&self) -> bool {
        self.temperature > 0.0 && (self.betas, self.log_multiplier) == ([32.0, 1.0], 1.0)
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
    use crate::model::AttnTemperature;

    #[test]
    fn medium_3_5_has_795_tensors_and_125_billion_weights() {
        let expected = expected_tensors(&medium_3_5());
        let weights =
            expected.iter().filter(|tensor| tensor.required || tensor.name == "output.weight");
        assert_eq!(weights.clone().count(), 795);
        let n: u64 = weights.map(|tensor| tensor.dims.iter().product::<u64>()).sum();
        assert_eq!(n, 125_025_988_608);
    }

    #[test]
    fn only_the_whole_fingerprint_is_a_wrong_yarn() {
        let wrong = |change: &dyn Fn(&mut Hparams)| {
            let mut hparams = medium_3_5();
            if let RopeScaling::Yarn { log_multiplier, .. } = &mut hparams.rope.scaling {
                *log_multiplier = 1.0;
            }
            change(&mut hparams);
            MEDIUM_3_5.has_wrong_yarn(&hparams)
        };
        assert!(wrong(&|_| ()));
        assert!(!wrong(&|hparams| hparams.n_layer = 40));
        assert!(!wrong(&|hparams| hparams.n_embd = 5120));
        assert!(!wrong(&|hparams| hparams.rope.scaling = RopeScaling::None));
        assert!(!MEDIUM_3_5.has_wrong_yarn(&medium_3_5()));
    }

    #[test]
    fn a_recipe_is_known_in_any_shape() {
        let shares = |change: &dyn Fn(&mut Hparams)| {
            let mut hparams = medium_3_5();
            (hparams.n_layer, hparams.n_embd) = (8, 256);
            if let RopeScaling::Yarn { log_multiplier, .. } = &mut hparams.rope.scaling {
                *log_multiplier = 1.0;
            }
            change(&mut hparams);
            assert!(!MEDIUM_3_5.has_wrong_yarn(&hparams));
            MEDIUM_3_5.shares_wrong_yarn(&hparams)
        };
        assert!(shares(&|_| ()));
        assert!(shares(&|hparams| hparams.n_ctx_train = 8192));
        assert!(!shares(&|hparams| hparams.arch = Architecture::Llama));
        assert!(!shares(&|hparams| {
            hparams.attn_temperature = Some(AttnTemperature { scale: 0.1, n_ctx_orig: 4096 });
        }));
        let yarn = |factor, n_ctx_orig| RopeScaling::Yarn {
            factor,
            n_ctx_orig,
            beta_fast: 32.0,
            beta_slow: 1.0,
            log_multiplier: 1.0,
        };
        assert!(!shares(&|hparams| hparams.rope.scaling = yarn(16.0, 16_384)));
        assert!(!shares(&|hparams| hparams.rope.scaling = yarn(48.0, 8192)));
        assert!(!MEDIUM_3_5.shares_wrong_yarn(&medium_3_5()));
    }
}
