//! `params.json`: a model, or a draft head, as Mistral describes it.

use std::path::Path;

use serde_json::{Map, Value};

use super::checkpoint::Kind;
use super::description::{ABOVE_0, Description, NO_DEFAULTS, Positions, TextKeys, hparams};
use super::error::CheckpointError;
use super::json::Section;
use super::quantization::Fp8;
use super::tower;
use crate::model::{Architecture, AttnTemperature, RopeScaling};

const KEYS: TextKeys = TextKeys {
    n_layer: "n_layers",
    n_embd: "dim",
    n_ff: "hidden_dim",
    n_head: "n_heads",
    n_head_kv: "n_kv_heads",
    norm_eps: "norm_eps",
};

/// Context of models whose description does not tell, the same that vLLM takes.
const N_CTX: u32 = 128_000;

/// Kinds of models that the same graph would compute wrongly.
const OTHER_KINDS: [(&[&str], &str); 3] = [
    (&["moe"], "a mixture of experts"),
    (&["q_lora_rank", "kv_lora_rank", "qk_rope_head_dim"], "latent attention"),
    (&["sliding_window", "_sliding_window"], "a window of attention"),
];

/// Reads `params.json`, whose content is `map`.
pub(super) fn describe(
    file: &Path,
    map: &Map<String, Value>,
    kind: Kind,
) -> Result<Description, CheckpointError> {
    let params = Section::whole(file, map);
    for (keys, what) in OTHER_KINDS {
        params.refuse(keys, what)?;
    }
    if params.str("activation")?.is_some_and(|act| act != "silu") {
        return Err(params.wrong("activation", "silu"));
    }
    // llama.cpp's rule: older models, which do not have the key, become its oldest architecture.
    let arch = match kind {
        Kind::Model if !params.has("llama_4_scaling") => Architecture::Llama,
        _ => Architecture::Mistral3,
    };
    let mut notes = Vec::new();
    let n_ctx = context(&params, &mut notes)?;
    let hparams = hparams(&params, &KEYS, &NO_DEFAULTS, arch, n_ctx, positions(&params)?)?;
    let vision = params.section("vision_encoder")?;
    let (mut projector, mut has_bias, mut break_id) = (None, false, None);
    if let Some(vision) = vision.filter(|_| kind == Kind::Model) {
        projector = Some(tower::native(&vision, hparams.n_embd, hparams.norm_eps)?);
        has_bias = vision.bool("adapter_bias")?.unwrap_or(true);
        const BREAK: &str = "image_break_token_id";
        // -1 stands for a number that only the tokenizer knows.
        let is_open = vision.get(BREAK).and_then(Value::as_i64) == Some(-1);
        break_id = if is_open { None } else { vision.int(BREAK, 0, hparams.n_vocab - 1)? };
    }
    Ok(Description {
        kind,
        may_be_tied: params.bool("tied_embeddings")?.unwrap_or(false) || kind == Kind::Eagle,
        has_projector_bias: has_bias,
        projector,
        break_id,
        fp8: fp8(&params)?,
        hparams,
        notes,
    })
}

fn context(params: &Section<'_>, notes: &mut Vec<String>) -> Result<u32, CheckpointError> {
    for key in ["max_position_embeddings", "max_seq_len"] {
        if let Some(n_ctx) = params.int(key, 1, i32::MAX as u32)? {
            return Ok(n_ctx);
        }
    }
    notes.push(format!("params.json does not tell the longest context; took {N_CTX}"));
    Ok(N_CTX)
}

fn positions(params: &Section<'_>) -> Result<Positions, CheckpointError> {
    let freq_base = params.float("rope_theta", ABOVE_0, 1e12)?;
    let freq_base = params.need("rope_theta", freq_base)?;
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = |section: &Section<'_>| section.int(ORIGINAL, 1, i32::MAX as u32);
    let (mut scaling, mut n_ctx_orig) = (RopeScaling::None, None);
    if let Some(yarn) = params.section("yarn")? {
        let number = |key: &str, min: f32| -> Result<f32, CheckpointError> {
            let value = yarn.float(key, min, 65_536.0)?;
            yarn.need(key, value)
        };
        let original = original(&yarn)?;
        let original = yarn.need(ORIGINAL, original)?;
        let applies_scale = yarn.bool("apply_scale")?;
        scaling = RopeScaling::Yarn {
            factor: number("factor", 1.0)?,
            n_ctx_orig: original,
            beta_fast: number("beta", ABOVE_0)?,
            beta_slow: number("alpha", ABOVE_0)?,
            // The magnitude of YaRN is applied, or divided by itself.
            log_multiplier: match yarn.need("apply_scale", applies_scale)? {
                true => 0.0,
                false => 1.0,
            },
        };
        if number("beta", ABOVE_0)? < number("alpha", ABOVE_0)? {
            return Err(yarn.wrong("beta", "at least alpha"));
        }
        n_ctx_orig = Some(original);
    }
    let mut attn_temperature = None;
    if let Some(llama_4) = params.section("llama_4_scaling")? {
        let beta = llama_4.float("beta", 0.0, 64.0)?;
        let scale = llama_4.need("beta", beta)?;
        let own = original(&llama_4)?.or(n_ctx_orig);
        let own = llama_4.need(ORIGINAL, own)?;
        if n_ctx_orig.is_some_and(|n| n != own) {
            return Err(llama_4.wrong(ORIGINAL, "the same as in yarn"));
        }
        attn_temperature = (scale != 0.0).then_some(AttnTemperature { scale, n_ctx_orig: own });
    }
    Ok(Positions { freq_base, scaling, magnitude: 1.0, attn_temperature })
}

fn fp8(params: &Section<'_>) -> Result<Fp8, CheckpointError> {
    let Some(quantization) = params.section("quantization")? else { return Ok(Fp8::Tensor) };
    if quantization.get("quant_method").is_some() {
        return Fp8::of_section(&quantization);
    }
    match quantization.str("qformat_weight")? {
        Some("fp8_e4m3") => Ok(Fp8::Tensor),
        _ => Err(quantization.wrong("qformat_weight", "fp8_e4m3")),
    }
}
