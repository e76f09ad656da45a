//! Folders that are no checkpoints, or not whole: every fault is named, before any work.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{open, refused};
use crate::util::checkpoint::{
    PREFIXES, Stored, config, hugging_face, native, safetensors, write_hugging_face, write_json,
    write_native,
};

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const EMBED: &str = "model.language_model.embed_tokens.weight";

fn whole() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_hugging_face(dir.path(), &hugging_face(&native(), PREFIXES[0]), &config());
    dir
}

/// A whole checkpoint whose index is changed.
fn with_index(change: impl FnOnce(&mut Value)) -> TempDir {
    let dir = whole();
    let path = dir.path().join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    write_json(&path, &index);
    dir
}

#[test]
fn what_is_no_folder_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["no checkpoint", "config.json", "params.json"]);
    refused(&dir.path().join("none"), &["none: "]);
    let file = dir.path().join("README.md");
    fs::write(&file, "x").unwrap();
    refused(&file, &["README.md: a file; expected the folder"]);
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    refused(dir.path(), &["'pytorch_model.bin' is a pickle: an unsafe format, which is not read"]);
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    refused(dir.path(), &["an unsafe format"]);
}

#[test]
fn weights_need_their_description() {
    let dir = whole();
    fs::remove_file(dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["model-00001", "is here but config.json is not"]);
    write_json(&dir.path().join("params.json"), &json!({}));
    refused(dir.path(), &["params.json describes weights of another layout"]);
}

#[test]
fn an_index_that_lies() {
    let map = |index: &mut Value, name: &str, file: Value| index["weight_map"][name] = file;
    let cases: Vec<(TempDir, Vec<&str>)> = vec![
        (
            with_index(|index| map(index, EMBED, json!(SECOND))),
            vec![EMBED, "in 'model-00001", "says in 'model-00002"],
        ),
        (
            with_index(|index| map(index, "model.extra", json!(FIRST))),
            vec!["'model.extra'", "not in 'model-00001"],
        ),
        (
            with_index(|index| drop(index["weight_map"].as_object_mut().unwrap().remove(EMBED))),
            vec![EMBED, "but not in model.safetensors.index.json"],
        ),
        (
            with_index(|index| index["metadata"]["total_size"] = json!(7)),
            vec!["metadata.total_size", "found 7"],
        ),
        (
            with_index(|index| index["metadata"]["total_size"] = json!("7")),
            vec!["'metadata.total_size'", "a number of bytes"],
        ),
        (with_index(|index| index["weight_map"] = json!([])), vec![INDEX, "an object"]),
        (
            with_index(|index| map(index, "a", json!("model-00003-of-00003.safetensors"))),
            vec!["'model-00003-of-00003.safetensors': missing"],
        ),
        (with_index(|index| map(index, "a", json!(7))), vec![INDEX]),
    ];
    for (dir, expected) in cases {
        refused(dir.path(), &expected);
    }
}

#[test]
fn an_index_does_not_lead_out_of_the_folder() {
    for name in [
        "../x.safetensors",
        "/etc/passwd",
        "a/../../x",
        "..",
        "",
        ".",
        "a/b.safetensors",
        "..\\x",
        "C:x",
    ] {
        let dir = with_index(|index| index["weight_map"]["a"] = json!(name));
        refused(
            dir.path(),
            &[&format!("{INDEX}: '{}' is no name of a file", name.replace('\\', "\\\\"))],
        );
    }
}

#[test]
fn all_faults_of_an_index_are_told_together() {
    let dir = with_index(|index| {
        index["weight_map"]["a"] = json!("../x");
        index["weight_map"]["b"] = json!("gone.safetensors");
    });
    fs::write(dir.path().join("model-00009-of-00009.safetensors"), "").unwrap();
    refused(
        dir.path(),
        &[
            "(3)",
            "'../x'",
            "'gone.safetensors': missing",
            "'model-00009-of-00009.safetensors': not in",
        ],
    );
    let dir = with_index(|index| {
        index["weight_map"]["a"] = json!(FIRST);
        index["weight_map"][EMBED] = json!(SECOND);
    });
    refused(dir.path(), &["(2)", "'a'", EMBED]);
    let text = fs::read_to_string(dir.path().join(INDEX)).unwrap();
    fs::write(dir.path().join(INDEX), text.replacen("\"a\":", &format!("\"{EMBED}\":"), 1))
        .unwrap();
    refused(dir.path(), &[INDEX, "is there twice"]);
}

#[test]
fn files_that_do_not_belong_together() {
    let single = |dir: &Path| fs::copy(dir.join(FIRST), dir.join("model.safetensors")).unwrap();
    let dir = whole();
    single(dir.path());
    refused(dir.path(), &["'model.safetensors': not in model.safetensors.index.json"]);
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    refused(
        dir.path(),
        &["cannot be known", "'model.safetensors'", "'model-00002-of-00002.safetensors'"],
    );
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    open(dir.path(), None);
    fs::rename(dir.path().join(SECOND), dir.path().join("model-00003-of-00003.safetensors"))
        .unwrap();
    refused(dir.path(), &["cannot be known"]);
    fs::remove_file(dir.path().join("model-00003-of-00003.safetensors")).unwrap();
    refused(dir.path(), &["'model-00002-of-00002.safetensors': missing"]);
    fs::copy(dir.path().join(FIRST), dir.path().join(SECOND)).unwrap();
    refused(dir.path(), &["is in 'model-00001-of-00002.safetensors' and in 'model-00002"]);
}

