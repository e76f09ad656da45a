//! Names of tensors: from both layouts, with all their prefixes, to GGUF's.
//!
//! Hugging Face's names have changed with transformers (`model.language_model.layers`,
//! `language_model.model.layers`, `model.layers`); the prefixes say nothing that the rest does not, so any
//! of them may stand in front. Two tensors that end up under one name are refused by the caller.

use super::layout::Layout;

/// What a tensor of a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tensor of the model, by its GGUF name.
    Tensor(String),
    /// The scale of a weight, by the weight's own name.
    ScaleOf(String),
    /// Nothing that a GGUF file holds: scales of activations.
    Unused,
    /// A table that programs compute themselves.
    Computed,
    /// Nothing that is known.
    Unknown,
}

const PREFIXES: [&str; 2] = ["model.", "language_model."];

const SCALES: [&str; 4] = [".weight_scale_inv", ".weight_scale", ".scale_weight", ".qscale_weight"];

const UNUSED: [&str; 7] = [
    ".activation_scale",
    "_activation_scale",
    ".input_scale",
    ".scale_input",
    ".qscale_act",
    ".k_scale",
    ".v_scale",
];

const COMPUTED: [&str; 5] = [
    ".rotary_emb.inv_freq",
    ".patch_positional_embedding.inv_freq",
    ".position_ids",
    ".attention.bias",
    ".attention.masked_bias",
];

