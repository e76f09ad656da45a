//! The type of every key that GGUF's specification or this model family names.
//!
//! A key with the wrong type is a broken or hostile file, also where nothing here reads the key:
//! the file would misbehave in the next program. Unknown keys may have any type. In the table a
//! leading `*.` stands for the architecture's prefix and `#` for a number.

use super::error::Problem;
use super::value::{Array, Value};

/// What a known key must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    F32,
    I32,
    /// A counter that writers disagree on: u16, u32 or i32, never negative.
    SmallCount,
    String,
    U32,
    /// One value for all layers, or one per layer.
    U32OrLayers,
    U32OrBools,
    F32s,
    /// Token scores: f32, and i32 from writers to whom 0 is an integer.
    F32sOrI32s,
    I32s,
    Strings,
    U8s,
}

/// Longest chat template, in bytes.
const MAX_TEMPLATE: usize = 1 << 20;

use Kind::*;

const KNOWN: &[(&str, Kind)] = &[
    ("general.alignment", U32),
    ("general.architecture", String),
    ("general.author", String),
    ("general.base_model.#.author", String),
    ("general.base_model.#.description", String),
    ("general.base_model.#.doi", String),
    ("general.base_model.#.name", String),
    ("general.base_model.#.organization", String),
    ("general.base_model.#.repo_url", String),
    ("general.base_model.#.url", String),
    ("general.base_model.#.uuid", String),
    ("general.base_model.#.version", String),
    ("general.base_model.count", U32),
    ("general.basename", String),
    ("general.dataset.#.author", String),
    ("general.dataset.#.description", String),
    ("general.dataset.#.doi", String),
    ("general.dataset.#.name", String),
    ("general.dataset.#.organization", String),
    ("general.dataset.#.repo_url", String),
    ("general.dataset.#.url", String),
    ("general.dataset.#.uuid", String),
    ("general.dataset.#.version", String),
    ("general.dataset.count", U32),
    ("general.datasets", Strings),
    ("general.description", String),
    ("general.doi", String),
    ("general.file_type", U32),
    ("general.finetune", String),
    ("general.languages", Strings),
    ("general.license", String),
    ("general.license.link", String),
    ("general.license.name", String),
    ("general.name", String),
    ("general.organization", String),
    ("general.quantization_version", U32),
    ("general.quantized_by", String),
    ("general.repo_url", String),
    ("general.sampling.min_p", F32),
    ("general.sampling.mirostat", I32),
    ("general.sampling.mirostat_eta", F32),
    ("general.sampling.mirostat_tau", F32),
    ("general.sampling.penalty_last_n", I32),
    ("general.sampling.penalty_repeat", F32),
    ("general.sampling.sequence", String),
    ("general.sampling.temp", F32),
    ("general.sampling.top_k", I32),
    ("general.sampling.top_p", F32),
    ("general.sampling.xtc_probability", F32),
    ("general.sampling.xtc_threshold", F32),
    ("general.size_label", String),
    ("general.source.doi", String),
    ("general.source.huggingface.repository", String),
    ("general.source.repo_url", String),
    ("general.source.url", String),
    ("general.source.uuid", String),
    ("general.tags", Strings),
    ("general.type", String),
    ("general.url", String),
    ("general.uuid", String),
    ("general.version", String),
    ("gust.license", String),
    ("gust.system_prompt", String),
    ("split.count", SmallCount),
    ("split.no", SmallCount),
    ("split.tensors.count", SmallCount),
    ("tokenizer.chat_template", String),
    ("tokenizer.chat_templates", Strings),
    ("tokenizer.ggml.add_bos_token", Bool),
    ("tokenizer.ggml.add_eos_token", Bool),
    ("tokenizer.ggml.add_sep_token", Bool),
    ("tokenizer.ggml.add_space_prefix", Bool),
    ("tokenizer.ggml.added_tokens", Strings),
    ("tokenizer.ggml.bos_token_id", U32),
    ("tokenizer.ggml.cls_token_id", U32),
    ("tokenizer.ggml.eom_token_id", U32),
    ("tokenizer.ggml.eos_token_id", U32),
    ("tokenizer.ggml.eot_token_id", U32),
    ("tokenizer.ggml.fim_mid_token_id", U32),
    ("tokenizer.ggml.fim_pad_token_id", U32),
    ("tokenizer.ggml.fim_pre_token_id", U32),
    ("tokenizer.ggml.fim_rep_token_id", U32),
    ("tokenizer.ggml.fim_sep_token_id", U32),
    ("tokenizer.ggml.fim_suf_token_id", U32),
    ("tokenizer.ggml.mask_token_id", U32),
    ("tokenizer.ggml.merges", Strings),
    ("tokenizer.ggml.model", String),
    ("tokenizer.ggml.padding_token_id", U32),
    ("tokenizer.ggml.pre", String),
    ("tokenizer.ggml.precompiled_charsmap", U8s),
    ("tokenizer.ggml.remove_extra_whitespaces", Bool),
    ("tokenizer.ggml.scores", F32sOrI32s),
    ("tokenizer.ggml.seperator_token_id", U32),
    ("tokenizer.ggml.token_type", I32s),
    ("tokenizer.ggml.token_type_count", U32),
    ("tokenizer.ggml.tokens", Strings),
    ("tokenizer.ggml.unknown_token_id", U32),
    ("tokenizer.huggingface.json", String),
    ("tokenizer.rwkv.world", String),
    ("adapter.lora.alpha", F32),
    ("adapter.type", String),
    ("clip.has_audio_encoder", Bool),
    ("clip.has_llava_projector", Bool),
    ("clip.has_text_encoder", Bool),
    ("clip.has_vision_encoder", Bool),
    ("clip.projector_type", String),
    ("clip.rope.freq_base", F32),
    ("clip.use_gelu", Bool),
    ("clip.use_silu", Bool),
    ("clip.vision.attention.head_count", U32),
    ("clip.vision.attention.head_count_kv", U32),
    ("clip.vision.attention.head_dim", U32),
    ("clip.vision.attention.layer_norm_epsilon", F32),
    ("clip.vision.block_count", U32),
    ("clip.vision.embedding_length", U32),
    ("clip.vision.feature_layer", I32s),
    ("clip.vision.feed_forward_length", U32),
    ("clip.vision.image_max_pixels", U32),
    ("clip.vision.image_mean", F32s),
    ("clip.vision.image_min_pixels", U32),
    ("clip.vision.image_size", U32),
    ("clip.vision.image_std", F32s),
    ("clip.vision.patch_size", U32),
    ("clip.vision.projection_dim", U32),
    ("clip.vision.projector_type", String),
    ("clip.vision.spatial_merge_size", U32),
    ("*.attention.causal", Bool),
    ("*.attention.clamp_kqv", F32),
    ("*.attention.head_count", U32OrLayers),
    ("*.attention.head_count_kv", U32OrLayers),
    ("*.attention.key_length", U32),
    ("*.attention.layer_norm_epsilon", F32),
    ("*.attention.layer_norm_rms_epsilon", F32),
    ("*.attention.max_alibi_bias", F32),
    ("*.attention.scale", F32),
    ("*.attention.sliding_window", U32OrLayers),
    ("*.attention.sliding_window_pattern", U32OrBools),
    ("*.attention.temperature_length", U32),
    ("*.attention.temperature_scale", F32),
    ("*.attention.value_length", U32),
    ("*.block_count", U32),
    ("*.context_length", U32),
    ("*.embedding_length", U32),
    ("*.expert_count", U32),
    ("*.expert_feed_forward_length", U32),
    ("*.expert_used_count", U32),
    ("*.feed_forward_length", U32OrLayers),
    ("*.logit_scale", F32),
    ("*.rope.dimension_count", U32),
    ("*.rope.freq_base", F32),
    ("*.rope.scale_linear", F32),
    ("*.rope.scaling.attn_factor", F32),
    ("*.rope.scaling.beta_fast", F32),
    ("*.rope.scaling.beta_slow", F32),
    ("*.rope.scaling.factor", F32),
    ("*.rope.scaling.finetuned", Bool),
    ("*.rope.scaling.mscale", F32),
    ("*.rope.scaling.mscale_all_dim", F32),
    ("*.rope.scaling.original_context_length", U32),
    ("*.rope.scaling.type", String),
    ("*.rope.scaling.yarn_attn_factor", F32),
    ("*.rope.scaling.yarn_beta_fast", F32),
    ("*.rope.scaling.yarn_beta_slow", F32),
    ("*.rope.scaling.yarn_ext_factor", F32),
    ("*.rope.scaling.yarn_log_multiplier", F32),
    ("*.rope.scaling_beta", F32),
    ("*.tensor_data_layout", String),
    ("*.use_parallel_residual", Bool),
    ("*.vocab_size", U32),
];