#[test]
fn files_that_cannot_be_read() {
    let dir = whole();
    let second = dir.path().join(SECOND);
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    refused(dir.path(), &[SECOND, "reach beyond", "download it again"]);
    fs::write(&second, "").unwrap();
    refused(dir.path(), &[SECOND, "a file of 0 bytes"]);
    fs::write(dir.path().join(FIRST), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    refused(dir.path(), &["(2)", SECOND, FIRST, "git lfs pull"]);
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    refused(dir.path(), &[SECOND, "not a file"]);
    #[cfg(unix)]
    {
        fs::remove_dir(&second).unwrap();
        std::os::unix::fs::symlink("../blobs/gone", &second).unwrap();
        refused(dir.path(), &[SECOND, "a link to a file that is not there"]);
    }
}

/// Changes the tensors of the native layout, and expects these words.
#[track_caller]
fn refused_tensors(change: impl FnOnce(&mut Vec<Stored>), expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = crate::util::checkpoint::native_fp8();
    change(&mut tensors);
    write_native(dir.path(), &tensors);
    refused(dir.path(), expected);
}

fn at<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

#[test]
fn tensors_that_do_not_fit_the_model() {
    const WQ: &str = "layers.1.attention.wq.weight";
    refused_tensors(
        |tensors| at(tensors, WQ).shape.reverse(),
        &["(1)", "'layers.1.attention.wq.weight': wrong shape; expected [64, 32], found [32, 64]"],
    );
    refused_tensors(
        |tensors| tensors.retain(|t| t.name != "norm.weight" && t.name != "output.weight"),
        &[
            "(2)",
            "'norm.weight': missing; expected [32] (output_norm.weight in GGUF)",
            "'output.weight': missing; expected [300, 32]",
        ],
    );
    refused_tensors(
        |tensors| {
            at(tensors, "layers.0.ffn_norm.weight").name = "layers.0.moe.gate.weight".to_owned();
            at(tensors, "layers.1.ffn_norm.weight").name = "layers.2.ffn_norm.weight".to_owned();
        },
        &[
            "(4)",
            "'layers.0.moe.gate.weight': unknown",
            "this model has no blk.2.ffn_norm.weight",
            "'layers.1.ffn_norm.weight': missing",
        ],
    );
    refused_tensors(
        |tensors| {
            let twin = Stored { name: format!("model.{WQ}"), ..at(tensors, WQ).clone() };
            tensors.push(twin);
        },
        &["both blk.1.attn_q.weight", "'model.layers.1.attention.wq.weight'"],
    );
}

#[test]
fn scales_that_cannot_be_used() {
    const SCALE: &str = "layers.1.attention.wq.qscale_weight";
    let number = |x: f32| x.to_le_bytes()[2..].to_vec();
    for (wrong, shown) in [(-1.0, "-1"), (0.0, "0"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        refused_tensors(
            |tensors| at(tensors, SCALE).data = number(wrong),
            &[SCALE, "expected scales above 0", &format!("found {shown}")],
        );
    }
    refused_tensors(
        |tensors| tensors.retain(|tensor| tensor.name != SCALE),
        &["'layers.1.attention.wq.weight': F8_E4M3 without a scale"],
    );
    refused_tensors(
        |tensors| tensors.retain(|tensor| tensor.name != "layers.1.attention.wq.weight"),
        &[SCALE, "a scale without its weight", "blk.1.attn_q.weight in GGUF"],
    );
    refused_tensors(
        |tensors| {
            let scale = at(tensors, SCALE);
            (scale.shape, scale.data) = (vec![3], [number(1.0), number(1.0), number(1.0)].concat());
        },
        &[SCALE, "expected [1, 1] or one number, found [3]", "weight_block_size"],
    );
    refused_tensors(
        |tensors| at(tensors, SCALE).name = "tok_embeddings.qscale_weight".to_owned(),
        &["a scale of 'tok_embeddings.weight', which is BF16 and needs none"],
    );
}

#[test]
fn the_description_may_forbid_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = crate::util::checkpoint::params();
    params["vision_encoder"] = Value::Null;
    write_json(&dir.path().join("params.json"), &params);
    fs::write(dir.path().join("consolidated.safetensors"), safetensors(&native())).unwrap();
    refused(
        dir.path(),
        &["'vision_encoder.patch_conv.weight': this model has no v.patch_embd.weight"],
    );
    params["vision_encoder"] = crate::util::checkpoint::params()["vision_encoder"].clone();
    params["vision_encoder"]["adapter_bias"] = json!(true);
    write_json(&dir.path().join("params.json"), &params);
    refused(dir.path(), &["w_in.bias': missing", "w_out.bias': missing", "--no-mmproj"]);
    fs::write(dir.path().join("params.json"), "{\"dim\": NaN}").unwrap();
    refused(dir.path(), &["params.json", "not the JSON", "line 1 column"]);
    fs::write(dir.path().join("params.json"), r#"{"yarn": {"beta": 4, "beta": 32}}"#).unwrap();
    refused(dir.path(), &["params.json", "key 'beta' is there twice"]);
    let marked = format!("\u{feff}{}", crate::util::checkpoint::params());
    fs::write(dir.path().join("params.json"), marked).unwrap();
    open(dir.path(), None);
}
