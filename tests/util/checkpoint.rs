//! A small random model as a checkpoint, in both layouts and every flavour.
//!
//! The native tensors are drawn; Hugging Face's are the same ones, renamed and with the rows of rotary
//! matrices in half-split order, done here by its definition and not by the code under test.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

pub(crate) const N_EMBD: u64 = 32;
pub(crate) const N_HEAD: u64 = 4;
pub(crate) const N_HEAD_KV: u64 = 2;
pub(crate) const HEAD: u64 = 16;
pub(crate) const N_FF: u64 = 48;
pub(crate) const N_VOCAB: u64 = 300;
pub(crate) const N_LAYER: u64 = 2;
/// Of the tower.
pub(crate) const V_EMBD: u64 = 16;
pub(crate) const V_HEAD: u64 = 2;
pub(crate) const V_FF: u64 = 20;
/// Row of the embedding that ends a row of a picture.
pub(crate) const BREAK: u64 = 12;

/// A tensor as a file holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// The bytes of a file that holds `tensors` in this order.
pub(crate) fn safetensors(tensors: &[Stored]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data: Vec<u8> = Vec::new();
    for Stored { name, dtype, shape, data: bytes } in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header
            .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Random numbers, the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// BF16 numbers between -2 and 2, without the tiniest.
    fn bf16(&mut self) -> [u8; 2] {
        let bits = self.next() as u16;
        let exponent = 0x3f80 - (bits & 0x0300);
        (exponent | bits & 0x807f).to_le_bytes()
    }

    /// A code of an 8-bit float that is no NaN.
    fn f8(&mut self) -> u8 {
        let code = self.next() as u8;
        if code & 0x7f == 0x7f { code ^ 1 } else { code }
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[u64]) -> Stored {
        let n: u64 = shape.iter().product();
        let data = (0..n).flat_map(|_| self.bf16()).collect();
        Stored { name: name.to_owned(), dtype: "BF16", shape: shape.to_vec(), data }
    }
}

/// The model's tensors in Mistral's layout.
pub(crate) fn native() -> Vec<Stored> {
    let mut random = Random(35);
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[u64]| tensors.push(random.tensor(name, shape));
    add("tok_embeddings.weight", &[N_VOCAB, N_EMBD]);
    add("norm.weight", &[N_EMBD]);
    add("output.weight", &[N_VOCAB, N_EMBD]);
    for layer in 0..N_LAYER {
        let mut add = |name: &str, shape: &[u64]| add(&format!("layers.{layer}.{name}"), shape);
        add("attention_norm.weight", &[N_EMBD]);
        add("attention.wq.weight", &[N_HEAD * HEAD, N_EMBD]);
        add("attention.wk.weight", &[N_HEAD_KV * HEAD, N_EMBD]);
        add("attention.wv.weight", &[N_HEAD_KV * HEAD, N_EMBD]);
        add("attention.wo.weight", &[N_EMBD, N_HEAD * HEAD]);
        add("ffn_norm.weight", &[N_EMBD]);
        add("feed_forward.w1.weight", &[N_FF, N_EMBD]);
        add("feed_forward.w3.weight", &[N_FF, N_EMBD]);
        add("feed_forward.w2.weight", &[N_EMBD, N_FF]);
    }
    add("vision_encoder.patch_conv.weight", &[V_EMBD, 3, 2, 2]);
    add("vision_encoder.ln_pre.weight", &[V_EMBD]);
    let mut layer = |name: &str, shape: &[u64]| {
        add(&format!("vision_encoder.transformer.layers.0.{name}.weight"), shape);
    };
    layer("attention_norm", &[V_EMBD]);
    for name in ["wq", "wk", "wv", "wo"] {
        layer(&format!("attention.{name}"), &[V_EMBD, V_EMBD]);
    }
    layer("ffn_norm", &[V_EMBD]);
    layer("feed_forward.w1", &[V_FF, V_EMBD]);
    layer("feed_forward.w3", &[V_FF, V_EMBD]);
    layer("feed_forward.w2", &[V_EMBD, V_FF]);
    add("pre_mm_projector_norm.weight", &[V_EMBD]);
    add("patch_merger.merging_layer.weight", &[V_EMBD, 4 * V_EMBD]);
    add("vision_language_adapter.w_in.weight", &[N_EMBD, V_EMBD]);
    add("vision_language_adapter.w_out.weight", &[N_EMBD, N_EMBD]);
    tensors
}

/// Whether FP8 checkpoints have this tensor in 8 bits: the matrices of the language model's layers.
fn is_linear(tensor: &Stored) -> bool {
    tensor.name.starts_with("layers.") && tensor.shape.len() == 2
}

