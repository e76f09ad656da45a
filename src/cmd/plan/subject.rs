//! The model that is planned for: a file's header, or one made up from a shape and a quantization, and what runs
//! beside it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::{Args, Target};
use crate::cmd::mmproj;
use crate::engine::{Asked, EngineOptions, needs};
use crate::gguf::{Gguf, HeaderBuilder, TensorType, Value};
use crate::model::{
    Activation, ExpectedTensor, Facts, Hparams, Mix, Projector, Warning, YarnPolicy, check_mmproj,
    expected_tensors, expected_vision_tensors, fitting, metadata_of, validate,
};
use crate::plan::{DraftNeeds, VisionNeeds};

/// What is planned for where nothing else is said and nothing fits whole.
const MIX_DEFAULT: &str = "Q4_K_M";
/// Published files are made with an importance matrix.
const WITH_IMATRIX: bool = true;
/// Layers of Medium 3.5's draft head.
const N_LAYER_EAGLE: u32 = 2;

/// What runs beside the model.
#[derive(Debug, Clone)]
pub(super) enum Side {
    None,
    Type(&'static Mix),
    File(PathBuf),
}

/// A vision tower or a draft head.
#[derive(Debug, Clone)]
pub(super) struct Beside<T> {
    /// Its file or type.
    pub(super) name: String,
    pub(super) needs: T,
}

/// What is planned for.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// `medium-3.5`, or the file.
    pub(super) name: String,
    /// The quantization, where it is not the file's own.
    pub(super) mix: Option<&'static Mix>,
    /// Its header; no weights.
    pub(super) gguf: Arc<Gguf>,
    pub(super) hparams: Hparams,
    pub(super) vision: Option<Beside<VisionNeeds>>,
    pub(super) draft: Option<Beside<DraftNeeds>>,
    pub(super) warnings: Vec<Warning>,
}

impl Subject {
    pub(super) fn new(args: &Args) -> Result<Self> {
        let (name, own, hparams, warnings) = match &args.target {
            Target::Shape(shape) => (shape.name().to_owned(), None, shape.hparams(), Vec::new()),
            Target::File(path) => {
                let gguf = Gguf::open_header(path)?;
                if Projector::is_in(&gguf) {
                    bail!("{}: a vision projector; give it with --mmproj", gguf.label());
                }
                let (hparams, warnings) = validate(&gguf, YarnPolicy::Correct)?;
                (gguf.label().to_string(), Some(gguf), hparams, warnings)
            }
        };
        let vision = vision(args, own.as_ref(), &hparams)?;
        let draft = draft(args, &hparams)?;
        let default = Mix::from_name(MIX_DEFAULT).expect("the default is known");
        let (gguf, mix) = match (own, args.quant) {
            (Some(gguf), None) => (gguf, None),
            (_, mix) => {
                let mix = mix.unwrap_or(default);
                (header(&hparams, mix), Some(mix))
            }
        };
        Ok(Subject { name, mix, gguf: gguf.into(), hparams, vision, draft, warnings })
    }

    /// The same in another quantization.
    pub(super) fn with(&self, mix: &'static Mix) -> Self {
        let gguf = header(&self.hparams, mix).into();
        Subject { mix: Some(mix), gguf, ..self.clone() }
    }

    /// Bytes of all weights of the language model.
    pub(super) fn weight_bytes(&self) -> u64 {
        let needs = needs(&self.gguf, &self.hparams, &[], 1);
        let output = if self.is_tied() { 0 } else { needs.output };
        needs.layers.iter().sum::<u64>() + needs.embedding + output
    }

    /// Whether the output is the embedding.
    pub(super) fn is_tied(&self) -> bool {
        self.gguf.tensor("output.weight").is_none()
    }

    /// The same as the engine is asked for it.
    pub(super) fn asked<'a>(&'a self, options: &'a EngineOptions) -> Asked<'a> {
        Asked {
            gguf: &self.gguf,
            hparams: &self.hparams,
            vision: self.vision.as_ref().map(|vision| vision.needs),
            draft: self.draft.as_ref().map(|draft| draft.needs),
            options,
        }
    }
}

/// The header of a file that `mix` would make of this shape.
fn header(hparams: &Hparams, mix: &Mix) -> Gguf {
    let mut header = HeaderBuilder::new();
    metadata_of(hparams).iter().for_each(|(key, value)| header.set(key, value));
    header.set("general.file_type", &Value::U32(mix.file_type));
    let facts = Facts::of(hparams, WITH_IMATRIX);
    for tensor in expected_tensors(hparams) {
        if tensor.required || tensor.name == "output.weight" {
            let ty = mix.tensor_type(&tensor.name, &tensor.dims, &facts);
            header.tensor(&tensor.name, ty, &tensor.dims);
        }
    }
    Gguf::from_header(mix.name, header.finish().header).expect("what we write we can read")
}

