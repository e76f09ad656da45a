//! Valid files and the output of `gust inspect`.
//!
//! The built-in model is the one file in the tree that other software has written.

use super::gw::Writer;
use super::inspect;
use gust::gguf::Gguf;
use gust::model;

/// Parse, write, parse: the same again.
#[test]
fn writing_what_was_read_gives_the_same() {
    let gguf = model::builtin();
    let again = Gguf::from_bytes("again", Writer::copy_of(&gguf, usize::MAX).bytes()).unwrap();
    assert!(gguf.metadata().iter().eq(again.metadata().iter()));
    assert_eq!(gguf.tensors().len(), again.tensors().len());
    for tensor in gguf.tensors() {
        let copy = again.tensor(&tensor.name).unwrap();
        assert_eq!((tensor.ty, &tensor.dims), (copy.ty, &copy.dims));
        assert_eq!(gguf.data(tensor), again.data(copy));
    }
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut writer = Writer::small_model();
    writer.version = 2;
    assert_eq!(Gguf::from_bytes("m", writer.bytes()).unwrap().version(), 2);
}

#[test]
fn the_builtin_model_is_shown_without_a_file() {
    let output = inspect(&["--tensors", "--check-tensors", "--ctx", "1000"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    for text in [
        "built-in tiny model",
        "mistral3.block_count",
        "YaRN ×64 from 4,096 (beta 4/1, log multiplier 0)",
        "blk.3.ffn_up.weight",
        "for 1,000 tokens of context",
        "q8_0",
    ] {
        assert!(stdout.contains(text), "{text} in\n{stdout}");
    }
}

#[test]
fn json_has_the_numbers() {
    let output = inspect(&["--json", "--tensors", "--ctx", "1000"]);
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["n_tensors"], 39);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 39);
    assert_eq!(json["hparams"]["n_layer"], 4);
    assert_eq!(json["hparams"]["norm_eps"], 1e-5);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["len"], 4096);
    // 4 layers, 2 heads of 64, keys and values of 2 bytes, 1000 tokens
    assert_eq!(json["memory"]["kv"]["f16"]["kv_bytes"], 4 * 2 * 64 * 2 * 2 * 1000);
    assert_eq!(json["warnings"], serde_json::json!([]));
    assert!(json["error"].is_null());
}

#[test]
fn wrong_usage_is_told_apart_from_bad_files() {
    assert_eq!(inspect(&["--ctx", "0"]).status.code(), Some(2));
    assert_eq!(inspect(&["--no-such-flag"]).status.code(), Some(2));
}

/// The seed of the fuzz target is the small model.
#[test]
fn the_fuzz_seed_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/small.gguf");
    let bytes = Writer::small_model().bytes();
    assert!(std::fs::read(path).unwrap() == bytes, "write the small model to {path} again");
}
