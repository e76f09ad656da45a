//! The metadata that states a model's shape: the way back from [`Hparams`] to a file.
//!
//! `hparams.rs` reads what is written here, and more: the aliases and defaults of other writers. What a
//! file says about itself beyond its shape (name, tokenizer, quantization) is its writer's business.

use super::hparams::Hparams;
use super::rope::RopeScaling;
use crate::gguf::Value;

/// Keys and values from which [`Hparams::from_gguf`] reads `hparams` again, in the usual order.
pub fn metadata_of(hparams: &Hparams) -> Vec<(String, Value)> {
    let arch = hparams.arch.name();
    let mut keys = vec![("general.architecture".to_owned(), Value::String(arch.to_owned()))];
    let mut set = |key: &str, value| keys.push((format!("{arch}.{key}"), value));
    set("block_count", Value::U32(hparams.n_layer));
    set("context_length", Value::U32(hparams.n_ctx_train));
    set("embedding_length", Value::U32(hparams.n_embd));
    set("feed_forward_length", Value::U32(hparams.n_ff));
    set("attention.head_count", Value::U32(hparams.n_head));
    set("attention.head_count_kv", Value::U32(hparams.n_head_kv));
    set("attention.key_length", Value::U32(hparams.n_embd_head_k));
    set("attention.value_length", Value::U32(hparams.n_embd_head_v));
    set("attention.layer_norm_rms_epsilon", Value::F32(hparams.norm_eps));
    set("rope.dimension_count", Value::U32(hparams.rope.n_rot));
    set("rope.freq_base", Value::F32(hparams.rope.freq_base));
    match hparams.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            set("rope.scaling.type", Value::String("linear".to_owned()));
            set("rope.scaling.factor", Value::F32(factor));
        }
        RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, log_multiplier } => {
            set("rope.scaling.type", Value::String("yarn".to_owned()));
            set("rope.scaling.factor", Value::F32(factor));
            set("rope.scaling.original_context_length", Value::U32(n_ctx_orig));
            set("rope.scaling.yarn_beta_fast", Value::F32(beta_fast));
            set("rope.scaling.yarn_beta_slow", Value::F32(beta_slow));
            set("rope.scaling.yarn_log_multiplier", Value::F32(log_multiplier));
        }
    }
    if hparams.rope.magnitude != 1.0 {
        set("rope.scaling.attn_factor", Value::F32(hparams.rope.magnitude));
    }
    if let Some(temperature) = hparams.attn_temperature {
        set("attention.temperature_scale", Value::F32(temperature.scale));
        if !matches!(hparams.rope.scaling, RopeScaling::Yarn { .. }) {
            let n_ctx_orig = Value::U32(temperature.n_ctx_orig);
            set("rope.scaling.original_context_length", n_ctx_orig);
        }
    }
    set("vocab_size", Value::U32(hparams.n_vocab));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Gguf, HeaderBuilder, TensorType};
    use crate::model::{AttnTemperature, YarnPolicy, medium_3_5};

    #[test]
    fn a_shape_comes_back_from_its_keys() {
        let yarn = Hparams { n_vocab: 3, ..medium_3_5() };
        let mut linear = yarn.clone();
        linear.rope.scaling = RopeScaling::Linear { factor: 4.0 };
        linear.attn_temperature = Some(AttnTemperature { scale: 0.1, n_ctx_orig: 8192 });
        let mut plain = yarn.clone();
        plain.rope.scaling = RopeScaling::None;
        for hparams in [yarn, linear, plain] {
            let mut header = HeaderBuilder::new();
            metadata_of(&hparams).iter().for_each(|(key, value)| header.set(key, value));
            let tokens = Array::String(["a", "b", "c"].into_iter().collect());
            header.set("tokenizer.ggml.tokens", &Value::Array(tokens));
            header.tensor("some", TensorType::F32, &[1]);
            let layout = header.finish();
            let mut bytes = layout.header;
            bytes.resize(layout.n_bytes as usize, 0);
            let gguf = Gguf::from_bytes("test", bytes).unwrap();
            let (read, warnings) = Hparams::from_gguf(&gguf, YarnPolicy::Correct).unwrap();
            assert_eq!((read, warnings), (hparams, vec![]));
        }
    }
}
