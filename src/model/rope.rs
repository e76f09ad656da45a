//! Position encoding: rotary embedding, its stretching by YaRN, and attention temperature.
//!
//! The methods give the arguments of ggml's `rope_ext`; the graph passes them on as they are.

use super::error::{ModelError, quoted};
use super::keys::{Keys, REQUIRED, above};

/// Rotary position encoding over interleaved pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Rotated elements of each head, even.
    pub n_rot: u32,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// How frequencies are stretched over a longer context.
    pub scaling: RopeScaling,
    /// Factor on cosine and sine that the file asks for besides YaRN's own; nearly always 1.
    pub magnitude: f32,
}

/// Stretching of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The variants are named as in the literature; the fields are told below.
pub enum RopeScaling {
    None,
    Linear {
        factor: f32,
    },
    /// YaRN; `log_multiplier` is Hugging Face's `mscale_all_dim`.
    Yarn {
        factor: f32,
        n_ctx_orig: u32,
        beta_fast: f32,
        beta_slow: f32,
        log_multiplier: f32,
    },
}

/// Queries are multiplied by `1 + scale · ln(1 + floor(position / n_ctx_orig))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttnTemperature {
    /// Strength, above 0.
    pub scale: f32,
    /// Positions below this are not scaled.
    pub n_ctx_orig: u32,
}

impl AttnTemperature {
    /// The factor on the query at `position`.
    pub fn scale_at(self, position: u32) -> f32 {
        1.0 + self.scale * ((1 + position / self.n_ctx_orig) as f32).ln()
    }
}

impl Rope {
    /// `freq_scale` for ggml: positions are multiplied by it.
    pub fn freq_scale(&self) -> f32 {
        match self.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } | RopeScaling::Yarn { factor, .. } => 1.0 / factor,
        }
    }

    /// `ext_factor` for ggml: 1 mixes extrapolated and interpolated frequencies as YaRN wants it.
    pub fn ext_factor(&self) -> f32 {
        if matches!(self.scaling, RopeScaling::Yarn { .. }) { 1.0 } else { 0.0 }
    }

    /// `attn_factor` for ggml: the factor on cosine and sine that ggml does not apply by itself.
    ///
    /// With `m(x) = 0.1 · x · ln(factor) + 1`, YaRN scales cosine and sine by `m(1)`, and by
    /// `m(1) / m(log_multiplier)` where the model was trained so (a multiplier other than 0). Since
    /// `ext_factor` is 1, ggml multiplies by `m(1)` on its own, which is divided out here.
    pub fn attn_factor(&self) -> f32 {
        let RopeScaling::Yarn { factor, log_multiplier, .. } = self.scaling else {
            return self.magnitude;
        };
        let magnitude = |multiplier: f32| 0.1 * multiplier * factor.ln() + 1.0;
        let wanted = match log_multiplier {
            0.0 => magnitude(1.0),
            multiplier => magnitude(1.0) / magnitude(multiplier),
        };
        wanted / magnitude(1.0) * self.magnitude
    }
}

impl Keys<'_> {
    /// Reads the position encoding.
    pub(super) fn rope(&self, n_embd_head_k: u32, n_ctx_train: u32) -> Result<Rope, ModelError> {
        const N_ROT: &str = "rope.dimension_count";
        let n_rot = self.int(N_ROT, 2, n_embd_head_k)?.unwrap_or(n_embd_head_k);
        if !n_rot.is_multiple_of(2) {
            return Err(self.range(N_ROT, "an even number".to_owned(), n_rot.to_string()));
        }
        let freq_base = self.float("rope.freq_base", above(0.0), 1e12)?.unwrap_or(10_000.0);
        let scaling = self.rope_scaling(n_ctx_train)?;
        let magnitude = self.float("rope.scaling.attn_factor", above(0.0), 64.0)?.unwrap_or(1.0);
        Ok(Rope { n_rot, freq_base, scaling, magnitude })
    }

    fn rope_scaling(&self, n_ctx_train: u32) -> Result<RopeScaling, ModelError> {
        // Every value is checked, also where the kind of scaling does not use it.
        let factor = self.float("rope.scaling.factor", 1.0, 65_536.0)?;
        let factor = factor.or(self.float("rope.scale_linear", 1.0, 65_536.0)?);
        let n_ctx_orig = self.n_ctx_orig(n_ctx_train)?;
        let beta = |key, legacy, default| -> Result<f32, ModelError> {
            Ok(self.float_alias(key, legacy, above(0.0), 65_536.0)?.unwrap_or(default))
        };
        let (fast, slow) = ("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow");
        let beta_fast = beta(fast, "rope.scaling.beta_fast", 32.0)?;
        let beta_slow = beta(slow, "rope.scaling.beta_slow", 1.0)?;
        let log_multiplier = self
            .float_alias(
                "rope.scaling.yarn_log_multiplier",
                "rope.scaling.mscale_all_dim",
                0.0,
                64.0,
            )?
            .unwrap_or(0.0);
        match (self.rope_type()?, factor) {
            ("none", _) | ("linear", None | Some(1.0)) => Ok(RopeScaling::None),
            ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
            ("yarn", _) if beta_fast < beta_slow => {
                Err(self.pair(fast, slow, "the first must not be below the second"))
            }
            ("yarn", factor) => Ok(RopeScaling::Yarn {
                factor: factor.expect(REQUIRED),
                n_ctx_orig,
                beta_fast,
                beta_slow,
                log_multiplier,
            }),
            (found, _) => {
                let found = quoted(found);
                Err(self.range("rope.scaling.type", "none, linear or yarn".to_owned(), found))
            }
        }
    }

    fn n_ctx_orig(&self, n_ctx_train: u32) -> Result<u32, ModelError> {
        let found = self.int("rope.scaling.original_context_length", 1, i32::MAX as u32)?;
        Ok(found.unwrap_or(n_ctx_train))
    }

    /// Reads the scaling of queries; absent and 0 mean none.
    pub(super) fn attn_temperature(
        &self,
        n_ctx_train: u32,
    ) -> Result<Option<AttnTemperature>, ModelError> {
        let (key, legacy) = ("attention.temperature_scale", "rope.scaling_beta");
        let scale = self.float_alias(key, legacy, 0.0, 64.0)?.filter(|&scale| scale != 0.0);
        let n_ctx_orig = self.n_ctx_orig(n_ctx_train)?;
        Ok(scale.map(|scale| AttnTemperature { scale, n_ctx_orig }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yarn(log_multiplier: f32) -> Rope {
        let scaling = RopeScaling::Yarn {
            factor: 64.0,
            n_ctx_orig: 4096,
            beta_fast: 4.0,
            beta_slow: 1.0,
            log_multiplier,
        };
        Rope { n_rot: 128, freq_base: 1e6, scaling, magnitude: 1.0 }
    }

    #[test]
    fn attn_factor_undoes_what_ggml_applies() {
        let net = 1.415_888_3; // 0.1 · ln 64 + 1
        assert!((yarn(0.0).attn_factor() - 1.0).abs() < 1e-6);
        assert!((yarn(1.0).attn_factor() - 1.0 / net).abs() < 1e-6);
        assert_eq!((yarn(0.0).freq_scale(), yarn(0.0).ext_factor()), (1.0 / 64.0, 1.0));
        let plain = Rope { scaling: RopeScaling::None, ..yarn(0.0) };
        assert_eq!((plain.freq_scale(), plain.ext_factor(), plain.attn_factor()), (1.0, 0.0, 1.0));
        assert_eq!(Rope { magnitude: 1.5, ..plain }.attn_factor(), 1.5);
    }
}
