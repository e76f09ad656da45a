//! `gust quantize` as a user runs it: on a small model, into a folder of its own.

use std::path::Path;
use std::process::{Command, Output};

use gust::gguf::{Gguf, TensorType, Value};

/// A model in F32.
fn model() -> String {
    format!("{}/tests/golden/model/llama-gqa2.gguf", env!("CARGO_MANIFEST_DIR"))
}

fn quantize(output: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.arg("quantize").arg(model()).arg(output).args(["--threads", "1"]).args(args);
    command.output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_model_becomes_smaller_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let done = quantize(&path, &["q4_k_m", "--tensor-type", "ffn_up=f16"]);
    assert!(done.status.success(), "{}", error(&done));
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.metadata().get("general.file_type"), Some(&Value::U32(15)));
    let ty = |name: &str| gguf.tensor(name).unwrap().ty;
    assert_eq!(ty("blk.0.ffn_up.weight"), TensorType::F16);
    // 96 columns: no K quant fits, and F32 rows of 40 not even blocks of 32.
    assert_eq!(ty("blk.1.ffn_down.weight"), TensorType::Q8_0);
    assert_eq!(ty("blk.0.attn_q.weight"), TensorType::F16);
    assert_eq!(ty("blk.0.attn_norm.weight"), TensorType::F32);
    assert!(
        error(&done).contains("rows of 96 do not fill q6_K's blocks of 256"),
        "{}",
        error(&done)
    );

    let again = quantize(&path, &["q4_k_m"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(error(&again).contains("exists"), "{}", error(&again));
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let done = quantize(&path, &["Q8_0", "--dry-run"]);
    assert!(done.status.success(), "{}", error(&done));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("blk.0.ffn_down.weight") && text.contains("bits/weight"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let cases: [(&[&str], i32, &str); 5] = [
        (&["Q4_0", "--tensor-type", "nothing=q8_0"], 1, "no tensor has a name"),
        (&["Q4_0", "--tensor-type", "ffn_down=iq2_xs"], 0, "iq4_nl instead"),
        (&["Q9"], 2, "known types are"),
        (&["Q4_0", "--output-type", "i32"], 2, "known types are"),
        (&["Q4_0", "--imatrix", "/nowhere"], 1, "/nowhere"),
    ];
    for (args, code, text) in cases {
        let done = quantize(&path, args);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {}", error(&done));
        assert!(error(&done).contains(text), "{args:?}: {}", error(&done));
    }
}
