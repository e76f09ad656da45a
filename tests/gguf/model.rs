//! Valid GGUF files that are no usable models: architecture, keys, ranges, tensors, vocabulary.
//!
//! Also the other side: what is optional, aliased or repaired must be accepted.

use super::gw::{Writer, f32, raw, string, strings, u32};
use super::{check, inspect, refused_with};
use gust::gguf::{Array, Gguf, Value};
use gust::model::{Hparams, RopeScaling, YarnPolicy, validate};

type Change<'a> = &'a dyn Fn(&mut Writer);

fn load(change: Change<'_>) -> Result<(gust::model::Hparams, Vec<String>), String> {
    let mut writer = Writer::small_model();
    change(&mut writer);
    let gguf = Gguf::from_bytes("m", writer.bytes()).map_err(|error| error.to_string())?;
    let (hparams, warnings) =
        validate(&gguf, YarnPolicy::Correct).map_err(|error| error.to_string())?;
    Ok((hparams, warnings.iter().map(ToString::to_string).collect()))
}

#[test]
fn the_small_model_is_valid() {
    let (hparams, warnings) = load(&|_| ()).unwrap();
    assert_eq!((hparams.n_layer, hparams.n_embd_head_k, hparams.n_vocab), (1, 4, 6));
    assert_eq!(warnings, Vec::<String>::new());
    // A sibling's log multiplier of 1 is genuine: m(1)/m(1) is 1, and ggml's m(1) is undone.
    let expected = 1.0 / (0.1 * 16f32.ln() + 1.0);
    assert!((hparams.rope.attn_factor() - expected).abs() < 1e-6);
}

