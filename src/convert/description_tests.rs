//! Configurations of the family's models, and what is refused in them, by key paths.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::checkpoint::{Kind, correct_yarn};
use super::description::Description;
use super::error::CheckpointError;
use super::layout::Layout;
use super::quantization::Fp8;
use super::{config, params};
use crate::model::{
    Activation, Architecture, AttnTemperature, Hparams, MEDIUM_3_5, RopeScaling, YarnPolicy,
    medium_3_5,
};

fn hf(value: &Value) -> Result<Description, CheckpointError> {
    config::describe(Path::new("config.json"), object(value))
}

fn native(value: &Value) -> Result<Description, CheckpointError> {
    params::describe(Path::new("params.json"), object(value), Kind::Model)
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// `config.json` of Medium 3.5.
fn medium() -> Value {
    json!({
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
        "multimodal_projector_bias": false, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "text_config": {
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 12288, "intermediate_size": 28672,
            "max_position_embeddings": 262144, "model_type": "ministral3", "num_attention_heads": 96,
            "num_hidden_layers": 88, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_parameters": {
                "beta_fast": 4.0, "beta_slow": 1.0, "factor": 64.0, "llama_4_scaling_beta": 0,
                "mscale": 1.0, "mscale_all_dim": 0.0, "original_max_position_embeddings": 4096,
                "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn",
            },
            "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 131072,
        },
        "vision_config": {
            "head_dim": 104, "hidden_act": "silu", "hidden_size": 1664, "image_size": 1540,
            "intermediate_size": 8192, "model_type": "pixtral", "num_attention_heads": 16,
            "num_channels": 3, "num_hidden_layers": 48, "patch_size": 14,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
        },
        "quantization_config": {
            "quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null,
        },
    })
}

/// `params.json` of Medium 3.5.
fn medium_native() -> Value {
    json!({
        "dim": 12288, "n_layers": 88, "head_dim": 128, "hidden_dim": 28672, "n_heads": 96,
        "n_kv_heads": 8, "rope_theta": 1000000.0, "norm_eps": 1e-5, "vocab_size": 131072,
        "tied_embeddings": false, "max_position_embeddings": 262144, "llama_4_scaling": null,
        "q_lora_rank": null, "kv_lora_rank": null,
        "yarn": {"original_max_position_embeddings": 4096, "factor": 64, "apply_scale": true,
                 "beta": 4, "alpha": 1},
        "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
        "vision_encoder": {
            "image_token_id": 10, "image_break_token_id": -1, "intermediate_size": 8192,
            "num_hidden_layers": 48, "num_attention_heads": 16, "mm_projector_id": "patch_merge",
            "spatial_merge_size": 2, "hidden_size": 1664, "num_channels": 3, "image_size": 1540,
            "patch_size": 14, "rope_theta": 10000.0, "adapter_bias": false,
        },
    })
}

#[test]
fn both_layouts_describe_medium_3_5() {
    let (hf, native) = (hf(&medium()).unwrap(), native(&medium_native()).unwrap());
    for description in [&hf, &native] {
        assert_eq!(description.hparams, medium_3_5());
        let projector = description.projector.as_ref().unwrap();
        assert_eq!((projector.n_layer, projector.n_embd, projector.merge_size), (48, 1664, 2));
        assert_eq!((projector.image_size, projector.n_embd_text), (1540, 12_288));
        assert_eq!((description.fp8, description.may_be_tied), (Fp8::Tensor, false));
        assert!(!description.has_projector_bias && description.break_id.is_none());
    }
    assert_eq!(hf.projector, native.projector);
}

