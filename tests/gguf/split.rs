//! Split models: found from any part, and refused when the parts do not belong together.
//!
//! The small model again, cut in three as llama.cpp's splitter does it.

use std::path::{Path, PathBuf};

use super::gw::{Writer, raw, string, u32};
use super::{inspect, refused};
use gust::gguf::{Gguf, Value};

const N_PARTS: usize = 3;

/// The small model in three parts: metadata and 4 tensors in each.
fn parts() -> Vec<Writer> {
    let whole = Writer::small_model();
    (0..N_PARTS)
        .map(|no| {
            let mut part = if no == 0 { whole.clone() } else { Writer::new() };
            part.tensors = whole.tensors[4 * no..4 * no + 4].to_vec();
            part.set("split.no", raw(&Value::U16(no as u16)));
            part.set("split.count", raw(&Value::U16(N_PARTS as u16)));
            part.set("split.tensors.count", raw(&Value::I32(12)));
            part
        })
        .collect()
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("m-{number:05}-of-{N_PARTS:05}.gguf"))
}

fn write(folder: &Path, parts: &[Writer]) {
    for (idx, part) in parts.iter().enumerate() {
        std::fs::write(path(folder, idx + 1), part.bytes()).unwrap();
    }
}

#[test]
fn any_part_opens_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &parts());
    let whole = Gguf::from_bytes("m", Writer::small_model().bytes()).unwrap();
    for number in 1..=N_PARTS {
        let gguf = Gguf::open(&path(folder.path(), number)).unwrap();
        assert_eq!(gguf.parts().len(), N_PARTS);
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), Some("mistral3"));
        for tensor in whole.tensors() {
            let found = gguf.tensor(&tensor.name).unwrap();
            assert_eq!((found.ty, &found.dims), (tensor.ty, &tensor.dims));
            assert_eq!(gguf.data(found), whole.data(tensor), "{}", tensor.name);
        }
    }
}

#[test]
fn numbers_may_have_any_small_type_and_the_first_part_no_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts();
    let moved = std::mem::take(&mut parts[0].tensors);
    parts[1].tensors.extend(moved);
    parts[1].set("split.no", u32(1));
    parts[2].set("split.no", raw(&Value::I32(2)));
    parts[2].set("split.count", raw(&Value::I32(3)));
    parts[2].set("split.tensors.count", raw(&Value::U16(12)));
    // Repeating what the first part says is allowed.
    parts[1].set("general.architecture", string("mistral3"));
    write(folder.path(), &parts);
    assert!(inspect(&[path(folder.path(), 2).to_str().unwrap()]).status.success());
}

#[test]
fn missing_parts_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &parts());
    std::fs::remove_file(path(folder.path(), 1)).unwrap();
    std::fs::remove_file(path(folder.path(), 3)).unwrap();
    let messages =
        ["(part 2/3)", "missing parts", "m-00001-of-00003.gguf", "m-00003-of-00003.gguf"];
    refused("missing", &path(folder.path(), 2), &messages);

    std::fs::create_dir(path(folder.path(), 1)).unwrap();
    write(folder.path(), &parts()[..0]);
    std::fs::write(path(folder.path(), 3), parts()[2].bytes()).unwrap();
    refused("folder", &path(folder.path(), 2), &["(part 1/3)", "found a directory"]);
}