/// Names in Hugging Face's layout; `{}` stands for a layer's number.
const HUGGING_FACE: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("norm", "output_norm"),
    ("lm_head", "output"),
    ("layers.{}.input_layernorm", "blk.{}.attn_norm"),
    ("layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    ("layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    ("layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    ("layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    ("layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    ("layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    ("layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    ("layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    ("vision_tower.patch_conv", "v.patch_embd"),
    ("vision_tower.ln_pre", "v.pre_ln"),
    ("vision_tower.transformer.layers.{}.attention_norm", "v.blk.{}.ln1"),
    ("vision_tower.transformer.layers.{}.attention.q_proj", "v.blk.{}.attn_q"),
    ("vision_tower.transformer.layers.{}.attention.k_proj", "v.blk.{}.attn_k"),
    ("vision_tower.transformer.layers.{}.attention.v_proj", "v.blk.{}.attn_v"),
    ("vision_tower.transformer.layers.{}.attention.o_proj", "v.blk.{}.attn_out"),
    ("vision_tower.transformer.layers.{}.ffn_norm", "v.blk.{}.ln2"),
    ("vision_tower.transformer.layers.{}.feed_forward.gate_proj", "v.blk.{}.ffn_gate"),
    ("vision_tower.transformer.layers.{}.feed_forward.up_proj", "v.blk.{}.ffn_up"),
    ("vision_tower.transformer.layers.{}.feed_forward.down_proj", "v.blk.{}.ffn_down"),
    ("multi_modal_projector.norm", "mm.input_norm"),
    ("multi_modal_projector.patch_merger.merging_layer", "mm.patch_merger"),
    ("multi_modal_projector.linear_1", "mm.1"),
    ("multi_modal_projector.linear_2", "mm.2"),
];

/// Names in Mistral's layout.
const NATIVE: &[(&str, &str)] = &[
    ("tok_embeddings", "token_embd"),
    ("norm", "output_norm"),
    ("output", "output"),
    ("lm_head", "output"),
    ("eagle_linear", "fc"),
    ("layers.{}.attention_norm", "blk.{}.attn_norm"),
    ("layers.{}.attention.wq", "blk.{}.attn_q"),
    ("layers.{}.attention.wk", "blk.{}.attn_k"),
    ("layers.{}.attention.wv", "blk.{}.attn_v"),
    ("layers.{}.attention.wo", "blk.{}.attn_output"),
    ("layers.{}.ffn_norm", "blk.{}.ffn_norm"),
    ("layers.{}.feed_forward.w1", "blk.{}.ffn_gate"),
    ("layers.{}.feed_forward.w3", "blk.{}.ffn_up"),
    ("layers.{}.feed_forward.w2", "blk.{}.ffn_down"),
    ("vision_encoder.patch_conv", "v.patch_embd"),
    ("vision_encoder.ln_pre", "v.pre_ln"),
    ("vision_encoder.transformer.layers.{}.attention_norm", "v.blk.{}.ln1"),
    ("vision_encoder.transformer.layers.{}.attention.wq", "v.blk.{}.attn_q"),
    ("vision_encoder.transformer.layers.{}.attention.wk", "v.blk.{}.attn_k"),
    ("vision_encoder.transformer.layers.{}.attention.wv", "v.blk.{}.attn_v"),
    ("vision_encoder.transformer.layers.{}.attention.wo", "v.blk.{}.attn_out"),
    ("vision_encoder.transformer.layers.{}.ffn_norm", "v.blk.{}.ln2"),
    ("vision_encoder.transformer.layers.{}.feed_forward.w1", "v.blk.{}.ffn_gate"),
    ("vision_encoder.transformer.layers.{}.feed_forward.w3", "v.blk.{}.ffn_up"),
    ("vision_encoder.transformer.layers.{}.feed_forward.w2", "v.blk.{}.ffn_down"),
    ("pre_mm_projector_norm", "mm.input_norm"),
    ("patch_merger.merging_layer", "mm.patch_merger"),
    ("vision_language_adapter.w_in", "mm.1"),
    ("vision_language_adapter.w_out", "mm.2"),
];

/// The tensor of an EAGLE head that no other checkpoint has.
pub(super) const EAGLE_LINEAR: &str = "eagle_linear.weight";

/// What the tensor `name` is in a checkpoint of this layout.
pub(super) fn meaning(layout: Layout, name: &str) -> Meaning {
    if let Some(base) = SCALES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        return Meaning::ScaleOf(format!("{base}.weight"));
    }
    if UNUSED.iter().any(|suffix| name.ends_with(suffix)) {
        return Meaning::Unused;
    }
    if COMPUTED.iter().any(|suffix| name.ends_with(suffix)) {
        return Meaning::Computed;
    }
    let rest = &name[prefix(name).len()..];
    let Some((stem, ending)) = rest.rsplit_once('.') else { return Meaning::Unknown };
    if !matches!(ending, "weight" | "bias") {
        return Meaning::Unknown;
    }
    let table = table(layout);
    let found = table.iter().find_map(|(pattern, gguf)| match pattern.split_once("{}") {
        None => (stem == *pattern).then(|| (*gguf).to_owned()),
        Some((before, after)) => {
            let layer = stem.strip_prefix(before)?.strip_suffix(after)?;
            // As it is written: 007 is no layer.
            let number: u32 = layer.parse().ok().filter(|n: &u32| n.to_string() == layer)?;
            Some(gguf.replace("{}", &number.to_string()))
        }
    });
    found.map_or(Meaning::Unknown, |stem| Meaning::Tensor(format!("{stem}.{ending}")))
}

fn table(layout: Layout) -> &'static [(&'static str, &'static str)] {
    match layout {
        Layout::HuggingFace => HUGGING_FACE,
        Layout::Native => NATIVE,
    }
}

/// What stands in front of the part of a name that says something.
pub(super) fn prefix(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    &name[..name.len() - rest.len()]
}

/// What the GGUF tensor `gguf` is called in a checkpoint of this layout, without a prefix.
pub(super) fn original(layout: Layout, gguf: &str) -> Option<String> {
    let (stem, ending) = gguf.rsplit_once('.')?;
    let found =
        table(layout).iter().find_map(|(name, pattern)| match pattern.split_once("{}") {
            None => (stem == *pattern).then(|| (*name).to_owned()),
            Some((before, after)) => {
                let layer = stem.strip_prefix(before)?.strip_suffix(after)?;
                Some(name.replace("{}", layer))
            }
        })?;
    Some(format!("{found}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(layout: Layout, name: &str, gguf: &str) {
        assert_eq!(meaning(layout, name), Meaning::Tensor(gguf.to_owned()), "{name}");
        let whole = original(layout, gguf).map(|rest| format!("{}{rest}", prefix(name)));
        assert_eq!(whole.as_deref(), Some(name));
    }

    #[test]
    fn every_prefix_leads_to_the_same_name() {
        for prefix in [
            "",
            "model.",
            "model.language_model.",
            "language_model.model.",
            "model.language_model.model.",
        ] {
            let hf = |name: &str, gguf| is(Layout::HuggingFace, &format!("{prefix}{name}"), gguf);
            hf("embed_tokens.weight", "token_embd.weight");
            hf("norm.weight", "output_norm.weight");
            hf("layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight");
            hf("layers.0.mlp.down_proj.bias", "blk.0.ffn_down.bias");
            hf("lm_head.weight", "output.weight");
        }
        for prefix in ["", "model."] {
            let hf = |name: &str, gguf| is(Layout::HuggingFace, &format!("{prefix}{name}"), gguf);
            hf("vision_tower.patch_conv.weight", "v.patch_embd.weight");
            hf(
                "vision_tower.transformer.layers.47.attention.o_proj.weight",
                "v.blk.47.attn_out.weight",
            );
            hf("multi_modal_projector.linear_2.bias", "mm.2.bias");
            let native = |name: &str, gguf| is(Layout::Native, &format!("{prefix}{name}"), gguf);
            native("tok_embeddings.weight", "token_embd.weight");
            native("layers.87.feed_forward.w3.weight", "blk.87.ffn_up.weight");
            native(
                "vision_encoder.transformer.layers.3.feed_forward.w2.weight",
                "v.blk.3.ffn_down.weight",
            );
            native("vision_language_adapter.w_in.bias", "mm.1.bias");
            native("eagle_linear.weight", "fc.weight");
        }
    }

    #[test]
    fn scales_lead_to_their_weights_and_the_rest_is_unknown() {
        for suffix in ["weight_scale_inv", "weight_scale", "scale_weight", "qscale_weight"] {
            let name = format!("model.layers.3.self_attn.q_proj.{suffix}");
            let weight = "model.layers.3.self_attn.q_proj.weight".to_owned();
            assert_eq!(meaning(Layout::HuggingFace, &name), Meaning::ScaleOf(weight));
        }
        for name in
            ["model.layers.3.mlp.up_proj.activation_scale", "layers.0.attention.wq.qscale_act"]
        {
            assert_eq!(meaning(Layout::Native, name), Meaning::Unused);
        }
        for name in [
            "",
            "weight",
            "layers.0.self_attn.q_proj",
            "layers.007.mlp.up_proj.weight",
            "layers.+1.mlp.up_proj.weight",
            "layers.4294967296.mlp.up_proj.weight",
            "layers.1.2.mlp.up_proj.weight",
            "layers.0.block_sparse_moe.gate.weight",
            "layers.0.attention.wq.weight",
            "visual.blocks.0.weight",
            "norm.running_mean",
        ] {
            assert_eq!(meaning(Layout::HuggingFace, name), Meaning::Unknown, "{name}");
        }
    }
}