/// The same with 8-bit matrices in the layers, a scale each, and scales of activations.
pub(crate) fn native_fp8() -> Vec<Stored> {
    let mut random = Random(8);
    let mut tensors = Vec::new();
    for tensor in native() {
        if !is_linear(&tensor) {
            tensors.push(tensor);
            continue;
        }
        let stem = tensor.name.strip_suffix("weight").unwrap().to_owned();
        tensors.push(f8(&tensor.name, &tensor.shape, &mut random));
        tensors.push(scale(&format!("{stem}qscale_weight"), &[], &mut random));
        tensors.push(scale(&format!("{stem}qscale_act"), &[], &mut random));
    }
    tensors
}

/// The same with a scale for each block of `rows` × `cols`, under Hugging Face's suffix.
pub(crate) fn block_fp8(tensors: &[Stored], rows: u64, cols: u64) -> Vec<Stored> {
    let mut random = Random(9);
    let mut blocked = Vec::new();
    for tensor in tensors {
        if tensor.dtype == "BF16" && tensor.name.contains("mlp.") {
            let shape = [tensor.shape[0].div_ceil(rows), tensor.shape[1].div_ceil(cols)];
            blocked.push(f8(&tensor.name, &tensor.shape, &mut random));
            blocked.push(scale(&format!("{}_scale_inv", tensor.name), &shape, &mut random));
        } else {
            blocked.push(tensor.clone());
        }
    }
    blocked
}

fn f8(name: &str, shape: &[u64], random: &mut Random) -> Stored {
    let n: u64 = shape.iter().product();
    let data = (0..n).map(|_| random.f8()).collect();
    Stored { name: name.to_owned(), dtype: "F8_E4M3", shape: shape.to_vec(), data }
}

/// Positive scales.
fn scale(name: &str, shape: &[u64], random: &mut Random) -> Stored {
    let mut scale = random.tensor(name, shape);
    scale.data.iter_mut().skip(1).step_by(2).for_each(|high| *high &= 0x7f);
    scale
}

/// Names of Hugging Face's layout for those of Mistral's, longest first.
const RENAMED: &[(&str, &str)] = &[
    (
        "vision_encoder.transformer.layers.0.attention.wq",
        "vision_tower.transformer.layers.0.attention.q_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.attention.wk",
        "vision_tower.transformer.layers.0.attention.k_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.attention.wv",
        "vision_tower.transformer.layers.0.attention.v_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.attention.wo",
        "vision_tower.transformer.layers.0.attention.o_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.feed_forward.w1",
        "vision_tower.transformer.layers.0.feed_forward.gate_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.feed_forward.w2",
        "vision_tower.transformer.layers.0.feed_forward.down_proj",
    ),
    (
        "vision_encoder.transformer.layers.0.feed_forward.w3",
        "vision_tower.transformer.layers.0.feed_forward.up_proj",
    ),
    ("vision_encoder.", "vision_tower."),
    ("vision_language_adapter.w_in", "multi_modal_projector.linear_1"),
    ("vision_language_adapter.w_out", "multi_modal_projector.linear_2"),
    ("patch_merger.", "multi_modal_projector.patch_merger."),
    ("pre_mm_projector_norm", "multi_modal_projector.norm"),
    ("tok_embeddings", "TEXTembed_tokens"),
    ("norm.", "TEXTnorm."),
    ("output.", "HEADlm_head."),
    ("layers.", "TEXTlayers."),
];

const IN_LAYERS: &[(&str, &str)] = &[
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attention.wq.", ".self_attn.q_proj."),
    (".attention.wk.", ".self_attn.k_proj."),
    (".attention.wv.", ".self_attn.v_proj."),
    (".attention.wo.", ".self_attn.o_proj."),
    (".feed_forward.w1.", ".mlp.gate_proj."),
    (".feed_forward.w2.", ".mlp.down_proj."),
    (".feed_forward.w3.", ".mlp.up_proj."),
    (".qscale_weight", ".weight_scale_inv"),
    (".qscale_act", ".activation_scale"),
];

/// What stands in front of names: of the text model, its head, and the vision part.
pub(crate) const PREFIXES: &[[&str; 3]] = &[
    ["model.language_model.", "", "model."],
    ["language_model.model.", "language_model.", ""],
    ["model.language_model.model.", "model.language_model.", "model."],
    ["model.", "", ""],
];