#[test]
fn the_wrong_magnitude_is_recognised_in_both() {
    let (mut hf_wrong, mut native_wrong) = (medium(), medium_native());
    hf_wrong["text_config"]["rope_parameters"]["mscale_all_dim"] = json!(1.0);
    native_wrong["yarn"]["apply_scale"] = json!(false);
    for description in [hf(&hf_wrong), native(&native_wrong)] {
        let mut hparams = description.unwrap().hparams;
        assert!(MEDIUM_3_5.has_wrong_yarn(&hparams));
        let note = correct_yarn(&mut hparams, Layout::Native, YarnPolicy::AsIs).unwrap();
        assert!(note.contains("apply_scale false") && note.contains("kept"), "{note}");
        assert!(MEDIUM_3_5.has_wrong_yarn(&hparams));
        let correct =
            |hparams: &mut Hparams| correct_yarn(hparams, Layout::HuggingFace, YarnPolicy::Correct);
        assert!(correct(&mut hparams).unwrap().contains("mscale_all_dim 1"));
        assert_eq!(hparams, medium_3_5());
        assert_eq!(correct(&mut hparams), None);
    }
}

#[test]
fn siblings_are_what_they_are() {
    // Ministral 3, whose multiplier of 1 is genuine, and which leaves out what its class has anyway.
    let ministral = json!({"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3",
        "hidden_size": 3072, "num_hidden_layers": 26, "intermediate_size": 9216,
        "tie_word_embeddings": true});
    let description = hf(&ministral).unwrap();
    let hparams = &description.hparams;
    assert_eq!(
        (hparams.arch, hparams.n_head, hparams.n_embd_head_k),
        (Architecture::Mistral3, 32, 128)
    );
    assert_eq!((hparams.n_vocab, hparams.norm_eps, hparams.n_ctx_train), (131_072, 1e-5, 262_144));
    let yarn = RopeScaling::Yarn {
        factor: 16.0,
        n_ctx_orig: 16_384,
        beta_fast: 32.0,
        beta_slow: 1.0,
        log_multiplier: 1.0,
    };
    assert_eq!((&hparams.rope.scaling, hparams.rope.freq_base), (&yarn, 1e6));
    let temperature = AttnTemperature { scale: 0.1, n_ctx_orig: 16_384 };
    assert_eq!(hparams.attn_temperature, Some(temperature));
    assert!(description.may_be_tied);
    let mut params = medium_native();
    params["n_layers"] = json!(26);
    params["llama_4_scaling"] = json!({"beta": 0.1, "original_max_position_embeddings": 16384});
    params["yarn"] = json!({"original_max_position_embeddings": 16384, "factor": 16.0,
        "apply_scale": false, "beta": 32.0, "alpha": 1.0});
    let hparams = native(&params).unwrap().hparams;
    assert_eq!((hparams.rope.scaling, hparams.attn_temperature), (yarn, Some(temperature)));

    // Mistral Small 3.1: an older text model under the newer wrapper, keys as transformers 4 wrote them.
    let mut small = medium();
    small["text_config"] = json!({"model_type": "mistral", "hidden_size": 5120, "head_dim": 128,
        "num_hidden_layers": 40, "intermediate_size": 32768, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "rope_theta": 1e9, "sliding_window": null, "vocab_size": 131072});
    small.as_object_mut().unwrap().remove("quantization_config");
    let hparams = hf(&small).unwrap().hparams;
    assert_eq!((hparams.arch, hparams.rope.freq_base), (Architecture::Mistral3, 1e9));
    assert_eq!((hparams.rope.scaling, hparams.attn_temperature), (RopeScaling::None, None));
    params
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !matches!(key.as_str(), "llama_4_scaling" | "yarn"));
    assert_eq!(native(&params).unwrap().hparams.arch, Architecture::Llama);

    // Pixtral 12B merges no patches.
    let mut pixtral = small.clone();
    pixtral["architectures"] = json!(["LlavaForConditionalGeneration"]);
    pixtral["vision_feature_select_strategy"] = json!("full");
    pixtral["vision_config"] =
        json!({"model_type": "pixtral", "hidden_act": "silu", "image_size": 1024});
    pixtral.as_object_mut().unwrap().remove("spatial_merge_size");
    pixtral.as_object_mut().unwrap().remove("multimodal_projector_bias");
    let description = hf(&pixtral).unwrap();
    let projector = description.projector.unwrap();
    assert_eq!((description.hparams.arch, projector.merge_size), (Architecture::Llama, 1));
    assert_eq!((projector.n_embd, projector.patch_size), (1024, 16));
    assert_eq!(projector.activation, Activation::Silu);
    assert!(description.has_projector_bias);
}