/// Bytes of a tensor whose matrices have the base type of `mix`, or what fits its rows.
fn bytes_as(tensor: &ExpectedTensor, mix: &Mix) -> u64 {
    let ty =
        if tensor.dims.len() < 2 { TensorType::F32 } else { fitting(mix.base, tensor.dims[0]) };
    let row = ty.row_bytes(tensor.dims[0]).expect("a type that fits the rows");
    tensor.dims[1..].iter().fold(row, |n, dim| n * dim)
}

/// The tower that is asked for, or that would be found, or in a made-up model its usual one.
fn vision(
    args: &Args,
    own: Option<&Gguf>,
    hparams: &Hparams,
) -> Result<Option<Beside<VisionNeeds>>> {
    let of_file = |gguf: &Gguf| -> Result<_> {
        let projector = check_mmproj(gguf, hparams)?;
        let expected = expected_vision_tensors(&projector);
        let tensors = expected.iter().filter_map(|tensor| gguf.tensor(&tensor.name));
        let weights = tensors.map(|tensor| tensor.n_bytes).sum();
        let needs = VisionNeeds::new(weights, projector.working_bytes());
        Ok(Some(Beside { name: gguf.label().to_string(), needs }))
    };
    let of_type = |mix: &'static Mix| {
        let projector = medium_3_5_projector(hparams);
        let expected = expected_vision_tensors(&projector);
        // What is optional, files have: the row of image breaks.
        let is_there = |t: &&ExpectedTensor| t.required || !t.name.ends_with(".bias");
        let weights = expected.iter().filter(is_there).map(|t| bytes_as(t, mix)).sum();
        let needs = VisionNeeds::new(weights, projector.working_bytes());
        Some(Beside { name: mix.name.to_owned(), needs })
    };
    match (&args.mmproj, &args.target, own) {
        (Some(Side::None), ..) => Ok(None),
        (Some(Side::Type(mix)), ..) => Ok(of_type(mix)),
        (Some(Side::File(path)), ..) => of_file(&Gguf::open_header(path)?),
        (None, Target::Shape(_), _) => Ok(Mix::from_name("F16").and_then(of_type)),
        (None, Target::File(_), Some(gguf)) if Projector::is_inside(gguf) => of_file(gguf),
        (None, Target::File(path), Some(gguf)) => match mmproj::find(path, gguf, hparams).mmproj {
            Some(mmproj) => of_file(&mmproj),
            None => Ok(None),
        },
        (None, Target::File(_), None) => Ok(None),
    }
}

/// The tower of Medium 3.5, for a model of the width of `hparams`.
fn medium_3_5_projector(hparams: &Hparams) -> Projector {
    Projector {
        n_layer: 48,
        n_embd: 1664,
        n_ff: 8192,
        n_head: 16,
        n_embd_text: hparams.n_embd,
        image_size: 1540,
        patch_size: 14,
        merge_size: 2,
        norm_eps: 1e-5,
        freq_base: 10_000.0,
        activation: Activation::Silu,
        image_mean: [0.5; 3],
        image_std: [0.5; 3],
    }
}

/// The head that is asked for: layers of the model's own shape, and a matrix from two rows to one.
fn draft(args: &Args, hparams: &Hparams) -> Result<Option<Beside<DraftNeeds>>> {
    match &args.eagle {
        None | Some(Side::None) => Ok(None),
        Some(Side::Type(mix)) => {
            let shape = Hparams { n_layer: N_LAYER_EAGLE, ..hparams.clone() };
            let expected = expected_tensors(&shape);
            let own = |t: &&ExpectedTensor| t.required && !is_shared(&t.name);
            let n_embd = u64::from(hparams.n_embd);
            let fc = ExpectedTensor { dims: vec![2 * n_embd, n_embd], ..expected[0].clone() };
            let tensors = expected.iter().filter(own).chain([&fc]);
            let weights = tensors.map(|tensor| bytes_as(tensor, mix)).sum();
            let needs = DraftNeeds { weights, n_layer: N_LAYER_EAGLE };
            Ok(Some(Beside { name: mix.name.to_owned(), needs }))
        }
        Some(Side::File(path)) => {
            let gguf = Gguf::open_header(path)?;
            let arch = gguf.metadata().str("general.architecture")?.unwrap_or_default();
            if arch != "eagle" {
                bail!("{}: not a draft head; expected architecture 'eagle'", gguf.label());
            }
            let own = gguf.tensors().iter().filter(|tensor| !is_shared(&tensor.name));
            let weights = own.map(|tensor| tensor.n_bytes).sum();
            let n_layer = gguf.metadata().u32("eagle.block_count")?.unwrap_or(N_LAYER_EAGLE);
            let needs = DraftNeeds { weights, n_layer };
            Ok(Some(Beside { name: gguf.label().to_string(), needs }))
        }
    }
}

/// Whether a draft head takes this tensor from its model.
fn is_shared(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "output.weight")
}