#[test]
fn files_of_another_kind_are_not_loaded() {
    let arch =
        |name: &'static str| move |w: &mut Writer| w.set("general.architecture", string(name));
    let cases: &[(Change<'_>, &str)] = &[
        (&|w| w.remove("general.architecture"), "missing keys: general.architecture"),
        (&arch("gemma"), "expected mistral3 or llama, found 'gemma'"),
        (&arch("\u{1b}[2J"), "found '\\u{1b}[2J'"),
        (&arch("clip"), "architecture 'clip' is an image projector: pass it with --mmproj"),
        (&|w| w.set("general.type", string("adapter")), "this is a LoRA adapter"),
        (&|w| w.tensors.clear(), "no tensors, only a vocabulary"),
    ];
    for (change, message) in cases {
        let error = load(change).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    // Inspecting shows what there is, with a warning.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gemma.gguf");
    let mut writer = Writer::small_model();
    writer.set("general.architecture", string("gemma"));
    std::fs::write(&path, writer.bytes()).unwrap();
    let output = inspect(&[path.to_str().unwrap()]);
    let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success() && stdout.unwrap().contains("mistral3.block_count"));
    assert!(stderr.unwrap().starts_with("warning: "));
}

#[test]
fn a_foreign_models_template_is_said_to_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign.gguf");
    let mut bytes = std::fs::read("models/tiny/tiny-Q8_0.gguf").unwrap();
    let is_family = |i: &usize| bytes[*i..].starts_with(b"[INST]");
    let found: Vec<usize> = (0..bytes.len()).filter(is_family).collect();
    found.iter().for_each(|i| bytes[i + 1] = b'X');
    std::fs::write(&path, bytes).unwrap();
    let inspect = |args: &[&str]| {
        let output = inspect(&[&[path.to_str().unwrap()], args].concat());
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = inspect(&[]);
    let text = text.split_once("Chat template").unwrap().1;
    assert!(text.contains("yes: the vocabulary has no [INST]"), "{text}");
    assert!(!text.contains("used instead") && !text.contains("conversations"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    let json = &json["chat_template"];
    assert_eq!(json["is_used"], true);
    assert!(json["encoder"].is_null() && json["probes"].as_array().unwrap().is_empty());
}

#[test]
fn missing_keys_are_told_together() {
    check(&[(
        "missing",
        &|w| {
            w.remove("mistral3.block_count");
            w.remove("mistral3.attention.head_count");
            w.remove("mistral3.rope.scaling.factor");
            w.remove("tokenizer.ggml.tokens");
        },
        &["missing keys: mistral3.block_count, mistral3.attention.head_count, \
           tokenizer.ggml.tokens, mistral3.rope.scaling.factor"],
    )]);
}

#[test]
fn integers_out_of_range() {
    let cases: &[(&str, &[u32])] = &[
        ("mistral3.block_count", &[0, 513, 65_537, 1 << 31, u32::MAX]),
        ("mistral3.context_length", &[0, u32::MAX]),
        ("mistral3.embedding_length", &[0, u32::MAX]),
        ("mistral3.feed_forward_length", &[0, u32::MAX]),
        ("mistral3.attention.head_count", &[0, u32::MAX]),
        ("mistral3.attention.head_count_kv", &[0, u32::MAX]),
        ("mistral3.attention.key_length", &[0, u32::MAX]),
        ("mistral3.attention.value_length", &[0, u32::MAX]),
        ("mistral3.rope.dimension_count", &[0, 1, 3, 5, u32::MAX]),
        ("mistral3.rope.scaling.original_context_length", &[0, u32::MAX]),
        ("mistral3.vocab_size", &[0, u32::MAX]),
    ];
    for (key, values) in cases {
        for &value in *values {
            let error = load(&|w| w.set(key, u32(value))).unwrap_err();
            let wanted = format!("key '{key}': out of range; expected ");
            assert!(error.contains(&wanted), "{error}");
            assert!(error.ends_with(&format!("found {value}")), "{error}");
        }
    }
    check(&[(
        "layers",
        &|w| w.set("mistral3.block_count", u32(513)),
        &["key 'mistral3.block_count': out of range; expected 1 to 512, found 513"],
    )]);
}

#[test]
fn floats_out_of_range() {
    let nonsense = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
    let cases: &[(&str, &[f32])] = &[
        ("mistral3.attention.layer_norm_rms_epsilon", &[0.0, 1.5]),
        ("mistral3.rope.freq_base", &[0.0]),
        ("mistral3.rope.scaling.factor", &[0.0, 0.5]),
        ("mistral3.rope.scale_linear", &[0.0]),
        ("mistral3.rope.scaling.yarn_beta_fast", &[0.0]),
        ("mistral3.rope.scaling.yarn_beta_slow", &[0.0]),
        ("mistral3.rope.scaling.beta_fast", &[0.0]),
        ("mistral3.rope.scaling.yarn_log_multiplier", &[1e9]),
        ("mistral3.rope.scaling.mscale_all_dim", &[1e9]),
        ("mistral3.rope.scaling.attn_factor", &[0.0]),
        ("mistral3.attention.temperature_scale", &[1e9]),
        ("mistral3.rope.scaling_beta", &[1e9]),
    ];
    for (key, more) in cases {
        for value in nonsense.iter().chain(*more) {
            let error = load(&|w| w.set(key, f32(*value))).unwrap_err();
            assert!(error.contains(&format!("key '{key}': out of range; expected ")), "{error}");
        }
    }
    check(&[(
        "eps",
        &|w| w.set("mistral3.attention.layer_norm_rms_epsilon", f32(f32::NAN)),
        &["layer_norm_rms_epsilon': out of range; expected above 0 to 1, found NaN"],
    )]);
}

#[test]
fn keys_that_contradict_each_other() {
    let heads = "mistral3.attention.head_count";
    check(&[
        ("h3", &|w| w.set(heads, u32(3)), &["keys '", "head_count' (3) and '", "must divide"]),
        (
            "kv4",
            &|w| w.set("mistral3.attention.head_count_kv", u32(4)),
            &["head_count_kv' (4) and 'mistral3.attention.head_count' (2) contradict"],
        ),
        (
            "beta",
            &|w| w.set("mistral3.rope.scaling.yarn_beta_slow", f32(5.0)),
            &["yarn_beta_fast' (4) and '", "yarn_beta_slow' (5) contradict"],
        ),
        (
            "exp",
            &|w| w.set("mistral3.expert_count", u32(8)),
            &["expert_count' (8) and '", "expert_used_count' (absent) contradict"],
        ),
        (
            "used",
            &|w| {
                w.set("mistral3.expert_count", u32(2));
                w.set("mistral3.expert_used_count", u32(3));
            },
            &["more experts used than there are"],
        ),
        (
            "moe",
            &|w| {
                w.set("mistral3.expert_count", u32(8));
                w.set("mistral3.expert_used_count", u32(2));
            },
            &["only dense models are supported"],
        ),
        (
            "ropety",
            &|w| w.set("mistral3.rope.scaling.type", string("longrope")),
            &["expected none, linear or yarn, found 'longrope'"],
        ),
    ]);
}

#[test]
fn layers_may_be_written_one_by_one_if_they_agree() {
    let layers = |values: &[u32]| raw(&Value::Array(Array::U32(values.to_vec())));
    let key = "mistral3.feed_forward_length";
    assert_eq!(load(&|w| w.set(key, layers(&[16]))).unwrap().0.n_ff, 16);
    for values in [&[][..], &[16, 16], &[0]] {
        assert!(load(&|w| w.set(key, layers(values))).is_err(), "{values:?}");
    }
}

#[test]
fn names_that_ollama_uses_are_read() {
    let (hparams, _) = load(&|w| {
        for name in ["yarn_beta_fast", "yarn_beta_slow", "yarn_log_multiplier"] {
            w.remove(&format!("mistral3.rope.scaling.{name}"));
        }
        w.set("mistral3.rope.scaling.beta_fast", f32(3.0));
        w.set("mistral3.rope.scaling.beta_slow", f32(2.0));
        w.set("mistral3.rope.scaling.mscale_all_dim", f32(0.5));
        w.set("mistral3.rope.scaling_beta", f32(0.1));
    })
    .unwrap();
    let RopeScaling::Yarn { beta_fast, beta_slow, log_multiplier, .. } = hparams.rope.scaling
    else {
        panic!("{:?}", hparams.rope)
    };
    assert_eq!((beta_fast, beta_slow, log_multiplier), (3.0, 2.0, 0.5));
    let temperature = hparams.attn_temperature.unwrap();
    assert_eq!((temperature.scale, temperature.n_ctx_orig), (0.1, 8));
}

#[test]
fn llama_files_and_defaults() {
    let (hparams, _) = load(&|w| {
        w.keys.retain(|(key, _)| !key.starts_with(b"mistral3.rope."));
        w.remove("mistral3.vocab_size");
        w.remove("mistral3.attention.head_count_kv");
        for (key, _) in &mut w.keys {
            *key = String::from_utf8_lossy(key).replace("mistral3.", "llama.").into_bytes();
        }
        w.set("general.architecture", string("llama"));
        for name in ["attn_k", "attn_v"] {
            w.tensors.retain(|tensor| tensor.name != format!("blk.0.{name}.weight").as_bytes());
            w.add_tensor(&format!("blk.0.{name}.weight"), &[8, 8]);
        }
    })
    .unwrap();
    assert_eq!((hparams.n_head_kv, hparams.n_vocab), (2, 6));
    assert_eq!((hparams.rope.freq_base, hparams.rope.n_rot), (10_000.0, 4));
    assert_eq!(hparams.rope.scaling, RopeScaling::None);
}

#[test]
fn tensors_that_do_not_fit() {
    check(&[
        (
            "several",
            &|w| {
                w.tensors.retain(|tensor| tensor.name != b"output_norm.weight");
                w.tensor("blk.0.attn_k.weight").dims = vec![4, 8];
                w.tensor("blk.0.ffn_norm.weight").name = b"blk.0.ffn_norm.weigth".to_vec();
                w.add_tensor("blk.1.attn_norm.weight", &[8]);
            },
            &[
                "tensors do not fit the model (5):",
                "'output_norm.weight': missing; expected 8",
                "'blk.0.attn_k.weight': wrong shape; expected 8 × 4, found 4 × 8",
                "'blk.0.ffn_norm.weight': missing",
                "'blk.0.ffn_norm.weigth': unexpected tensor",
                "'blk.1.attn_norm.weight': unexpected tensor",
            ],
        ),
        (
            "many",
            &|w| (0..30).for_each(|idx| w.add_tensor(&format!("x{idx}"), &[1])),
            &["tensors do not fit the model (30):", "'x19'", "and 10 more"],
        ),
        (
            "type",
            &|w| w.tensor("blk.0.attn_q.weight").ty = 26,
            &["'blk.0.attn_q.weight': wrong type; expected a float or quantized type, found i32"],
        ),
        (
            "norm",
            &|w| w.tensor("output_norm.weight").ty = 1,
            &["'output_norm.weight': wrong type; expected f32, found f16"],
        ),
    ]);
}

#[test]
fn optional_tensors_are_accepted() {
    let (_, warnings) = load(&|w| {
        w.tensors.retain(|tensor| tensor.name != b"output.weight");
        w.add_tensor("rope_freqs.weight", &[2]);
        w.add_tensor("blk.0.attn_q.bias", &[8]);
        w.add_tensor("blk.0.ffn_down.bias", &[8]);
        w.add_tensor("blk.0.attn_q.scale", &[1]);
        w.add_tensor("blk.0.attn_q.input_scale", &[1]);
        w.add_tensor("v.blk.0.ln1.weight", &[4]);
    })
    .unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("1 vision tensors are not used"), "{warnings:?}");
}

#[test]
fn vocabularies_that_do_not_hold_together() {
    let scores = |scores: &[f32]| raw(&Value::Array(Array::F32(scores.to_vec())));
    let types = |types: &[i32]| raw(&Value::Array(Array::I32(types.to_vec())));
    let tokens = "tokenizer.ggml.tokens";
    check(&[
        (
            "counts",
            &|w| {
                w.set(tokens, strings(&["a", "b", "c", "d", "e"]));
                w.set("tokenizer.ggml.scores", scores(&[0.0; 7]));
                w.set("tokenizer.ggml.token_type", types(&[1; 8]));
            },
            &["counts differ: vocab_size 6, embedding rows 6, tokens 5, scores 7, types 8"],
        ),
        (
            "type99",
            &|w| w.set("tokenizer.ggml.token_type", types(&[3, 3, 3, 99, 1, 1])),
            &["type of token 3 is 99; expected 1 to 6"],
        ),
        (
            "nan",
            &|w| w.set("tokenizer.ggml.scores", scores(&[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0])),
            &["score of token 1 is NaN"],
        ),
        (
            "dup",
            &|w| w.set(tokens, strings(&["<unk>", "<s>", "</s>", "a", "a", ""])),
            &["faults in the vocabulary (3):", "tokens 3 and 4 are both 'a'", "token 5 is empty"],
        ),
        (
            "merges",
            &|w| w.set("tokenizer.ggml.merges", strings(&["a b", "ab", "a zz", "a b c", " a"])),
            &[
                "merge 1 ('ab') is not two tokens",
                "merge 2 ('a zz') names an unknown token",
                "merge 3 ('a b c') is not two tokens",
                "merge 4 (' a') is not two tokens",
            ],
        ),
        (
            "byte",
            &|w| w.set("tokenizer.ggml.token_type", types(&[3, 3, 3, 6, 1, 1])),
            &["token 3 is 'a'; expected a byte token as <0x00> to <0xFF>"],
        ),
        (
            "ids",
            &|w| {
                w.set("tokenizer.ggml.bos_token_id", u32(6));
                w.set("tokenizer.ggml.padding_token_id", u32(u32::MAX));
            },
            &["'tokenizer.ggml.bos_token_id': id 6 in a vocabulary of 6", "id 4294967295"],
        ),
        (
            "model",
            &|w| w.set("tokenizer.ggml.model", string("bert")),
            &["key 'tokenizer.ggml.model': unsupported; expected gpt2, found 'bert'"],
        ),
        (
            "pre",
            &|w| w.set("tokenizer.ggml.pre", string("llama-bpe")),
            &["key 'tokenizer.ggml.pre': unsupported; expected tekken or pixtral"],
        ),
        ("nopre", &|w| w.remove("tokenizer.ggml.pre"), &["tokenizer.ggml.pre': missing"]),
    ]);
}

#[test]
fn weights_are_read_only_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.gguf");
    let mut writer = Writer::small_model();
    let data = &mut writer.tensor("blk.0.attn_q.weight").data;
    data[4 * 19..4 * 20].copy_from_slice(&f32::NAN.to_le_bytes());
    data[4 * 63..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, writer.bytes()).unwrap();
    assert!(inspect(&[path.to_str().unwrap()]).status.success());
    let messages = ["tensor 'blk.0.attn_q.weight': 2 bad values, first in row 2", "in f32"];
    refused_with("nan", &path, &["--check-tensors"], &messages);
}

/// The keys of Medium 3.5 as files from before its config was corrected have them.
fn bad_yarn(w: &mut Writer) {
    w.set("mistral3.block_count", u32(88));
    w.set("mistral3.embedding_length", u32(12_288));
    w.set("mistral3.rope.scaling.factor", f32(64.0));
    w.set("mistral3.rope.scaling.original_context_length", u32(4096));
    w.set("mistral3.rope.scaling.yarn_log_multiplier", f32(1.0));
}

#[test]
fn the_wrong_yarn_magnitude_is_corrected_unless_told_not_to() {
    let read = |change: Change<'_>, policy| {
        let mut writer = Writer::small_model();
        bad_yarn(&mut writer);
        change(&mut writer);
        let gguf = Gguf::from_bytes("m", writer.bytes()).unwrap();
        let (hparams, warnings) = Hparams::from_gguf(&gguf, policy).unwrap();
        (hparams.rope.attn_factor(), warnings.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (factor, warnings) = read(&|_| (), YarnPolicy::Correct);
    assert!((factor - 1.0).abs() < 1e-6);
    let text = "wrong YaRN magnitude for Mistral Medium 3.5: yarn_log_multiplier is 1, using 0";
    assert!(warnings.len() == 1 && warnings[0].contains(text), "{warnings:?}");
    let (factor, warnings) = read(&|_| (), YarnPolicy::AsIs);
    assert!((factor - 0.706_270).abs() < 1e-5);
    assert!(warnings[0].ends_with("kept as it is"), "{warnings:?}");

    // Ollama's name for the key, and what is no Medium 3.5.
    let ollama: Change<'_> = &|w| {
        w.remove("mistral3.rope.scaling.yarn_log_multiplier");
        w.set("mistral3.rope.scaling.mscale_all_dim", f32(1.0));
    };
    assert_eq!(read(ollama, YarnPolicy::Correct).1.len(), 1);
    let sibling: Change<'_> = &|w| w.set("mistral3.block_count", u32(40));
    assert_eq!(read(sibling, YarnPolicy::Correct).1, Vec::<String>::new());
    let tempered: Change<'_> = &|w| w.set("mistral3.attention.temperature_scale", f32(0.1));
    assert_eq!(read(tempered, YarnPolicy::Correct).1, Vec::<String>::new());
}
