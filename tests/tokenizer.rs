//! The tokenizer with the built-in model's vocabulary, as a library and as `gust tokenize`.
//!
//! `scripts/golden/tokenizer.py` makes the golden ids with mistral_common.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use gust::model::builtin;
use gust::tokenizer::Tokenizer;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&builtin()).unwrap()
}

#[derive(serde::Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
}

fn goldens() -> Vec<Golden> {
    let lines = include_str!("golden/tokenizer/plain.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ids_are_those_of_mistral_common() {
    let tokenizer = tokenizer();
    for Golden { text, ids } in goldens() {
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text.as_bytes(), "{text:?}");
    }
}

/// A run of one class is one piece; merging it pair by pair over the whole piece would take hours.
#[test]
fn a_megabyte_of_any_class_comes_back() {
    let tokenizer = tokenizer();
    for unit in
        ["a", "A", "é", "1", " ", "\t ", ".", "/", "\n", "中", "A中", "\u{301}", "ǅ", "👨\u{200d}"]
    {
        let text = unit.repeat((1 << 20) / unit.len());
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text.as_bytes(), "{unit:?}");
    }
}

fn gust(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gust"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early may not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn stdout(args: &[&str], input: &str) -> String {
    let output = gust(args, input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn error(args: &[&str], input: &[u8]) -> String {
    let output = gust(args, input);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn tokenize_and_detokenize_are_filters() {
    let text = "Hello </s>\n naïve 中";
    let ids = stdout(&["tokenize"], text);
    assert_eq!(ids, stdout(&["tokenize", "-p", text], ""));
    assert_eq!(stdout(&["detokenize"], &ids), text);
    let json = stdout(&["tokenize", "--json"], text);
    assert_eq!(stdout(&["detokenize"], &json), text);
    let n_tokens = serde_json::from_str::<Vec<u32>>(&json).unwrap().len();
    assert_eq!(stdout(&["tokenize", "--count"], text), format!("{n_tokens}\n"));
    assert_eq!(stdout(&["detokenize", "-p", "1, 1072,2"], ""), "H");
}

#[test]
fn lines_are_json_both_ways() {
    let texts = "\"a\\nb\"\n\"\"\n\"\\u4e2d </s>\"\n";
    let ids = stdout(&["tokenize", "--lines"], texts);
    assert_eq!(ids.lines().count(), 3);
    assert_eq!(stdout(&["detokenize", "--lines"], &ids), "\"a\\nb\"\n\"\"\n\"中 </s>\"\n");
}

#[test]
fn bad_input_is_named() {
    let cases: [(&[&str], &[u8], &str); 8] = [
        (&["tokenize"], b"ab\xff", "byte 0xff at offset 2"),
        (&["tokenize", "--lines"], b"\"a\"\n[1]\n", "line 2 is not a JSON string"),
        (&["detokenize"], b"1072 4096", "token id 4096 is beyond the vocabulary of 4096 tokens"),
        (&["detokenize"], b"1072 -1", "\"-1\" is not a token id"),
        (&["detokenize"], b"[1072, 99999999999]", "token id 99999999999 is beyond"),
        (&["detokenize", "--lines"], b"[1072]\n[x]\n", "line 2"),
        (&["tokenize", "-f", "/nonexistent"], b"", "cannot open /nonexistent"),
        (&["tokenize", "-m", "Cargo.toml"], b"", "neither a GGUF file nor a tekken.json"),
    ];
    for (args, input, message) in cases {
        let error = error(args, input);
        assert!(error.contains(message), "{error:?} should contain {message:?}");
    }
}
