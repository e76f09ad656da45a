//! `gust doctor` as a user runs it: reports, exit codes, repaired files of every layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gust::doctor::Edit;
use gust::gguf::{Gguf, Value};
use gust::model;
use serde_json::Value as Json;
use tempfile::TempDir;

use super::edited;

fn gust(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gust")).args(args).output().unwrap()
}

fn json(args: &[&str]) -> (Json, bool) {
    let output = gust(&[&["doctor", "--json"], args].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    (json, output.status.success())
}

fn ids(json: &Json) -> Vec<&str> {
    json["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect()
}

/// A folder with the tiny pair, the model's YaRN magnitude and the tower's colours being wrong.
fn ill_pair() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (file, tower) = (dir.path().join("m.gguf"), dir.path().join("mmproj-m.gguf"));
    let wrong = Edit::Set("mistral3.rope.scaling.yarn_log_multiplier".to_owned(), Value::F32(1.0));
    fs::write(&file, edited(&model::builtin(), &[wrong], None)).unwrap();
    let gone = Edit::Remove("clip.vision.spatial_merge_size".to_owned());
    fs::write(&tower, edited(&model::builtin_mmproj(), &[gone], None)).unwrap();
    (dir, file, tower)
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_pair_is_repaired_into_a_folder_or_in_place() {
    let (dir, file, tower) = ill_pair();
    let (found, ok) = json(&[str(&file)]);
    assert_eq!((ids(&found), ok), (vec!["yarn-log-multiplier", "vision-shape"], false));
    assert_eq!((&found["verdict"], &found["n_fixable"]), (&"faulty".into(), &2.into()));

    let before = fs::read(&file).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let (report, ok) = json(&[str(&file), "--fix", "-o", str(&out)]);
    assert!(ok, "{report:#}");
    assert_eq!(report["repaired"]["verdict"], "healthy");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(json(&[str(&out.join("m.gguf")), "--deep"]).0["verdict"], "healthy");

    let (report, ok) = json(&[str(&file), "--fix", "--in-place"]);
    assert!(ok, "{report:#}");
    assert_eq!(json(&[str(&file)]).0["verdict"], "healthy");
    assert_eq!(fs::read(&file).unwrap(), fs::read(out.join("m.gguf")).unwrap());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?} beside {tower:?}");
    // A second time there is nothing to do.
    assert_eq!(json(&[str(&file), "--fix", "--in-place"]).0["repaired"], Json::Null);
}

#[test]
fn people_read_what_and_why() {
    let (_dir, file, _) = ill_pair();
    let output = gust(&["doctor", str(&file)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "error    yarn-log-multiplier, key 'mistral3.rope",
        "expected  0",
        "found     1",
        "--fix: set it to 0",
        "ok       file",
        "2 errors; --fix repairs all",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let output = gust(&["doctor", str(&file), "--fix"]);
    assert_eq!(output.status.code(), Some(2), "--fix without a destination");
    let output = gust(&["doctor", "no-such-file.gguf"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("unreadable"));
}

#[test]
fn a_split_model_keeps_its_other_parts() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = model::builtin();
    let name = |number: usize| dir.path().join(format!("s-{number:05}-of-00002.gguf"));
    let half = tiny.tensors().len() / 2;
    for number in 1..=2 {
        let split = |key: &str, value| Edit::Set(format!("split.{key}"), value);
        let mut edits = vec![
            split("no", Value::U16(number as u16 - 1)),
            split("count", Value::U16(2)),
            split("tensors.count", Value::I32(tiny.tensors().len() as i32)),
        ];
        if number == 1 {
            edits.push(Edit::Remove("tokenizer.chat_template".to_owned()));
        }
        let mut output = gust::doctor::repaired(&tiny, &edits, None, name(number)).unwrap();
        match number {
            1 => output.tensors.truncate(half),
            _ => {
                output.tensors.drain(..half);
                output.metadata.retain(|(key, _)| key.starts_with("split."));
            }
        }
        fs::write(name(number), super::bytes_of(&output)).unwrap();
    }
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let second = name(2);
    let (report, ok) = json(&[str(&second), "--fix", "-o", str(&out)]);
    assert_eq!((ids(&report), ok), (vec!["chat-template-missing"], true));
    assert_eq!(report["repaired"]["verdict"], "healthy");
    let repaired = Gguf::open(&out.join("s-00002-of-00002.gguf")).unwrap();
    let key = "tokenizer.chat_template";
    assert_eq!(repaired.metadata().get(key), tiny.metadata().get(key));
    assert_eq!(repaired.tensors().len(), tiny.tensors().len());
    let one = dir.path().join("one.gguf");
    let output = gust(&["doctor", str(&second), "--fix", "-o", str(&one)]);
    assert_eq!((output.status.code(), one.exists()), (Some(1), false));
    assert!(String::from_utf8(output.stderr).unwrap().contains("expected an existing folder"));
}

#[test]
fn a_file_with_its_tower_inside_is_examined_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let (tiny, tower) = (model::builtin(), model::builtin_mmproj());
    let mut output = gust::doctor::repaired(&tiny, &[], None, "one".into()).unwrap();
    let inside = gust::doctor::repaired(&tower, &[], None, "one".into()).unwrap();
    output.tensors.extend(inside.tensors);
    output.metadata.extend(inside.metadata.into_iter().filter(|(key, _)| key.starts_with("clip.")));
    let file = dir.path().join("one.gguf");
    fs::write(&file, super::bytes_of(&output)).unwrap();
    assert_eq!(json(&[str(&file), "--deep"]), (json(&[str(&file), "--deep"]).0, true));
    assert_eq!(ids(&json(&[str(&file)]).0), Vec::<&str>::new());

    output.tensors.retain(|tensor| tensor.name != "v.token_embd.img_break");
    output.metadata.retain(|(key, _)| key != "clip.vision.image_std");
    fs::write(&file, super::bytes_of(&output)).unwrap();
    let repaired = dir.path().join("repaired.gguf");
    let (report, ok) = json(&[str(&file), "--fix", "-o", str(&repaired)]);
    assert!(ok, "{report:#}");
    assert_eq!(ids(&report), ["image-std", "img-break-missing"]);
    assert_eq!(json(&[str(&repaired)]).0["verdict"], "healthy");
}

#[cfg(unix)]
#[test]
fn a_link_stays_one_and_its_target_keeps_its_mode() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (dir, file, _) = ill_pair();
    let link = dir.path().join("links").join("m.gguf");
    fs::create_dir(link.parent().unwrap()).unwrap();
    symlink(&file, &link).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let (report, ok) = json(&[str(&link), "--fix", "--in-place"]);
    assert!(ok, "{report:#}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(json(&[str(&file)]).0["findings"].as_array().unwrap().len(), 0);
}

#[test]
fn what_was_found_is_told_also_where_nothing_can_be_written() {
    let (dir, file, _) = ill_pair();
    let (report, ok) = json(&[str(&file), "--fix", "-o", "no/such/folder"]);
    assert_eq!((ids(&report).len(), ok, &report["repaired"]), (2, false, &Json::Null));
    assert!(!report["repair_error"].as_str().unwrap().is_empty());
    fs::write(dir.path().join("m.gguf.repaired"), "left").unwrap();
    let output = gust(&["doctor", str(&file), "--fix", "--in-place"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("2 errors"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("left by an earlier repair"), "{text}");
}

#[test]
fn a_tower_that_does_not_fit_is_an_error_where_it_is_said_to() {
    let (dir, _, _) = ill_pair();
    let golden = crate::model::golden_file("gqa4-temperature-head-64.gguf");
    let (model, tower) = (dir.path().join("wide-Q8_0.gguf"), dir.path().join("mmproj-F16.gguf"));
    fs::copy(golden, &model).unwrap();
    fs::write(&tower, edited(&model::builtin_mmproj(), &[], None)).unwrap();
    let severity = |args: &[&str]| {
        let (report, ok) = json(args);
        assert!(!ok);
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["id"] == "mmproj-mismatch");
        found.unwrap_or_else(|| panic!("{report:#}"))["severity"].as_str().unwrap().to_owned()
    };
    assert_eq!(severity(&[str(&model)]), "warning");
    assert_eq!(severity(&[str(&model), "--mmproj", str(&tower)]), "error");
    assert_eq!(severity(&[str(&tower), "--model", str(&model)]), "error");
    let called = dir.path().join("mmproj-wide-F16.gguf");
    fs::rename(&tower, called).unwrap();
    assert_eq!(severity(&[str(&model)]), "error");
}
