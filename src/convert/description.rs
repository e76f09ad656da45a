//! What a `config.json` or a `params.json` says, in this program's words.
//!
//! `config.rs` and `params.rs` read it, each from its own file; nothing above them looks at keys.

use super::checkpoint::Kind;
use super::error::CheckpointError;
use super::json::Section;
use super::quantization::Fp8;
use crate::model::{
    Architecture, AttnTemperature, Hparams, MAX_HEAD_LEN, MAX_HEADS, MAX_LAYERS, MAX_VOCAB,
    MAX_WIDTH, Projector, Rope, RopeScaling,
};

/// A checkpoint by its configuration.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) kind: Kind,
    pub(super) hparams: Hparams,
    pub(super) projector: Option<Projector>,
    /// Whether the model may do without `output.weight`.
    pub(super) may_be_tied: bool,
    /// Whether the projector's matrices have biases.
    pub(super) has_projector_bias: bool,
    /// The token whose embedding the vision tower's file repeats, where the configuration says it.
    pub(super) break_id: Option<u32>,
    pub(super) fp8: Fp8,
    pub(super) notes: Vec<String>,
}

/// The smallest number above 0: a range's open end.
pub(super) const ABOVE_0: f32 = f32::from_bits(1);

/// Keys under which a layout has a language model's numbers.
pub(super) struct TextKeys {
    pub(super) n_layer: &'static str,
    pub(super) n_embd: &'static str,
    pub(super) n_ff: &'static str,
    pub(super) n_head: &'static str,
    pub(super) n_head_kv: &'static str,
    pub(super) norm_eps: &'static str,
}

/// Numbers that are taken where a configuration leaves them out; `None` where it must not.
pub(super) struct TextDefaults {
    pub(super) n_layer: Option<u32>,
    pub(super) n_embd: Option<u32>,
    pub(super) n_ff: Option<u32>,
    pub(super) n_head: Option<u32>,
    pub(super) n_head_kv: Option<u32>,
    pub(super) head_len: Option<u32>,
    pub(super) n_vocab: Option<u32>,
    pub(super) norm_eps: Option<f32>,
}

/// Nothing is left out.
pub(super) const NO_DEFAULTS: TextDefaults = TextDefaults {
    n_layer: None,
    n_embd: None,
    n_ff: None,
    n_head: None,
    n_head_kv: None,
    head_len: None,
    n_vocab: None,
    norm_eps: None,
};

/// How positions are encoded.
pub(super) struct Positions {
    pub(super) freq_base: f32,
    pub(super) scaling: RopeScaling,
    pub(super) magnitude: f32,
    pub(super) attn_temperature: Option<AttnTemperature>,
}

/// A whole number, or its default.
pub(super) fn int(
    section: &Section<'_>,
    key: &str,
    max: u32,
    default: Option<u32>,
) -> Result<u32, CheckpointError> {
    let value = section.int(key, 1, max)?;
    section.need(key, value.or(default))
}

/// Reads the shape of a language model, with the bounds that a GGUF file must keep too.
pub(super) fn hparams(
    text: &Section<'_>,
    keys: &TextKeys,
    defaults: &TextDefaults,
    arch: Architecture,
    n_ctx_train: u32,
    positions: Positions,
) -> Result<Hparams, CheckpointError> {
    let n_embd = int(text, keys.n_embd, MAX_WIDTH, defaults.n_embd)?;
    let n_head = int(text, keys.n_head, MAX_HEADS, defaults.n_head)?;
    let n_head_kv = int(text, keys.n_head_kv, MAX_HEADS, defaults.n_head_kv.or(Some(n_head)))?;
    if !n_head.is_multiple_of(n_head_kv) {
        return Err(text.wrong(keys.n_head_kv, &format!("a divisor of {n_head} heads")));
    }
    let own = n_embd.is_multiple_of(n_head).then_some(n_embd / n_head);
    let head_len = int(text, "head_dim", MAX_HEAD_LEN, defaults.head_len.or(own))?;
    if !head_len.is_multiple_of(2) {
        return Err(text.error("head_dim", "an even number", &head_len.to_string()));
    }
    let norm_eps = text.float(keys.norm_eps, ABOVE_0, 1.0)?.or(defaults.norm_eps);
    Ok(Hparams {
        arch,
        n_layer: int(text, keys.n_layer, MAX_LAYERS, defaults.n_layer)?,
        n_embd,
        n_ff: int(text, keys.n_ff, MAX_WIDTH, defaults.n_ff)?,
        n_head,
        n_head_kv,
        n_embd_head_k: head_len,
        n_embd_head_v: head_len,
        n_vocab: int(text, "vocab_size", MAX_VOCAB, defaults.n_vocab)?,
        n_ctx_train,
        norm_eps: text.need(keys.norm_eps, norm_eps)?,
        rope: Rope {
            n_rot: head_len,
            freq_base: positions.freq_base,
            scaling: positions.scaling,
            magnitude: positions.magnitude,
        },
        attn_temperature: positions.attn_temperature,
    })
}
