//! The shape of a model, read from GGUF metadata, every value range-checked.
//!
//! Keys and their defaults are those of llama.cpp's converters; files that Ollama made use other
//! names for the YaRN keys, which are read too. `models/medium-3.5/MODEL.md` explains the numbers.

use super::error::ModelError;
use super::spec::{Architecture, MEDIUM_3_5};
use crate::gguf::{Array, Gguf, Label, Metadata, Value, Warning};

/// What to do about a file of a known model that states a YaRN magnitude known to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YarnPolicy {
    /// Compute with the right value and say so.
    Correct,
    /// Compute with the file's value.
    AsIs,
}

/// The numbers that define a model's graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Hparams {
    /// Which of the known layouts the file has.
    pub arch: Architecture,
    /// Number of layers.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Width of the feed-forward network.
    pub n_ff: u32,
    /// Query heads.
    pub n_head: u32,
    /// Key and value heads; divides `n_head`.
    pub n_head_kv: u32,
    /// Elements of one query or key head; not always `n_embd / n_head`.
    pub n_embd_head_k: u32,
    /// Elements of one value head.
    pub n_embd_head_v: u32,
    /// Rows of the embedding.
    pub n_vocab: u32,
    /// Longest sequence the model was trained for.
    pub n_ctx_train: u32,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Position encoding.
    pub rope: Rope,
    /// Scaling of queries with their position; `None` where the model has none.
    pub attn_temperature: Option<AttnTemperature>,
}

/// Rotary position encoding over interleaved pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Rotated elements of each head, even.
    pub n_rot: u32,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// How frequencies are stretched over a longer context.
    pub scaling: RopeScaling,
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
        attn_factor: f32,
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
        let RopeScaling::Yarn { factor, log_multiplier, attn_factor, .. } = self.scaling else {
            return 1.0;
        };
        let magnitude = |multiplier: f32| 0.1 * multiplier * factor.ln() + 1.0;
        let wanted = match log_multiplier {
            0.0 => magnitude(1.0),
            multiplier => magnitude(1.0) / magnitude(multiplier),
        };
        wanted / magnitude(1.0) * attn_factor
    }
}

impl Hparams {
    /// Reads the shape of the model in `gguf`. All missing keys are reported together.
    pub fn from_gguf(gguf: &Gguf, yarn: YarnPolicy) -> Result<(Self, Vec<Warning>), ModelError> {
        let arch = Architecture::of(gguf)?;
        let mut warnings = gguf.warnings().to_vec();
        let keys = Keys { metadata: gguf.metadata(), arch };
        keys.check_required()?;
        keys.check_experts()?;

        let n_head = keys.per_layer("attention.head_count", MAX_HEADS)?.expect(REQUIRED);
        let n_head_kv = keys.per_layer("attention.head_count_kv", n_head)?.unwrap_or(n_head);
        let n_embd = keys.int("embedding_length", 1, MAX_WIDTH)?.expect(REQUIRED);
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.pair("attention.head_count_kv", "attention.head_count", NOT_DIVIDING));
        }
        let n_embd_head_k = keys.head_len("attention.key_length", n_embd, n_head)?;
        let n_embd_head_v = keys.head_len("attention.value_length", n_embd, n_head)?;
        let n_ctx_train = keys.int("context_length", 1, i32::MAX as u32)?.expect(REQUIRED);
        let mut hparams = Self {
            arch,
            n_layer: keys.int("block_count", 1, MAX_LAYERS)?.expect(REQUIRED),
            n_embd,
            n_ff: keys.per_layer("feed_forward_length", MAX_WIDTH)?.expect(REQUIRED),
            n_head,
            n_head_kv,
            n_embd_head_k,
            n_embd_head_v,
            n_vocab: keys.n_vocab()?,
            n_ctx_train,
            norm_eps: keys
                .float("attention.layer_norm_rms_epsilon", above(0.0), 1.0)?
                .expect(REQUIRED),
            rope: keys.rope(n_embd_head_k, n_ctx_train)?,
            attn_temperature: None,
        };
        hparams.attn_temperature = keys.attn_temperature(n_ctx_train)?;
        keys.warn_sliding_window(&mut warnings)?;
        hparams.check_yarn(gguf.label(), yarn, &mut warnings);
        Ok((hparams, warnings))
    }

    /// Elements of the keys of one token and layer.
    pub fn n_embd_k(&self) -> u64 {
        u64::from(self.n_embd_head_k) * u64::from(self.n_head_kv)
    }

    /// Elements of the values of one token and layer.
    pub fn n_embd_v(&self) -> u64 {
        u64::from(self.n_embd_head_v) * u64::from(self.n_head_kv)
    }

    /// Recognises files of Medium 3.5 that were made from its first, wrong config.
    fn check_yarn(&mut self, label: &Label, policy: YarnPolicy, warnings: &mut Vec<Warning>) {
        if !MEDIUM_3_5.has_wrong_yarn(self) {
            return;
        }
        let RopeScaling::Yarn { log_multiplier, .. } = &mut self.rope.scaling else { return };
        let found = *log_multiplier;
        let outcome = match policy {
            YarnPolicy::Correct => {
                *log_multiplier = 0.0;
                "using 0 instead (--yarn-as-is keeps it)"
            }
            YarnPolicy::AsIs => "kept as it is",
        };
        warnings.push(Warning(format!(
            "{label}: wrong YaRN magnitude for {}: yarn_log_multiplier is {found}, {outcome}",
            MEDIUM_3_5.name
        )));
    }
}