#[test]
fn magnitudes_are_those_of_transformers() {
    let magnitude = |changes: Value| {
        let mut config = medium();
        let rope = config["text_config"]["rope_parameters"].as_object_mut().unwrap();
        rope.extend(object(&changes).clone());
        let rope = hf(&config).unwrap().hparams.rope;
        // What ggml applies by itself comes on top.
        rope.attn_factor() * (0.1 * 64f32.ln() + 1.0)
    };
    let own = 0.1 * 64f32.ln() + 1.0;
    for (changes, expected) in [
        (json!({}), own),
        (json!({"mscale_all_dim": 1.0}), 1.0),
        (json!({"mscale_all_dim": 0.5}), own / (0.05 * 64f32.ln() + 1.0)),
        (json!({"mscale": null, "mscale_all_dim": 1.0}), own),
        (json!({"attention_factor": 1.25}), 1.25),
    ] {
        let found = magnitude(changes.clone());
        assert!((found - expected).abs() < 1e-6, "{changes}: {found} instead of {expected}");
    }
}

/// Sets the value at a path of keys, and expects a message with all these words.
#[track_caller]
fn refused(whole: &Value, path: &str, value: Value, expected: &[&str]) {
    let mut changed = whole.clone();
    let mut at = &mut changed;
    for key in path.split('.') {
        at = &mut at[key];
    }
    *at = value;
    let result = if whole["dim"].is_null() { hf(&changed) } else { native(&changed) };
    let message = result.map(|_| ()).expect_err("refused").to_string();
    for part in [&[path], expected].concat() {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn keys_of_config_json_are_refused_by_their_path() {
    let config = medium();
    let refused =
        |path: &str, value: Value, expected: &[&str]| refused(&config, path, value, expected);
    for wrong in
        [json!("88"), json!(-1), json!(1e9), json!(0), json!(1.5), json!([88]), json!(true)]
    {
        refused(
            "text_config.num_hidden_layers",
            wrong,
            &["config.json", "a whole number, 1 to 512"],
        );
    }
    refused("text_config", json!(null), &["expected it to be there, found nothing"]);
    refused("text_config", json!([]), &["expected an object, found a list of 0"]);
    refused("text_config.num_key_value_heads", json!(7), &["a divisor of 96 heads", "7"]);
    refused("text_config.head_dim", json!(127), &["an even number"]);
    refused("text_config.model_type", json!("mistral4"), &["mistral or ministral3", "mistral4"]);
    refused("text_config.hidden_act", json!("gelu"), &["silu"]);
    refused("text_config.rms_norm_eps", json!(0), &["above 0 to 1"]);
    refused("text_config.q_lora_rank", json!(64), &["latent attention cannot be converted"]);
    refused("text_config.num_local_experts", json!(8), &["a mixture of experts"]);
    refused("text_config.sliding_window", json!(4096), &["null, or at least 262144", "4096"]);
    refused("text_config.layer_types", json!(["sliding_attention"]), &["full_attention"]);
    refused(
        "architectures",
        json!(["LlamaForCausalLM"]),
        &["MistralForCausalLM", "found LlamaForCausalLM"],
    );
    refused("architectures", json!([]), &["a list of 0"]);
    let rope = |key: &str| format!("text_config.rope_parameters.{key}");
    refused(&rope("rope_type"), json!("llama3"), &["default, linear or yarn"]);
    refused(&rope("factor"), json!(null), &["a number, 1 to 65536"]);
    let mut config = medium();
    config["text_config"]["rope_parameters"]["mscale_all_dim"] = json!(1.0);
    self::refused(&config, &rope("mscale"), json!(2.0), &["0 or 1"]);
    refused(&rope("beta_fast"), json!(0.5), &["at least beta_slow"]);
    refused(&rope("truncate"), json!(false), &["true"]);
    refused("vision_config.model_type", json!("clip"), &["pixtral"]);
    refused("vision_config.num_attention_heads", json!(7), &["1664 divided into heads"]);
    refused("vision_config.num_channels", json!(4), &["3"]);
    refused("vision_config.patch_size", json!([14, 14]), &["a list of 2"]);
    refused("vision_feature_layer", json!(-2), &["-1"]);
    refused("projector_hidden_act", json!("relu"), &["gelu"]);
    let fp8 = |key: &str| format!("quantization_config.{key}");
    refused(&fp8("quant_method"), json!("gptq"), &["fp8 or compressed-tensors", "gptq"]);
    refused(&fp8("weight_block_size"), json!([128]), &["two sizes"]);
    refused(&fp8("weight_block_size"), json!([128, 0]), &["two sizes"]);
    let mut groups = medium();
    groups["quantization_config"] = json!({"quant_method": "compressed-tensors",
        "format": "float-quantized", "config_groups": {"group_0": {"weights":
        {"num_bits": 8, "type": "float", "strategy": "channel", "group_size": null}}}});
    assert_eq!(hf(&groups).unwrap().fp8, Fp8::Rows);
    let fp8 = |key: &str| format!("quantization_config.{key}");
    let weights = |key: &str| format!("quantization_config.config_groups.group_0.weights.{key}");
    self::refused(&groups, &fp8("format"), json!("pack-quantized"), &["float-quantized"]);
    self::refused(&groups, &weights("num_bits"), json!(4), &["8"]);
    self::refused(&groups, &weights("strategy"), json!("group"), &["tensor, channel or block"]);
    self::refused(&groups, &weights("group_size"), json!(128), &["groups of columns"]);
    let mut windowed = medium();
    windowed["text_config"] = json!({"model_type": "mistral"});
    let message = hf(&windowed).unwrap_err().to_string();
    assert!(
        message.contains("text_config.sliding_window") && message.contains("means 4096"),
        "{message}"
    );
}

#[test]
fn keys_of_params_json_are_refused_by_their_path() {
    let params = medium_native();
    let refused =
        |path: &str, value: Value, expected: &[&str]| refused(&params, path, value, expected);
    for key in ["dim", "n_layers", "hidden_dim", "n_heads", "vocab_size", "norm_eps", "rope_theta"]
    {
        // `dim` tells the two layouts apart here, so it is wrong instead of absent.
        let (value, found) =
            if key == "dim" { (json!("x"), "x") } else { (json!(null), "nothing") };
        refused(key, value, &["params.json", found]);
    }
    refused("moe", json!({"num_experts": 8}), &["a mixture of experts", "an object"]);
    refused("q_lora_rank", json!(1536), &["latent attention"]);
    refused("sliding_window", json!(4096), &["a window of attention"]);
    refused("yarn.apply_scale", json!(null), &["it to be there"]);
    refused("yarn.beta", json!(0.5), &["at least alpha"]);
    refused("yarn", json!("yes"), &["an object"]);
    refused(
        "llama_4_scaling",
        json!({"beta": 0.1, "original_max_position_embeddings": 8192}),
        &["the same as in yarn", "8192"],
    );
    refused("quantization.qformat_weight", json!("nvfp4"), &["fp8_e4m3"]);
    refused("vision_encoder.mm_projector_id", json!("x"), &["patch_merge"]);
    refused("vision_encoder.image_break_token_id", json!(131_072), &["0 to 131071"]);
    refused("vision_encoder.image_size", json!(null), &["it to be there"]);
}