/// First words that are no architecture.
const NAMESPACES: &[&str] =
    &["general", "tokenizer", "split", "adapter", "clip", "quantize", "imatrix"];

/// Checks `value` against what `key` is known to hold.
pub(super) fn check(key: &str, value: &Value) -> Result<(), Problem> {
    let kind = match kind_of(key) {
        Some(kind) => kind,
        None if key.starts_with("tokenizer.chat_template.") => Kind::String,
        None => return Ok(()),
    };
    if !kind.accepts(value) {
        return Err(Problem::WrongType { expected: kind.name(), found: value.type_name() });
    }
    match value {
        Value::String(text)
            if key.starts_with("tokenizer.chat_template") && text.len() > MAX_TEMPLATE =>
        {
            Err(Problem::Count {
                what: "bytes of chat template",
                found: text.len() as u64,
                most: MAX_TEMPLATE as u64,
                why: "the limit for templates",
            })
        }
        _ => Ok(()),
    }
}

fn kind_of(key: &str) -> Option<Kind> {
    let (first, rest) = key.split_once('.')?;
    let is_architecture = !NAMESPACES.contains(&first);
    KNOWN
        .iter()
        .find(|(pattern, _)| match pattern.strip_prefix("*.") {
            Some(pattern) => is_architecture && pattern == rest,
            None => matches_numbered(pattern, key),
        })
        .map(|&(_, kind)| kind)
}