const MAX_LAYERS: u32 = 512;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEADS: u32 = 4096;
const MAX_HEAD_LEN: u32 = 4096;
const MAX_VOCAB: u32 = 4 << 20;
const REQUIRED: &str = "checked to be present";
const NOT_DIVIDING: &str = "the first must divide the second";

/// Keys without which there is no model.
const REQUIRED_KEYS: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
];

/// The smallest number above `x`: a range's open end.
fn above(x: f32) -> f32 {
    x.next_up()
}

/// The metadata of one architecture, keys without their prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: Architecture,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name())
    }

    fn has(&self, key: &str) -> bool {
        self.metadata.get(&self.full(key)).is_some()
    }

    fn label(&self) -> Label {
        self.metadata.label().clone()
    }

    /// A key with its value, for messages about two of them.
    fn shown(&self, key: &str) -> String {
        let key = self.full(key);
        let value = self.metadata.get(&key).map_or("absent".to_owned(), Value::to_string);
        format!("'{key}' ({value})")
    }

    fn range(&self, key: &str, expected: String, found: String) -> ModelError {
        let problem = "out of range";
        ModelError::Range { label: self.label(), key: self.full(key), problem, expected, found }
    }

    fn pair(&self, a: &str, b: &str, problem: &'static str) -> ModelError {
        let (a, b) = (self.shown(a), self.shown(b));
        ModelError::Pair { label: self.label(), a, b, problem }
    }

    fn check_required(&self) -> Result<(), ModelError> {
        let missing = REQUIRED_KEYS.iter().filter(|key| !self.has(key));
        let mut keys: Vec<_> = missing.map(|key| self.full(key)).collect();
        const TOKENS: &str = "tokenizer.ggml.tokens";
        if self.metadata.get(TOKENS).is_none() {
            keys.push(TOKENS.to_owned());
        }
        if self.rope_type()? == "yarn" && !self.has("rope.scaling.factor") {
            keys.push(self.full("rope.scaling.factor"));
        }
        if keys.is_empty() {
            return Ok(());
        }
        Err(ModelError::MissingKeys { label: self.label(), keys })
    }

    /// An integer key within `min..=max`.
    fn int(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>, ModelError> {
        let value = self.metadata.u32(&self.full(key))?;
        self.in_range(key, value, min, max)
    }

    fn in_range(
        &self,
        key: &str,
        value: Option<u32>,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, ModelError> {
        match value {
            Some(found) if !(min..=max).contains(&found) => {
                Err(self.range(key, format!("{min} to {max}"), found.to_string()))
            }
            value => Ok(value),
        }
    }

    /// A float key within `min..=max`, which excludes NaN and the infinities.
    fn float(&self, key: &str, min: f32, max: f32) -> Result<Option<f32>, ModelError> {
        match self.metadata.f32(&self.full(key))? {
            Some(found) if !(min..=max).contains(&found) => {
                let (min, above) = match min {
                    min if min == above(0.0) => (0.0, "above "),
                    min => (min, ""),
                };
                Err(self.range(key, format!("{above}{min} to {max}"), found.to_string()))
            }
            value => Ok(value),
        }
    }

    /// The first of two names that the file uses for a float.
    fn float_alias(
        &self,
        key: &str,
        legacy: &str,
        min: f32,
        max: f32,
    ) -> Result<Option<f32>, ModelError> {
        let value = self.float(key, min, max)?;
        let legacy = self.float(legacy, min, max)?;
        Ok(value.or(legacy))
    }

    /// An integer that may be written once or per layer; the layers must agree.
    fn per_layer(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(Value::Array(array)) = self.metadata.get(&self.full(key)) else {
            return self.int(key, 1, max);
        };
        let layers = array.integers().unwrap_or_default();
        let n_layer = self.int("block_count", 1, MAX_LAYERS)?.expect(REQUIRED);
        let all_equal = layers.iter().all(|layer| layer == &layers[0]);
        if layers.len() != n_layer as usize || !all_equal {
            let expected = format!("the same value for each of {n_layer} layers");
            let found = match layers.len() {
                n if n == n_layer as usize => "different values".to_owned(),
                n => format!("{n} values"),
            };
            return Err(self.range(key, expected, found));
        }
        let value = layers.first().map(|&layer| u32::try_from(layer).unwrap_or(0));
        self.in_range(key, value, 1, max)
    }

    /// Length of a head, from its key or from the width and the number of heads.
    fn head_len(&self, key: &str, n_embd: u32, n_head: u32) -> Result<u32, ModelError> {
        if let Some(len) = self.int(key, 1, MAX_HEAD_LEN)? {
            return Ok(len);
        }
        if !n_embd.is_multiple_of(n_head) {
            return Err(self.pair("attention.head_count", "embedding_length", NOT_DIVIDING));
        }
        Ok(n_embd / n_head)
    }

    fn check_experts(&self) -> Result<(), ModelError> {
        let (count, used) = ("expert_count", "expert_used_count");
        let n_expert = self.metadata.u32(&self.full(count))?.unwrap_or(0);
        let n_used = self.metadata.u32(&self.full(used))?.unwrap_or(0);
        if (n_expert == 0) != (n_used == 0) {
            return Err(self.pair(count, used, "one without the other"));
        }
        if n_used > n_expert {
            return Err(self.pair(used, count, "more experts used than there are"));
        }
        if n_expert > 0 {
            let problem = format!("mixture of {n_expert} experts; only dense models are supported");
            return Err(ModelError::Kind { label: self.label(), problem });
        }
        Ok(())
    }

    fn n_vocab(&self) -> Result<u32, ModelError> {
        if let Some(n_vocab) = self.int("vocab_size", 1, MAX_VOCAB)? {
            return Ok(n_vocab);
        }
        let tokens = self.metadata.strings("tokenizer.ggml.tokens")?.map_or(0, |t| t.len());
        u32::try_from(tokens).ok().filter(|n| (1..=MAX_VOCAB).contains(n)).ok_or_else(|| {
            self.range("vocab_size", format!("1 to {MAX_VOCAB}"), tokens.to_string())
        })
    }

    fn rope_type(&self) -> Result<&str, ModelError> {
        Ok(self.metadata.str(&self.full("rope.scaling.type"))?.unwrap_or("linear"))
    }

    fn rope(&self, n_embd_head_k: u32, n_ctx_train: u32) -> Result<Rope, ModelError> {
        const N_ROT: &str = "rope.dimension_count";
        let n_rot = self.int(N_ROT, 2, n_embd_head_k)?.unwrap_or(n_embd_head_k);
        if !n_rot.is_multiple_of(2) {
            return Err(self.range(N_ROT, "an even number".to_owned(), n_rot.to_string()));
        }
        let freq_base = self.float("rope.freq_base", above(0.0), 1e12)?.unwrap_or(10_000.0);
        let scaling = self.rope_scaling(n_ctx_train)?;
        Ok(Rope { n_rot, freq_base, scaling })
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
        let attn_factor = self.float("rope.scaling.attn_factor", above(0.0), 64.0)?.unwrap_or(1.0);
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
                attn_factor,
            }),
            (found, _) => {
                let found = super::error::quoted(found);
                Err(self.range("rope.scaling.type", "none, linear or yarn".to_owned(), found))
            }
        }
    }

    fn n_ctx_orig(&self, n_ctx_train: u32) -> Result<u32, ModelError> {
        let found = self.int("rope.scaling.original_context_length", 1, i32::MAX as u32)?;
        Ok(found.unwrap_or(n_ctx_train))
    }

    fn attn_temperature(&self, n_ctx_train: u32) -> Result<Option<AttnTemperature>, ModelError> {
        let (key, legacy) = ("attention.temperature_scale", "rope.scaling_beta");
        let scale = self.float_alias(key, legacy, 0.0, 64.0)?.filter(|&scale| scale != 0.0);
        let n_ctx_orig = self.n_ctx_orig(n_ctx_train)?;
        Ok(scale.map(|scale| AttnTemperature { scale, n_ctx_orig }))
    }

    /// Windows are not computed with; within one window the result is the same.
    fn warn_sliding_window(&self, warnings: &mut Vec<Warning>) -> Result<(), ModelError> {
        let key = self.full("attention.sliding_window");
        let window = match self.metadata.get(&key) {
            Some(Value::U32(window)) => i128::from(*window),
            Some(Value::Array(array)) => widest(array),
            _ => 0,
        };
        if window > 0 {
            let label = self.metadata.label();
            warnings.push(Warning(format!(
                "{label} key '{key}': the window of {window} tokens is ignored, \
                 longer texts see all tokens"
            )));
        }
        Ok(())
    }
}

fn widest(array: &Array) -> i128 {
    array.integers().unwrap_or_default().into_iter().max().unwrap_or(0)
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
            attn_factor: 1.0,
        };
        Rope { n_rot: 128, freq_base: 1e6, scaling }
    }

    #[test]
    fn attn_factor_undoes_what_ggml_applies() {
        let net = 1.415_888_3; // 0.1 · ln 64 + 1
        assert!((yarn(0.0).attn_factor() - 1.0).abs() < 1e-6);
        assert!((yarn(1.0).attn_factor() - 1.0 / net).abs() < 1e-6);
        assert_eq!((yarn(0.0).freq_scale(), yarn(0.0).ext_factor()), (1.0 / 64.0, 1.0));
        let plain = Rope { scaling: RopeScaling::None, ..yarn(0.0) };
        assert_eq!((plain.freq_scale(), plain.ext_factor(), plain.attn_factor()), (1.0, 0.0, 1.0));
    }
}
