//! Position encoding as transformers' configurations state it.
//!
//! The parameters have stood under three keys over the years (`rope_parameters`, `rope_scaling`, and beside
//! the rest); the magnitude of YaRN is computed as transformers computes it, whatever a file's writer thought.

use super::description::{ABOVE_0, Positions};
use super::error::CheckpointError;
use super::json::Section;
use crate::model::{AttnTemperature, RopeScaling};

/// The class whose defaults a configuration leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParentClass {
    Mistral,
    Ministral3,
}

const MAX_FACTOR: f32 = 65_536.0;
/// Base of the frequencies where none is written.
const FREQ_BASE: f32 = 10_000.0;

/// Reads the position encoding of the language model `text`.
pub(super) fn positions(
    text: &Section<'_>,
    class: ParentClass,
    n_ctx_train: u32,
) -> Result<Positions, CheckpointError> {
    let rope = match text.section("rope_scaling")? {
        Some(rope) => Some(rope),
        None => text.section("rope_parameters")?,
    };
    let beside = text.float("rope_theta", ABOVE_0, 1e12)?;
    let Some(rope) = rope else {
        return match class {
            ParentClass::Mistral => Ok(plain(beside.unwrap_or(FREQ_BASE))),
            ParentClass::Ministral3 => Ok(ministral3()),
        };
    };
    text.refuse(&["partial_rotary_factor"], "a partial rotation").or_else(|error| {
        let factor = text.get("partial_rotary_factor").and_then(serde_json::Value::as_f64);
        if factor == Some(1.0) { Ok(()) } else { Err(error) }
    })?;
    let freq_base = rope.float("rope_theta", ABOVE_0, 1e12)?.or(beside).unwrap_or(FREQ_BASE);
    let (key, ty) = match rope.str("rope_type")? {
        Some(ty) => ("rope_type", Some(ty)),
        None => ("type", rope.str("type")?),
    };
    match ty {
        None | Some("default") => Ok(plain(freq_base)),
        Some("linear") => {
            let factor = rope.float("factor", 1.0, MAX_FACTOR)?;
            let factor = rope.need("factor", factor)?;
            let scaling = match factor {
                1.0 => RopeScaling::None,
                factor => RopeScaling::Linear { factor },
            };
            Ok(Positions { scaling, ..plain(freq_base) })
        }
        Some("yarn") => yarn(&rope, freq_base, class, n_ctx_train),
        Some(_) => Err(rope.wrong(key, "default, linear or yarn")),
    }
}

fn plain(freq_base: f32) -> Positions {
    Positions { freq_base, scaling: RopeScaling::None, magnitude: 1.0, attn_temperature: None }
}

/// The defaults of transformers' `Ministral3Config`.
fn ministral3() -> Positions {
    let scaling = RopeScaling::Yarn {
        factor: 16.0,
        n_ctx_orig: 16_384,
        beta_fast: 32.0,
        beta_slow: 1.0,
        log_multiplier: 1.0,
    };
    let attn_temperature = Some(AttnTemperature { scale: 0.1, n_ctx_orig: 16_384 });
    Positions { freq_base: 1e6, scaling, magnitude: 1.0, attn_temperature }
}

fn yarn(
    rope: &Section<'_>,
    freq_base: f32,
    class: ParentClass,
    n_ctx_train: u32,
) -> Result<Positions, CheckpointError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let n_ctx_orig = rope.int(ORIGINAL, 1, i32::MAX as u32)?.unwrap_or(n_ctx_train);
    let factor = match rope.float("factor", 1.0, MAX_FACTOR)? {
        Some(factor) => factor,
        None => return Err(rope.wrong("factor", &format!("a number, 1 to {MAX_FACTOR}"))),
    };
    let beta_fast = rope.float("beta_fast", ABOVE_0, MAX_FACTOR)?.unwrap_or(32.0);
    let beta_slow = rope.float("beta_slow", ABOVE_0, MAX_FACTOR)?.unwrap_or(1.0);
    if beta_fast < beta_slow {
        return Err(rope.wrong("beta_fast", &format!("at least beta_slow, {beta_slow}")));
    }
    if rope.bool("truncate")? == Some(false) {
        return Err(rope.wrong("truncate", "true: the ramp between whole pairs"));
    }
    // transformers looks at the two only if neither is 0.
    let mscale = rope.float("mscale", 0.0, 64.0)?.unwrap_or(0.0);
    let all_dim = rope.float("mscale_all_dim", 0.0, 64.0)?.unwrap_or(0.0);
    let log_multiplier = match mscale {
        0.0 => 0.0,
        1.0 => all_dim,
        _ if all_dim == 0.0 => 0.0,
        _ => return Err(rope.wrong("mscale", "0 or 1")),
    };
    let own = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
    let (log_multiplier, magnitude) = match rope.float("attention_factor", ABOVE_0, 64.0)? {
        Some(stated) => (0.0, stated / own),
        None => (log_multiplier, 1.0),
    };
    let beta = match class {
        ParentClass::Ministral3 => rope.float("llama_4_scaling_beta", 0.0, 64.0)?,
        ParentClass::Mistral => None,
    };
    let attn_temperature = beta.filter(|&scale| scale != 0.0);
    Ok(Positions {
        freq_base,
        scaling: RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier },
        magnitude,
        attn_temperature: attn_temperature.map(|scale| AttnTemperature { scale, n_ctx_orig }),
    })
}