/// `tensors` of Mistral's layout in Hugging Face's.
pub(crate) fn hugging_face(tensors: &[Stored], [text, head, vision]: [&str; 3]) -> Vec<Stored> {
    let renamed = |tensor: &Stored| {
        let n_head = match tensor.name.as_str() {
            name if !name.ends_with(".weight") && !name.ends_with(".bias") => None,
            name if name.starts_with("vision")
                && (name.contains(".wq.") || name.contains(".wk.")) =>
            {
                Some(V_HEAD)
            }
            name if name.contains(".wq.") => Some(N_HEAD),
            name if name.contains(".wk.") => Some(N_HEAD_KV),
            _ => None,
        };
        let (from, to) = RENAMED.iter().find(|(from, _)| tensor.name.starts_with(from)).unwrap();
        let mut name = tensor.name.replacen(from, to, 1);
        if to.starts_with("TEXT") {
            for (from, to) in IN_LAYERS {
                name = name.replace(from, to);
            }
        }
        name = name.replace("TEXT", text).replace("HEAD", head);
        if name.starts_with("vision") || name.starts_with("multi") {
            name = format!("{vision}{name}");
        }
        let data = n_head.map_or(tensor.data.clone(), |n_head| half_split(tensor, n_head));
        Stored { name, data, ..tensor.clone() }
    };
    tensors.iter().map(renamed).collect()
}

/// The rows of interleaved pairs as transformers has them: of each head first all even rows.
fn half_split(tensor: &Stored, n_head: u64) -> Vec<u8> {
    let n_rows = tensor.shape[0] as usize;
    let size = tensor.data.len() / n_rows;
    let n = n_rows / n_head as usize;
    let mut data = Vec::new();
    for head in 0..n_head as usize {
        for half in 0..2 {
            for pair in 0..n / 2 {
                let row = head * n + 2 * pair + half;
                data.extend(&tensor.data[row * size..][..size]);
            }
        }
    }
    data
}

/// `params.json` of the model.
pub(crate) fn params() -> Value {
    json!({
        "dim": N_EMBD, "n_layers": N_LAYER, "head_dim": HEAD, "hidden_dim": N_FF, "n_heads": N_HEAD,
        "n_kv_heads": N_HEAD_KV, "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": N_VOCAB,
        "tied_embeddings": false, "max_position_embeddings": 4096, "llama_4_scaling": null, "moe": null,
        "yarn": {"original_max_position_embeddings": 64, "factor": 64.0, "apply_scale": true, "beta": 4.0,
                 "alpha": 1.0},
        "vision_encoder": {
            "image_break_token_id": BREAK, "intermediate_size": V_FF, "num_hidden_layers": 1,
            "num_attention_heads": V_HEAD, "mm_projector_id": "patch_merge", "spatial_merge_size": 2,
            "hidden_size": V_EMBD, "num_channels": 3, "image_size": 8, "patch_size": 2, "rope_theta": 10000.0,
            "adapter_bias": false,
        },
    })
}

/// `config.json` of the model.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
        "spatial_merge_size": 2, "vision_feature_layer": -1, "multimodal_projector_bias": false,
        "tie_word_embeddings": false,
        "text_config": {
            "model_type": "ministral3", "hidden_size": N_EMBD, "num_hidden_layers": N_LAYER, "head_dim": HEAD,
            "intermediate_size": N_FF, "num_attention_heads": N_HEAD, "num_key_value_heads": N_HEAD_KV,
            "rms_norm_eps": 1e-5, "vocab_size": N_VOCAB, "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 64.0, "beta_fast": 4.0, "beta_slow": 1.0,
                "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.0,
                "llama_4_scaling_beta": 0.0,
            },
        },
        "vision_config": {
            "model_type": "pixtral", "hidden_act": "silu", "hidden_size": V_EMBD, "intermediate_size": V_FF,
            "num_hidden_layers": 1, "num_attention_heads": V_HEAD, "image_size": 8, "patch_size": 2,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
        },
    })
}

/// Writes Mistral's layout into `dir`, in one file.
pub(crate) fn write_native(dir: &Path, tensors: &[Stored]) {
    write_json(&dir.join("params.json"), &params());
    fs::write(dir.join("consolidated.safetensors"), safetensors(tensors)).unwrap();
}

/// Writes Hugging Face's layout into `dir`, in two files with an index.
pub(crate) fn write_hugging_face(dir: &Path, tensors: &[Stored], config: &Value) {
    write_json(&dir.join("config.json"), config);
    // The token that a picture's rows end with is looked up by its name.
    let special = json!([{"rank": BREAK, "token_str": "[IMG_BREAK]", "is_control": true}]);
    write_json(&dir.join("tekken.json"), &json!({"special_tokens": special}));
    let halves = [&tensors[..tensors.len() / 2], &tensors[tensors.len() / 2..]];
    let mut weight_map = serde_json::Map::new();
    for (k, half) in (1..).zip(halves) {
        let name = format!("model-0000{k}-of-00002.safetensors");
        fs::write(dir.join(&name), safetensors(half)).unwrap();
        weight_map.extend(half.iter().map(|tensor| (tensor.name.clone(), json!(name))));
    }
    let total: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_json(&dir.join("model.safetensors.index.json"), &index);
}

pub(crate) fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}