/// Equality, except that `#` in `pattern` stands for digits.
fn matches_numbered(pattern: &str, key: &str) -> bool {
    let Some((before, after)) = pattern.split_once('#') else { return pattern == key };
    key.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

impl Kind {
    fn accepts(self, value: &Value) -> bool {
        use Value as V;
        let array = if let V::Array(array) = value { Some(array) } else { None };
        match self {
            Bool => matches!(value, V::Bool(_)),
            F32 => matches!(value, V::F32(_)),
            I32 => matches!(value, V::I32(_)),
            SmallCount => match value {
                V::U16(_) | V::U32(_) => true,
                V::I32(n) => *n >= 0,
                _ => false,
            },
            String => matches!(value, V::String(_)),
            U32 => matches!(value, V::U32(_)),
            U32OrLayers => {
                matches!(value, V::U32(_)) || matches!(array, Some(Array::U32(_) | Array::I32(_)))
            }
            U32OrBools => {
                matches!(value, V::U32(_)) || matches!(array, Some(Array::Bool(_) | Array::U32(_)))
            }
            F32s => matches!(array, Some(Array::F32(_))),
            F32sOrI32s => matches!(array, Some(Array::F32(_) | Array::I32(_))),
            I32s => matches!(array, Some(Array::I32(_) | Array::U32(_))),
            Strings => matches!(array, Some(Array::String(_))),
            U8s => matches!(array, Some(Array::U8(_) | Array::I8(_))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Bool => "bool",
            F32 => "f32",
            I32 => "i32",
            SmallCount => "a non-negative u16, u32 or i32",
            String => "string",
            U32 => "u32",
            U32OrLayers => "u32 or array of u32",
            U32OrBools => "u32 or array of bool",
            F32s => "array of f32",
            F32sOrI32s => "array of f32 or i32",
            I32s => "array of i32",
            Strings => "array of string",
            U8s => "array of u8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_prefix_and_number() {
        let cases = [
            ("general.name", Some(String)),
            ("general.base_model.12.name", Some(String)),
            ("general.base_model..name", None),
            ("general.base_model.x.name", None),
            ("mistral3.block_count", Some(U32)),
            ("gemma.block_count", Some(U32)),
            ("clip.block_count", None),
            ("clip.vision.block_count", Some(U32)),
            ("block_count", None),
        ];
        for (key, kind) in cases {
            assert_eq!(kind_of(key), kind, "{key}");
        }
    }
}
