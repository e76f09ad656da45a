//! The metadata of converted files: keys, types and order as llama.cpp's converter writes them.
//!
//! A checkpoint's numbers come from its `Hparams` and `Projector`, which are checked already; what it says
//! about itself comes from [`About`]. The two layouts differ in the order of a few keys and in whether a zero
//! is written, which is kept so that files can be compared key by key. Keys of our own, beside llama.cpp's:
//! [`SYSTEM_PROMPT`] and [`LICENSE`], and for EAGLE heads everything under `eagle.`, an architecture that it does not know.

use serde_json::Value as Json;

use super::about::About;
use super::checkpoint::{Checkpoint, Kind, NamedSource};
use super::layout::Layout;
use crate::gguf::{Array, Value};
use crate::model::{Activation, Hparams, Projector, RopeScaling};

/// The key of the system prompt that a checkpoint brings along. Nothing applies it by itself: the chat format
/// has none by default.
pub const SYSTEM_PROMPT: &str = "gust.system_prompt";
/// The key of the whole text of the licence that a checkpoint brings along, which many licences ask for in
/// every copy; `general.license` only names it.
pub const LICENSE: &str = "gust.license";
/// Value of `general.quantization_version`, ggml's.
const QUANTIZATION_VERSION: u32 = 2;
/// What engines assume where a projector's file does not say.
const VISION_FREQ_BASE: f32 = 10_000.0;

/// Keys with their values in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Keys(pub(super) Vec<(String, Value)>);

impl Keys {
    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }

    /// Sets a text; an empty one is none.
    pub(super) fn text(&mut self, key: &str, text: Option<String>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.set(key, Value::String(text));
        }
    }

    /// Sets a list of texts; an empty one is none.
    pub(super) fn texts(&mut self, key: &str, texts: Vec<String>) {
        if !texts.is_empty() {
            self.set(key, Value::Array(Array::String(texts.iter().collect())));
        }
    }
}

/// The metadata of the language model's file, or the EAGLE head's.
pub fn text_metadata(
    checkpoint: &Checkpoint,
    about: &About,
    file_type: u32,
) -> Vec<(String, Value)> {
    let mut keys = Keys::default();
    let arch = match checkpoint.kind {
        Kind::Model => checkpoint.hparams.arch.name(),
        Kind::Eagle => "eagle",
    };
    let hugging_face = checkpoint.layout == Layout::HuggingFace;
    let n_vocab_key = format!("{arch}.vocab_size");
    write_general(arch, "model", about, n_elements(&checkpoint.text_tensors()), &mut keys);
    write_shape(checkpoint, arch, file_type, &mut keys);
    keys.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    if let Some(vocabulary) = &about.vocabulary {
        vocabulary.write((!hugging_face).then_some(&n_vocab_key), &mut keys);
    } else if !hugging_face {
        keys.set(&n_vocab_key, Value::U32(checkpoint.hparams.n_vocab));
    }
    about.templates.write(&mut keys);
    keys.text(SYSTEM_PROMPT, about.system_prompt.clone());
    keys.text(LICENSE, about.license.clone());
    keys.0
}

/// The metadata of the vision tower's own file.
pub fn vision_metadata(
    checkpoint: &Checkpoint,
    projector: &Projector,
    about: &About,
    file_type: u32,
) -> Vec<(String, Value)> {
    let mut keys = Keys::default();
    write_general("clip", "mmproj", about, n_elements(&checkpoint.vision_tensors()), &mut keys);
    keys.set("general.file_type", Value::U32(file_type));
    write_projector(projector, checkpoint.layout, &mut keys);
    keys.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    keys.0
}

/// The vision tower's keys inside the language model's file.
pub(super) fn inner_vision_metadata(
    checkpoint: &Checkpoint,
    projector: &Projector,
) -> Vec<(String, Value)> {
    let mut keys = Keys::default();
    write_projector(projector, checkpoint.layout, &mut keys);
    keys.0
}