#[test]
fn parts_that_do_not_belong_together() {
    type Change<'a> = &'a dyn Fn(&mut Vec<Writer>);
    let cases: &[(&str, Change<'_>, &[&str])] = &[
        (
            "count",
            &|p| p[1].set("split.count", raw(&Value::U16(4))),
            &["(part 2/3)", "key 'split.count'", "expected 3", "found 4"],
        ),
        (
            "no",
            &|p| p[2].set("split.no", raw(&Value::U16(1))),
            &["(part 3/3)", "key 'split.no'", "expected 2", "found 1"],
        ),
        ("order", &|p| p.swap(1, 2), &["(part 2/3)", "key 'split.no'", "found 2"]),
        ("absent", &|p| p[1].remove("split.no"), &["(part 2/3)", "'split.no'", "found none"]),
        (
            "type",
            &|p| p[1].set("split.no", string("1")),
            &["(part 2/3)", "key 'split.no': wrong type", "found string"],
        ),
        (
            "negative",
            &|p| p[1].set("split.no", raw(&Value::I32(-1))),
            &["(part 2/3)", "key 'split.no': wrong type; must be a non-negative"],
        ),
        (
            "total",
            &|p| p[2].set("split.tensors.count", raw(&Value::I32(13))),
            &["(part 3/3)", "key 'split.tensors.count'", "expected 13 tensors", "found 12"],
        ),
        (
            "less",
            &|p| drop(p[2].tensors.pop()),
            &["key 'split.tensors.count'", "expected 12 tensors", "found 11"],
        ),
        (
            "twice",
            &|p| p[2].tensors[0].name = b"token_embd.weight".to_vec(),
            &["tensor 'token_embd.weight': in two parts", "(part 1/3) and ", "(part 3/3)"],
        ),
        (
            "other",
            &|p| p[1].set("general.name", string("Another")),
            &["(part 2/3)", "key 'general.name'", "found 'Another'"],
        ),
        (
            "arch",
            &|p| p[1].set("general.architecture", string("llama")),
            &["key 'general.architecture'", "expected 'mistral3'", "found 'llama'"],
        ),
        (
            "manifest",
            &|p| p[1].tensors[0].dims = vec![4, 8],
            &["tensor 'blk.0.attn_v.weight' (part 2/3): wrong shape"],
        ),
        ("huge", &|p| p[0].set("split.count", raw(&Value::U16(65_535))), &["found 65535"]),
    ];
    for (name, change, messages) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = parts();
        change(&mut parts);
        write(folder.path(), &parts);
        refused(name, &path(folder.path(), 1), messages);
    }
}

#[test]
fn a_part_under_another_name_says_how_it_should_be_called() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("renamed.gguf");
    std::fs::write(&path, parts()[1].bytes()).unwrap();
    refused("renamed", &path, &["does not end in -00002-of-00003.gguf; rename the parts"]);
}

#[test]
fn many_missing_parts_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m-00001-of-65535.gguf");
    let mut part = parts().remove(0);
    part.set("split.count", raw(&Value::U16(65_535)));
    std::fs::write(&path, part.bytes()).unwrap();
    refused("many", &path, &["m-00006-of-65535.gguf and 65529 more"]);
}

#[cfg(unix)]
#[test]
fn symlinked_parts_are_followed_and_pipes_refused() {
    let (blobs, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(blobs.path(), &parts());
    for number in 1..=N_PARTS {
        let (from, to) = (path(blobs.path(), number), path(folder.path(), number));
        std::os::unix::fs::symlink(from, to).unwrap();
    }
    assert!(Gguf::open(&path(folder.path(), 3)).is_ok());

    std::fs::remove_file(path(folder.path(), 2)).unwrap();
    let made = std::process::Command::new("mkfifo").arg(path(folder.path(), 2)).status();
    if made.is_ok_and(|status| status.success()) {
        refused("fifo", &path(folder.path(), 1), &["(part 2/3)", "found a device, pipe or socket"]);
    }
}

/// Part 2 of another quantization has the same names and shapes.
#[test]
fn parts_of_two_quantizations_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Writer::small_model();
    whole.set("mistral3.block_count", u32(6));
    let layer: Vec<_> = whole.tensors[1..10].to_vec();
    for idx in 1..6 {
        whole.tensors.extend(layer.iter().cloned().map(|mut tensor| {
            let name = String::from_utf8(tensor.name).unwrap();
            tensor.name = name.replace("blk.0.", &format!("blk.{idx}.")).into_bytes();
            tensor
        }));
    }
    let mut second = Writer::new();
    second.tensors = whole.tensors.split_off(3 + 9 * 3);
    for (no, part) in [&mut whole, &mut second].into_iter().enumerate() {
        part.set("split.no", u32(no as u32));
        part.set("split.count", u32(2));
    }
    let paths = [1, 2].map(|number| folder.path().join(format!("q-0000{number}-of-00002.gguf")));
    std::fs::write(&paths[0], whole.bytes()).unwrap();
    std::fs::write(&paths[1], second.bytes()).unwrap();
    assert!(inspect(&[paths[0].to_str().unwrap()]).status.success());
    for tensor in second.tensors.iter_mut().filter(|tensor| tensor.dims.len() == 2) {
        (tensor.ty, tensor.data) = (1, tensor.data[..tensor.data.len() / 2].to_vec());
    }
    std::fs::write(&paths[1], second.bytes()).unwrap();
    refused("quants", &paths[0], &["another quantization; expected layers of f16", "found f32"]);
}
