//! The shape of a model, read from GGUF metadata, every value range-checked.
//!
//! Keys and their defaults are those of llama.cpp's converters; files that Ollama made use other
//! names for the YaRN keys, which are read too. `models/medium-3.5/MODEL.md` explains the numbers.

use super::error::ModelError;
use super::keys::{Keys, MAX_LAYERS, REQUIRED, above};
use super::medium::MEDIUM_3_5;
use super::rope::{AttnTemperature, Rope, RopeScaling};
use super::spec::Architecture;
use crate::gguf::{Array, Gguf, Label, Value, Warning};

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

impl Hparams {
    /// Reads the shape of the model in `gguf`. All missing keys are reported together.
    pub fn from_gguf(gguf: &Gguf, yarn: YarnPolicy) -> Result<(Self, Vec<Warning>), ModelError> {
        let arch = Architecture::of(gguf)?;
        let mut warnings = gguf.warnings().to_vec();
        let keys = Keys { metadata: gguf.metadata(), arch };
        keys.check_required()?;
        keys.check_experts()?;

        let n_head = keys.per_layer("attention.head_count", MAX_HEADS)?.expect(REQUIRED);
        let n_head_kv = keys.per_layer("attention.head_count_kv", MAX_HEADS)?.unwrap_or(n_head);
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

pub(crate) const MAX_WIDTH: u32 = 1 << 20;
pub(crate) const MAX_HEADS: u32 = 4096;
pub(crate) const MAX_HEAD_LEN: u32 = 4096;
pub(crate) const MAX_VOCAB: u32 = 4 << 20;
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

impl Keys<'_> {
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