fn n_elements(tensors: &[NamedSource<'_>]) -> u64 {
    tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum()
}

fn write_general(arch: &str, ty: &str, about: &About, n_params: u64, keys: &mut Keys) {
    keys.set("general.architecture", Value::String(arch.to_owned()));
    keys.set("general.type", Value::String(ty.to_owned()));
    about.generation.write(keys);
    about.sources.write(n_params, keys);
}

/// The shape of the language model.
fn write_shape(checkpoint: &Checkpoint, arch: &str, file_type: u32, keys: &mut Keys) {
    let hparams = &checkpoint.hparams;
    let hugging_face = checkpoint.layout == Layout::HuggingFace;
    let mut set = |key: &str, value| keys.set(&format!("{arch}.{key}"), value);
    set("block_count", Value::U32(hparams.n_layer));
    set("context_length", Value::U32(hparams.n_ctx_train));
    set("embedding_length", Value::U32(hparams.n_embd));
    set("feed_forward_length", Value::U32(hparams.n_ff));
    set("attention.head_count", Value::U32(hparams.n_head));
    set("attention.head_count_kv", Value::U32(hparams.n_head_kv));
    if hugging_face {
        scaling(hparams, true).into_iter().for_each(|(key, value)| set(key, value));
    }
    set("rope.freq_base", Value::F32(hparams.rope.freq_base));
    set("attention.layer_norm_rms_epsilon", Value::F32(hparams.norm_eps));
    set("attention.key_length", Value::U32(hparams.n_embd_head_k));
    set("attention.value_length", Value::U32(hparams.n_embd_head_v));
    keys.set("general.file_type", Value::U32(file_type));
    let mut set = |key: &str, value| keys.set(&format!("{arch}.{key}"), value);
    if hugging_face {
        set("vocab_size", Value::U32(hparams.n_vocab));
    }
    set("rope.dimension_count", Value::U32(hparams.rope.n_rot));
    if !hugging_face {
        scaling(hparams, false).into_iter().for_each(|(key, value)| set(key, value));
    } else if let RopeScaling::Yarn { log_multiplier, .. } = hparams.rope.scaling {
        set("rope.scaling.yarn_log_multiplier", Value::F32(log_multiplier));
    }
    if hparams.rope.magnitude != 1.0 {
        set("rope.scaling.attn_factor", Value::F32(hparams.rope.magnitude));
    }
    let temperature = hparams.attn_temperature;
    if temperature.is_some() || hugging_face && is_ministral3(checkpoint) {
        let scale = temperature.map_or(0.0, |temperature| temperature.scale);
        set("attention.temperature_scale", Value::F32(scale));
    }
    if let Some(temperature) = temperature
        && !matches!(hparams.rope.scaling, RopeScaling::Yarn { .. })
    {
        // Where YaRN does not say it already.
        set("rope.scaling.original_context_length", Value::U32(temperature.n_ctx_orig));
    }
}

/// The keys of the position encoding's stretching, in the order of a layout.
fn scaling(hparams: &Hparams, hugging_face: bool) -> Vec<(&'static str, Value)> {
    let ty = |name: &str| ("rope.scaling.type", Value::String(name.to_owned()));
    match hparams.rope.scaling {
        RopeScaling::None => Vec::new(),
        RopeScaling::Linear { factor } => {
            vec![ty("linear"), ("rope.scaling.factor", Value::F32(factor))]
        }
        RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } => {
            let factor = ("rope.scaling.factor", Value::F32(factor));
            let n_ctx_orig = ("rope.scaling.original_context_length", Value::U32(n_ctx_orig));
            let fast = ("rope.scaling.yarn_beta_fast", Value::F32(beta_fast));
            let slow = ("rope.scaling.yarn_beta_slow", Value::F32(beta_slow));
            let log = ("rope.scaling.yarn_log_multiplier", Value::F32(log_multiplier));
            match hugging_face {
                true => vec![ty("yarn"), factor, n_ctx_orig, fast, slow],
                false => vec![ty("yarn"), factor, fast, slow, log, n_ctx_orig],
            }
        }
    }
}

/// Whether config.json describes a text model whose attention temperature is always stated.
fn is_ministral3(checkpoint: &Checkpoint) -> bool {
    let config = &checkpoint.config;
    let text = config.get("text_config").and_then(Json::as_object).unwrap_or(config);
    text.get("model_type").and_then(Json::as_str) == Some("ministral3")
}

fn write_projector(projector: &Projector, layout: Layout, keys: &mut Keys) {
    let native = layout == Layout::Native;
    let floats = |values: [f32; 3]| Value::Array(Array::F32(values.to_vec()));
    keys.set("clip.has_vision_encoder", Value::Bool(true));
    let mut set = |key: &str, value| keys.set(&format!("clip.vision.{key}"), value);
    set("projection_dim", Value::U32(projector.n_embd_text));
    set("image_size", Value::U32(projector.image_size));
    set("patch_size", Value::U32(projector.patch_size));
    set("embedding_length", Value::U32(projector.n_embd));
    set("feed_forward_length", Value::U32(projector.n_ff));
    set("block_count", Value::U32(projector.n_layer));
    set("attention.head_count", Value::U32(projector.n_head));
    set("image_mean", floats(projector.image_mean));
    set("image_std", floats(projector.image_std));
    keys.set("clip.projector_type", Value::String("pixtral".to_owned()));
    keys.set("clip.vision.attention.layer_norm_epsilon", Value::F32(projector.norm_eps));
    if native || projector.freq_base != VISION_FREQ_BASE {
        keys.set("clip.rope.freq_base", Value::F32(projector.freq_base));
    }
    match projector.activation {
        Activation::Silu => keys.set("clip.use_silu", Value::Bool(true)),
        Activation::Gelu => keys.set("clip.use_gelu", Value::Bool(true)),
    }
    if projector.merge_size > 1 {
        keys.set("clip.vision.spatial_merge_size", Value::U32(projector.merge_size));
    }
}
