//! `config.json`: a model as transformers describes it.
//!
//! transformers leaves out what equals the defaults of a model's class, so the classes' defaults stand
//! here. What the graph cannot compute (experts, windows, other activations) is refused by its key.

use std::path::Path;

use serde_json::{Map, Value};

use super::checkpoint::Kind;
use super::description::{Description, TextDefaults, TextKeys, hparams};
use super::error::CheckpointError;
use super::json::Section;
use super::positions::{ParentClass, positions};
use super::quantization::Fp8;
use super::tower;
use crate::gguf::escape;
use crate::model::Architecture;

const KEYS: TextKeys = TextKeys {
    n_layer: "num_hidden_layers",
    n_embd: "hidden_size",
    n_ff: "intermediate_size",
    n_head: "num_attention_heads",
    n_head_kv: "num_key_value_heads",
    norm_eps: "rms_norm_eps",
};

/// Defaults of transformers' `Ministral3Config`.
const MINISTRAL3: TextDefaults = TextDefaults {
    n_layer: Some(34),
    n_embd: Some(4096),
    n_ff: Some(14_336),
    n_head: Some(32),
    n_head_kv: Some(8),
    head_len: Some(128),
    n_vocab: Some(131_072),
    norm_eps: Some(1e-5),
};

/// Defaults of transformers' `MistralConfig`.
const MISTRAL: TextDefaults = TextDefaults {
    n_layer: Some(32),
    n_embd: Some(4096),
    n_ff: Some(14_336),
    n_head: Some(32),
    n_head_kv: Some(8),
    head_len: None,
    n_vocab: Some(32_000),
    norm_eps: Some(1e-6),
};

/// Classes of models, as `architectures` names them, with the architecture they become in GGUF.
const CLASSES: [(&str, Architecture, bool); 4] = [
    ("Mistral3ForConditionalGeneration", Architecture::Mistral3, true),
    ("Ministral3ForCausalLM", Architecture::Mistral3, false),
    ("MistralForCausalLM", Architecture::Llama, false),
    ("LlavaForConditionalGeneration", Architecture::Llama, true),
];

/// Kinds of models that the same graph would compute wrongly.
const OTHER_KINDS: [(&[&str], &str); 2] = [
    (&["num_local_experts", "num_experts", "n_routed_experts"], "a mixture of experts"),
    (&["q_lora_rank", "kv_lora_rank", "qk_rope_head_dim"], "latent attention"),
];

/// Reads `config.json`, whose content is `map`.
pub(super) fn describe(
    file: &Path,
    map: &Map<String, Value>,
) -> Result<Description, CheckpointError> {
    let config = Section::whole(file, map);
    let (class, arch, is_wrapped) = class(&config)?;
    let text = match is_wrapped {
        true => {
            let text = config.section("text_config")?;
            config.need("text_config", text)?
        }
        false => config.clone(),
    };
    let is_ministral3 = match text.str("model_type")? {
        Some("ministral3") if arch == Architecture::Mistral3 => true,
        Some("mistral") => false,
        None => class == "Ministral3ForCausalLM",
        Some(_) => return Err(text.wrong("model_type", "mistral or ministral3")),
    };
    for (keys, what) in OTHER_KINDS {
        text.refuse(keys, what)?;
    }
    if text.str("hidden_act")?.is_some_and(|act| act != "silu") {
        return Err(text.wrong("hidden_act", "silu"));
    }
    let defaults = if is_ministral3 { MINISTRAL3 } else { MISTRAL };
    let n_ctx_default = if is_ministral3 { 262_144 } else { 131_072 };
    let n_ctx = text.int("max_position_embeddings", 1, i32::MAX as u32)?.unwrap_or(n_ctx_default);
    check_window(&text, n_ctx, (!is_ministral3).then_some(4096))?;
    let parent = if is_ministral3 { ParentClass::Ministral3 } else { ParentClass::Mistral };
    let positions = positions(&text, parent, n_ctx)?;
    let hparams = hparams(&text, &KEYS, &defaults, arch, n_ctx, positions)?;
    let vision = if is_wrapped { config.section("vision_config")? } else { None };
    let projector = match &vision {
        Some(vision) => Some(tower::hugging_face(&config, vision, class, hparams.n_embd)?),
        None => None,
    };
    let is_llava = class == "LlavaForConditionalGeneration";
    let has_bias = config.bool("multimodal_projector_bias")?.unwrap_or(is_llava);
    const TIED: &str = "tie_word_embeddings";
    let tied = text.bool(TIED)?.or(config.bool(TIED)?);
    let fp8 = if config.get("quantization_config").is_some() { &config } else { &text };
    Ok(Description {
        kind: Kind::Model,
        may_be_tied: tied.unwrap_or(class == "Mistral3ForConditionalGeneration"),
        has_projector_bias: projector.is_some() && has_bias,
        projector,
        break_id: None,
        fp8: Fp8::of(fp8)?,
        hparams,
        notes: Vec::new(),
    })
}

fn class(config: &Section<'_>) -> Result<(&'static str, Architecture, bool), CheckpointError> {
    const KEY: &str = "architectures";
    let expected = CLASSES.map(|(name, ..)| name).join(", ");
    let expected = format!("one of {expected}");
    match config.get(KEY).and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(name)]) => {
            let known = CLASSES.into_iter().find(|(known, ..)| known == name);
            known.ok_or_else(|| config.error(KEY, &expected, &escape(name.as_bytes())))
        }
        _ => Err(config.wrong(KEY, &expected)),
    }
}

/// A window at least as long as the context is none.
fn check_window(
    text: &Section<'_>,
    n_ctx: u32,
    default: Option<u32>,
) -> Result<(), CheckpointError> {
    const KEY: &str = "sliding_window";
    let none = format!("null, or at least {n_ctx}: windows are not computed with");
    let window = match text.has(KEY) {
        true => text.int(KEY, 0, u32::MAX)?,
        false => default,
    };
    match window {
        Some(window) if window != 0 && window < n_ctx => match text.has(KEY) {
            true => Err(text.wrong(KEY, &none)),
            false => {
                let found = format!("nothing, which means {window} to transformers");
                Err(text.error(KEY, &none, &found))
            }
        },
        _ => match text.get("layer_types").and_then(Value::as_array) {
            Some(types) if types.iter().any(|ty| ty != "full_attention") => {
                Err(text.wrong("layer_types", "full_attention in every layer"))
            }
            _ => Ok(()),
        },
    }
}
