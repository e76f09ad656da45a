//! GGUF files through `gust inspect` and the library: valid ones, and one hostile file per rule.
//!
//! A hostile file is the small model of `gguf_writer` with one thing wrong. The program must refuse
//! it with exit code 1 and a message that names file, place, expected and found.

#[path = "gguf/header.rs"]
mod header;
#[path = "gguf/model.rs"]
mod model;
#[path = "gguf/mutants.rs"]
mod mutants;
#[path = "gguf/projector.rs"]
mod projector;
#[path = "gguf/split.rs"]
mod split;
#[path = "gguf/valid.rs"]
mod valid;

use std::path::Path;
use std::process::{Command, Output};

use super::util::gguf_writer::{self as gw, Writer};

/// Runs `gust inspect` under a limit of address space: a file of some kilobytes must not make the
/// program ask for gigabytes.
fn inspect(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_gust");
    let limited = "ulimit -v 1000000; exec \"$0\" inspect \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, program]).args(args).output().expect("sh runs everywhere")
}

/// Inspects `path` and expects failure with every one of `messages` on stderr.
#[track_caller]
fn refused(case: &str, path: &Path, messages: &[&str]) {
    refused_with(case, path, &[], messages);
}

#[track_caller]
fn refused_with(case: &str, path: &Path, flags: &[&str], messages: &[&str]) {
    let mut args = vec![path.to_str().unwrap()];
    args.extend(flags);
    let output = inspect(&args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{case}: {:?}\n{stderr}", output.status);
    let error = stderr.split_once("error: ").map(|(_, error)| error).unwrap_or_default();
    for message in messages {
        assert!(error.contains(message), "{case}: expected {message:?} in\n{stderr}");
    }
    let file = path.file_name().unwrap().to_str().unwrap();
    let prefix = file.split("-0000").next().unwrap();
    assert!(error.contains(prefix), "{case}: no file name in\n{stderr}");
    assert!(
        !stderr.contains('\u{1b}') && !stderr.contains('\0'),
        "{case}: raw bytes in {stderr:?}"
    );
}

/// A file that differs from the small model by `change`, and what must be said about it.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Writer), &'a [&'a str]);

#[track_caller]
fn check(cases: &[Case<'_>]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, change, messages) in cases {
        let mut writer = Writer::small_model();
        change(&mut writer);
        let path = folder.path().join(format!("{name}.gguf"));
        std::fs::write(&path, writer.bytes()).unwrap();
        refused(name, &path, messages);
    }
}
