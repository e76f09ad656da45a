//! `gust convert` from a folder to files that load: both layouts, every place for the tower, what is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use gust::convert::{LICENSE, SYSTEM_PROMPT};
use gust::gguf::{Gguf, TensorType, Value};
use gust::model::{YarnPolicy, check_mmproj, validate};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::util::checkpoint::{
    N_VOCAB, PREFIXES, config, hugging_face, native, native_fp8, write_hugging_face, write_json,
    write_native,
};

/// Control tokens in front of the 256 bytes that complete the vocabulary.
const N_SPECIAL: u64 = N_VOCAB - 256;

fn convert(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.arg("convert").arg(dir).args(args).output().unwrap()
}

/// Converts to `out.gguf` beside the checkpoint; returns what was said.
#[track_caller]
fn converted(dir: &Path, args: &[&str]) -> String {
    let out = dir.join("out.gguf");
    let output = convert(dir, &[&["-o", out.to_str().unwrap(), "--force"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], expected: &[&str]) {
    let out = dir.join("out.gguf");
    let output = convert(dir, &[&["-o", out.to_str().unwrap()], args].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    expected.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in: {said}"));
    assert!(!out.exists() && !dir.join("mmproj-out.gguf").exists());
}

/// A tekken.json of the bytes alone.
fn tekken() -> Json {
    let names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"];
    let special: Vec<Json> = (names.iter().enumerate())
        .chain([(10, &"[IMG]"), (11, &"<pad>"), (12, &"[IMG_BREAK]"), (13, &"[IMG_END]")])
        .map(|(rank, name)| json!({"rank": rank, "token_str": name, "is_control": true}))
        .collect();
    let base64 = |byte: u8| {
        let sextets = [byte >> 2, (byte & 3) << 4];
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        format!(
            "{}{}==",
            alphabet[sextets[0] as usize] as char, alphabet[sextets[1] as usize] as char
        )
    };
    let vocab: Vec<Json> = (0..=255)
        .map(|byte| json!({"rank": byte, "token_bytes": base64(byte), "token_str": null}))
        .collect();
    let pattern = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let config = json!({
        "pattern": pattern, "num_vocab_tokens": 256, "default_vocab_size": N_VOCAB,
        "default_num_special_tokens": N_SPECIAL, "version": "v15",
    });
    json!({"config": config, "vocab": vocab, "special_tokens": special})
}

/// The files beside the weights.
fn write_side_files(dir: &Path) {
    write_json(&dir.join("tekken.json"), &tekken());
    fs::write(dir.join("chat_template.jinja"), "{{ bos_token }}").unwrap();
    fs::write(dir.join("SYSTEM_PROMPT.txt"), "Be {name}.").unwrap();
    fs::write(dir.join("README.md"), "---\nlicense: mit\nname: Tiny Test\ntags: [a, b]\n---\n")
        .unwrap();
    let generation =
        json!({"bos_token_id": 1, "eos_token_id": [2, 4], "temperature": 0.25, "top_k": 3});
    write_json(&dir.join("generation_config.json"), &generation);
}

fn native_folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_native(dir.path(), &native());
    write_side_files(dir.path());
    dir
}

/// Every tensor's name, type and bytes.
fn tensors(gguf: &Gguf) -> Vec<(String, TensorType, Vec<u8>)> {
    let mut all: Vec<_> = (gguf.tensors().iter())
        .map(|tensor| (tensor.name.clone(), tensor.ty, gguf.data(tensor).to_vec()))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn open(path: &Path) -> Gguf {
    Gguf::open(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_folder_becomes_a_model_and_its_tower() {
    let dir = native_folder();
    let said = converted(dir.path(), &["--type", "BF16"]);
    for part in [
        "Tiny Test",
        "mostly BF16",
        "Mistral's layout",
        "kept: 2, the vocabulary's </s>",
        "run it: gust chat -m",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let text = open(&dir.path().join("out.gguf"));
    let (hparams, warnings) = validate(&text, YarnPolicy::Correct).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    check_mmproj(&open(&dir.path().join("mmproj-out.gguf")), &hparams).unwrap();

    let metadata = text.metadata();
    let string = |key| metadata.str(key).unwrap().unwrap();
    assert_eq!((string("general.name"), string("general.license")), ("Tiny Test", "mit"));
    assert_eq!(
        (string(SYSTEM_PROMPT), string("tokenizer.chat_template")),
        ("Be {name}.", "{{ bos_token }}")
    );
    assert_eq!(metadata.get("general.sampling.temp"), Some(&Value::F32(0.25)));
    assert_eq!(metadata.get("general.sampling.top_k"), Some(&Value::I32(3)));
    assert_eq!(metadata.get("general.file_type"), Some(&Value::U32(32)));

    // The program runs it, pictures and all.
    let out = dir.path().join("out.gguf");
    let mut run = Command::new(env!("CARGO_BIN_EXE_gust"));
    run.args([
        "run",
        "--temp",
        "0",
        "-n",
        "2",
        "-t",
        "1",
        "--chat-version",
        "v7",
        "-p",
        "hi",
        "-m",
    ])
    .arg(out);
    let output = run.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn both_layouts_give_the_same_tensors() {
    let native_dir = native_folder();
    let other_dir = tempfile::tempdir().unwrap();
    for (tensors_, args) in [(native(), ["--type", "F32"]), (native_fp8(), ["--type", "Q4_K_M"])] {
        write_native(native_dir.path(), &tensors_);
        let mut config = config();
        if args[1] == "Q4_K_M" {
            config["quantization_config"] =
                json!({"quant_method": "fp8", "activation_scheme": "static"});
            let mut params: Json =
                serde_json::from_slice(&fs::read(native_dir.path().join("params.json")).unwrap())
                    .unwrap();
            params["quantization"] = json!({"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"});
            write_json(&native_dir.path().join("params.json"), &params);
        }
        write_hugging_face(other_dir.path(), &hugging_face(&tensors_, PREFIXES[0]), &config);
        write_side_files(other_dir.path());
        converted(native_dir.path(), &args);
        converted(other_dir.path(), &args);
        for name in ["out.gguf", "mmproj-out.gguf"] {
            let [a, b] = [&native_dir, &other_dir].map(|dir| open(&dir.path().join(name)));
            assert!(tensors(&a) == tensors(&b), "{name} as {}", args[1]);
            assert_eq!(
                a.metadata().get("general.file_type"),
                b.metadata().get("general.file_type")
            );
        }
    }
}

#[test]
fn the_tower_goes_where_it_is_told() {
    let dir = native_folder();
    let beside = dir.path().join("mmproj-out.gguf");
    converted(dir.path(), &["--type", "Q8_0", "--no-mmproj"]);
    assert!(!beside.exists());
    let text = tensors(&open(&dir.path().join("out.gguf")));

    converted(dir.path(), &["--type", "Q8_0", "--single-file", "--mmproj-type", "F16"]);
    assert!(!beside.exists());
    let both = open(&dir.path().join("out.gguf"));
    let (hparams, _) = validate(&both, YarnPolicy::Correct).unwrap();
    check_mmproj(&both, &hparams).unwrap();
    let ty = |name: &str| both.tensor(name).unwrap().ty;
    assert_eq!(
        (ty("v.patch_embd.weight"), ty("v.pre_ln.weight")),
        (TensorType::F16, TensorType::F32)
    );

    converted(dir.path(), &["--type", "Q8_0", "--name", "Other"]);
    let tower = open(&beside);
    assert_eq!(tower.metadata().str("general.name").unwrap(), Some("Other"));
    // Not a float: the tower is BF16, the pictures' way in F32.
    assert_eq!(tower.tensor("mm.2.weight").unwrap().ty, TensorType::BF16);
    assert_eq!(tower.tensor("mm.patch_merger.weight").unwrap().ty, TensorType::F32);
    assert!(tensors(&open(&dir.path().join("out.gguf"))) == text);
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let dir = native_folder();
    let out = dir.path().join("folder");
    fs::create_dir(&out).unwrap();
    let output =
        convert(dir.path(), &["-o", out.to_str().unwrap(), "--type", "q4_k_m", "--dry-run"]);
    let (plan, said) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}");
    for part in [
        "Tiny-Test-Q4_K_M.gguf",
        "mmproj-Tiny-Test-Q4_K_M.gguf",
        "blk.1.attn_v.weight",
        "bits/weight",
    ] {
        assert!(plan.contains(part), "{part:?} is not in: {plan}");
    }
    assert!(said.contains("do not fill"), "{said}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let check = |name: &str, content: &str, expected: &[&str]| {
        let dir = native_folder();
        fs::write(dir.path().join(name), content).unwrap();
        refused(dir.path(), &["--type", "F16"], expected);
    };
    check(
        "generation_config.json",
        r#"{"eos_token_id": 999}"#,
        &["key 'eos_token_id'", "300 tokens", "found 999"],
    );
    check("generation_config.json", r#"{"top_k": "x"}"#, &["key 'top_k'", "whole number"]);
    check("generation_config.json", "[1]", &["generation_config.json", "not a JSON object"]);
    check("tekken.json", "{}", &["tekken.json", "missing field"]);
    let mut larger = tekken();
    larger["config"]["default_num_special_tokens"] = json!(N_SPECIAL + 1);
    larger["config"]["default_vocab_size"] = json!(N_VOCAB + 1);
    check("tekken.json", &larger.to_string(), &["301 tokens", "embeddings for 300"]);

    let dir = native_folder();
    fs::write(dir.path().join("chat_template.jinja"), b"\xff").unwrap();
    refused(dir.path(), &["--type", "F16"], &["chat_template.jinja", "UTF-8"]);
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    fs::remove_file(dir.path().join("tekken.json")).unwrap();
    refused(dir.path(), &["--type", "F16"], &["no tokenizer", "tokenizer.json"]);
    fs::remove_file(dir.path().join("params.json")).unwrap();
    refused(dir.path(), &["--type", "F16"], &["params.json"]);

    let wrong_usage = convert(dir.path(), &["-o", "x.gguf", "--type", "Q9"]);
    assert_eq!(wrong_usage.status.code(), Some(2));
}

#[test]
fn files_that_only_describe_do_not_stop_anything() {
    let dir = native_folder();
    fs::write(dir.path().join("README.md"), b"\xff").unwrap();
    fs::write(dir.path().join("generation_config.json"), "").unwrap();
    fs::write(dir.path().join("chat_template.jinja"), " ").unwrap();
    fs::write(dir.path().join("LICENSE"), "You may.").unwrap();
    let said = converted(dir.path(), &["--type", "BF16", "--name", "T"]);
    for part in [
        "README.md is not carried over: not UTF-8",
        "generation_config.json is not carried over: empty",
        "chat_template.jinja is empty",
        "no chat template",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let text = open(&dir.path().join("out.gguf"));
    assert_eq!(text.metadata().str(LICENSE).unwrap(), Some("You may."));
    fs::write(dir.path().join("LICENSE"), "x".repeat(65_537)).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "\n{% if %}").unwrap();
    let said = converted(dir.path(), &["--type", "BF16"]);
    assert!(said.contains("LICENSE is not carried over: too large"), "{said}");
    assert!(said.contains("chat template, line 2"), "{said}");
}

#[test]
fn types_of_single_tensors_reach_the_tower() {
    let dir = native_folder();
    let beside = dir.path().join("mmproj-out.gguf");
    let args = ["--type", "F16", "--tensor-type", r"v\.blk\.0\.ffn_up=F32"];
    converted(dir.path(), &args);
    let ty = |gguf: &Gguf, name: &str| gguf.tensor(name).unwrap().ty;
    let tower = open(&beside);
    assert_eq!(ty(&tower, "v.blk.0.ffn_up.weight"), TensorType::F32);
    assert_eq!(ty(&tower, "v.blk.0.ffn_gate.weight"), TensorType::F16);
    converted(dir.path(), &[&args[..], &["--single-file"]].concat());
    let both = open(&dir.path().join("out.gguf"));
    assert_eq!(ty(&both, "v.blk.0.ffn_up.weight"), TensorType::F32);
    assert_eq!(ty(&both, "blk.0.ffn_up.weight"), TensorType::F16);
    converted(dir.path(), &["--type", "F16", "--tensor-type", "ffn_up=F32", "--single-file"]);
    let both = open(&dir.path().join("out.gguf"));
    assert_eq!(ty(&both, "v.blk.0.ffn_up.weight"), TensorType::F16, "the language model is meant");
    assert_eq!(ty(&both, "blk.0.ffn_up.weight"), TensorType::F32);
    fs::remove_file(dir.path().join("out.gguf")).unwrap();
    fs::remove_file(beside).unwrap();
    refused(dir.path(), &["--type", "F16", "--tensor-type", r"no\.such=F32"], &[r"'no\.such'"]);
}

#[test]
fn places_that_cannot_be_are_refused() {
    let dir = native_folder();
    let nowhere = format!("{}/nodir/", dir.path().display());
    for (out, expected) in [(nowhere.as_str(), "there is no folder"), ("-", "-o -")] {
        let output = convert(dir.path(), &["-o", out, "--type", "F16"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
    let unnamed = convert(dir.path(), &["-o", "x.gguf", "--type", "F16", "--name", ""]);
    assert_eq!(unnamed.status.code(), Some(2));
    fs::create_dir(dir.path().join("my models")).unwrap();
    let out = dir.path().join("my models/m-F16.gguf");
    let output = convert(dir.path(), &["-o", out.to_str().unwrap(), "--type", "F16"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("run it: gust chat -m '{}'", out.display())), "{said}");
}

#[test]
fn a_number_that_is_none_is_told_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = native();
    let wq = tensors.iter_mut().find(|tensor| tensor.name.ends_with("wq.weight")).unwrap();
    wq.data[..2].copy_from_slice(&[0xc0, 0x7f]);
    write_native(dir.path(), &tensors);
    write_side_files(dir.path());
    refused(dir.path(), &["--type", "Q8_0"], &["consolidated", ".safetensors: ", "1 bad value,"]);
}
