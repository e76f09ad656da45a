//! Hostile headers: magic, counts, keys, values, tensor list, data ranges.
//!
//! Rules of the format itself, which hold for every GGUF file whatever it contains.

use super::gw::{Writer, every_type, raw, string, u32};
use super::{check, refused};
use gust::gguf::{Array, Value};

/// A scalar of type `ty` with these bytes.
fn bytes(ty: u32, bytes: &[u8]) -> super::gw::Raw {
    let mut raw = u32(0);
    raw.ty = ty;
    raw.bytes = bytes.to_vec();
    raw
}

/// An array header that promises `n` elements of `ty`, followed by `rest`.
fn array(ty: u32, n: u64, rest: &[u8]) -> super::gw::Raw {
    bytes(9, &[&ty.to_le_bytes()[..], &n.to_le_bytes(), rest].concat())
}

#[test]
fn files_that_are_not_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let valid = Writer::small_model().bytes();
    let mut safetensors = 64u64.to_le_bytes().to_vec();
    safetensors.extend(b"{\"a\":{}}");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec();
    let html = b"\n<!DOCTYPE html><html></html>".to_vec();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "file too short for a GGUF header (0 of 24 bytes)"),
        ("b3", valid[..3].to_vec(), "file too short for a GGUF header (3 of 24 bytes)"),
        ("b12", valid[..12].to_vec(), "file too short for a GGUF header (12 of 24 bytes)"),
        ("b23", valid[..23].to_vec(), "file too short for a GGUF header (23 of 24 bytes)"),
        ("safetensors", safetensors, "this is a safetensors file"),
        ("zip", b"PK\x03\x04............................".to_vec(), "zip archive"),
        ("html", html, "this is a web page"),
        ("lfs", lfs, "this is a Git LFS pointer, run git lfs pull"),
        ("other", b"\x1b[31m nonsense".to_vec(), "found \"\\u{1b}[31\""),
    ];
    for (name, bytes, message) in cases {
        let path = folder.path().join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        refused(name, &path, &[message]);
    }
    refused("absent", &folder.path().join("absent.gguf"), &["cannot read the file", "os error 2"]);
    let path = folder.path().join("folder.gguf");
    std::fs::create_dir(&path).unwrap();
    refused("folder", &path, &["not a regular file", "found a directory"]);
}

#[test]
fn versions() {
    check(&[
        ("v0", &|w| w.version = 0, &["@byte 4: GGUF version 0 unsupported; expected 2 or 3"]),
        ("v1", &|w| w.version = 1, &["GGUF version 1 unsupported"]),
        ("v4", &|w| w.version = 4, &["GGUF version 4 unsupported"]),
        ("be", &|w| w.version = 3u32.swap_bytes(), &["big-endian file"]),
    ]);
}

#[test]
fn counts() {
    check(&[
        ("t62", &|w| w.n_tensors = Some(1 << 62), &["@byte 8: 4611686018427387904 tensors"]),
        ("t65537", &|w| w.n_tensors = Some(65_537), &["@byte 8: 65537 tensors; expected at most"]),
        ("tleft", &|w| w.n_tensors = Some(60_000), &["bytes left in the file can hold"]),
        ("k62", &|w| w.n_keys = Some(1 << 62), &["@byte 16: 4611686018427387904 keys"]),
        ("kleft", &|w| w.n_keys = Some(60_000), &["@byte 16: 60000 keys", "can hold"]),
        ("kmore", &|w| w.n_keys = Some(25), &["tensor #0", "expected at most 63"]),
    ]);
}

#[test]
fn strings_and_keys() {
    let long = vec![b'k'; 65_536];
    check(&[
        (
            "s40",
            &|w| w.keys[0].1.bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes()),
            &["key 'general.architecture'", "string value needs 1099511627776 bytes", "@byte "],
        ),
        (
            "seof",
            &|w| {
                w.tensors.clear();
                w.keys.truncate(1);
                w.keys[0].1.bytes[..8].copy_from_slice(&9u64.to_le_bytes());
            },
            &["needs 9 bytes, found 8"],
        ),
        ("kempty", &|w| w.keys[3].0.clear(), &["key #3: key name is empty"]),
        ("klong", &|w| w.keys[3].0 = long.clone(), &["key #3: 65536 bytes of key"]),
        (
            "knul",
            &|w| w.keys[3].0 = b"a\0b".to_vec(),
            &["key #3: key name contains a NUL", "a\\u{0}b"],
        ),
        (
            "kutf",
            &|w| w.keys[3].0 = b"a\xff\xfe".to_vec(),
            &["not UTF-8 from byte 1", "a\\xff\\xfe"],
        ),
        (
            "kdup",
            &|w| w.keys[5].0 = w.keys[3].0.clone(),
            &["key 'mistral3.embedding_length': duplicate key", "found it as #3 and #5"],
        ),
        (
            "vutf",
            &|w| w.keys[0].1.bytes[8] = 0xff,
            &["key 'general.architecture': string value is not UTF-8 from byte 0"],
        ),
        (
            "esc",
            &|w| w.set(&format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(200)), bytes(13, &[])),
            &["key '\\u{1b}[2J\\n\\u{202e}xxx", "x…': unknown value type"],
        ),
    ]);
}

#[test]
fn values() {
    check(&[
        ("v13", &|w| w.set("x", bytes(13, &[])), &["key 'x': unknown value type", "found 13"]),
        ("v255", &|w| w.set("x", bytes(255, &[])), &["key 'x'", "expected 0 to 12, found 255"]),
        ("vmax", &|w| w.set("x", bytes(u32::MAX, &[])), &["key 'x'", "found 4294967295"]),
        ("nested", &|w| w.set("x", array(9, 1, &[])), &["key 'x': nested arrays not supported"]),
        ("a13", &|w| w.set("x", array(13, 1, &[])), &["key 'x': unknown value type"]),
        ("aover", &|w| w.set("x", array(10, 1 << 61, &[])), &["key 'x'", "array elements"]),
        ("alimit", &|w| w.set("x", array(0, (4 << 20) + 1, &[])), &["key 'x': 4194305 array"]),
        ("aleft", &|w| w.set("x", array(10, 4 << 20, &[])), &["array needs 33554432 bytes"]),
        ("sleft", &|w| w.set("x", array(8, 4 << 20, &[])), &["key 'x': 4194304 strings"]),
        (
            "sin",
            &|w| w.set("x", array(8, 2, &[255; 16])),
            &["key 'x'", "string of an array needs 18446744073709551615 bytes"],
        ),
        (
            "bool2",
            &|w| w.set("x", bytes(7, &[2])),
            &["key 'x': bad bool; expected 0 or 1, found 2"],
        ),
        ("abool2", &|w| w.set("x", array(7, 2, &[1, 7])), &["key 'x': bad bool", "found 7"]),
    ]);
}

/// Every known key with every type but its own.
#[test]
fn known_keys_have_their_types() {
    let known = [
        ("general.architecture", "string"),
        ("general.alignment", "u32"),
        ("general.base_model.0.name", "string"),
        ("mistral3.block_count", "u32"),
        ("mistral3.rope.freq_base", "f32"),
        ("mistral3.rope.scaling.mscale_all_dim", "f32"),
        ("mistral3.attention.causal", "bool"),
        ("tokenizer.ggml.tokens", "array of string"),
        ("tokenizer.ggml.bos_token_id", "u32"),
        ("tokenizer.ggml.add_bos_token", "bool"),
        ("tokenizer.chat_template", "string"),
        ("tokenizer.chat_template.tool_use", "string"),
        ("clip.vision.image_size", "u32"),
        ("adapter.type", "string"),
    ];
    for (key, expected) in known {
        for (found, value) in every_type() {
            let mut writer = Writer::small_model();
            writer.set(key, value);
            let result = gust::gguf::Gguf::from_bytes("m", writer.bytes());
            if found == expected {
                // Value 1 is a bad alignment, but the right type.
                assert!(result.is_ok() || key == "general.alignment", "{key}: {result:?}");
                continue;
            }
            let message = result.expect_err(key).to_string();
            let wanted = format!("key '{key}': wrong type; must be {expected}, found {found}");
            assert!(message.contains(&wanted), "{message}");
        }
    }
    check(&[(
        "template",
        &|w| w.set("tokenizer.chat_template", u32(1)),
        &["key 'tokenizer.chat_template': wrong type; must be string, found u32"],
    )]);
}

#[test]
fn limits_hold_to_the_last() {
    let parse = |writer: &Writer| gust::gguf::Gguf::from_bytes("m", writer.bytes());
    let mut writer = Writer::small_model();
    writer.set("tokenizer.chat_template", string(&"x".repeat(1 << 20)));
    writer.set(&"k".repeat(65_535), u32(1));
    writer.set("x", raw(&Value::Array(Array::U8(vec![0; 4 << 20]))));
    assert!(parse(&writer).is_ok());
    writer.set("tokenizer.chat_template", string(&"x".repeat((1 << 20) + 1)));
    assert!(parse(&writer).unwrap_err().to_string().contains("1048577 bytes of chat template"));
}

#[test]
fn alignments() {
    for x in [0u32, 1, 3, 4, 48, 1 << 17, 1 << 31] {
        let message = format!("expected a power of two from 8 to 65536, found {x}");
        check(&[("align", &|w| w.set("general.alignment", u32(x)), &[&message])]);
    }
}

#[test]
fn tensor_entries() {
    let name = |name: &'static [u8]| move |w: &mut Writer| w.tensors[2].name = name.to_vec();
    let dims = |dims: &'static [u64]| move |w: &mut Writer| w.tensors[2].dims = dims.to_vec();
    let ty = |ty: u32| move |w: &mut Writer| w.tensors[2].ty = ty;
    let q = "tensor 'blk.0.attn_q.weight'";
    check(&[
        ("n64", &name(&[b'n'; 64]), &["tensor #2: 64 bytes of tensor name; expected at most 63"]),
        ("n0", &name(b""), &["tensor #2: tensor name is empty"]),
        ("nnul", &name(b"a\0.weight"), &["tensor #2: tensor name contains a NUL"]),
        ("nutf", &name(b"\xc3\x28"), &["tensor #2: tensor name is not UTF-8"]),
        ("ndup", &name(b"token_embd.weight"), &["duplicate tensor", "found it as #0 and #2"]),
        ("d0", &|w| w.tensors[2].n_dims = Some(0), &[q, "0 dimensions; expected 1 to 4"]),
        ("d5", &|w| w.tensors[2].n_dims = Some(5), &[q, "5 dimensions"]),
        ("dim0", &dims(&[8, 0]), &[q, "impossible dimensions [8 × 0]: a dimension is 0"]),
        ("dim63", &dims(&[1 << 63]), &[q, "2^63 elements or more"]),
        ("dim64", &dims(&[1 << 32, 1 << 32]), &[q, "[4294967296 × 4294967296]"]),
        ("dimb", &dims(&[1 << 62]), &[q, "2^63 bytes or more"]),
        ("ty4", &ty(4), &[q, "unknown tensor type", "found 4 (q4_2, removed"]),
        ("ty31", &ty(31), &[q, "31 (q4_0_4_4, removed"]),
        ("ty44", &ty(44), &[q, "found 44"]),
        ("ty255", &ty(255), &[q, "found 255"]),
        ("ty-1", &ty(u32::MAX), &[q, "found 4294967295"]),
        ("row", &ty(12), &[q, "rows of 8 elements do not fill blocks of q4_K", "multiple of 256"]),
    ]);
}

#[test]
fn data_ranges() {
    let offset = |offset: u64| move |w: &mut Writer| w.tensors[11].offset = Some(offset);
    let out = "tensor 'output.weight'";
    check(&[
        ("odd", &offset(33), &[out, "unaligned data offset; expected a multiple of 32, found 33"]),
        ("far", &offset(1 << 40), &[out, "file ends at", "download incomplete?"]),
        ("o63", &offset(1 << 63), &[out, "needs bytes 92233720368547"]),
        ("omax", &offset(u64::MAX - 31), &[out, "impossible data offset"]),
        (
            "over",
            &offset(0),
            &["tensor 'token_embd.weight': bytes", "overlap tensor 'output.weight'"],
        ),
        (
            "in",
            &|w| w.tensors[1].offset = Some(32),
            &["tensor 'token_embd.weight': bytes", "overlap tensor 'blk.0.attn_norm.weight'"],
        ),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let bytes = Writer::small_model().bytes();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let end = format!("file ends at {} (missing 1 bytes)", bytes.len() - 1);
    refused("cut", &path, &[out, &end, "download incomplete?"]);
}

#[test]
fn gaps_any_order_and_trailing_bytes_are_allowed() {
    let mut writer = Writer::small_model();
    let n = writer.tensors.len();
    let far = 1 << 16;
    writer.tensors[0].offset = Some(far);
    writer.tensors[1].offset = Some(far + 4096);
    let mut bytes = writer.bytes();
    bytes.resize((3 << 20) + bytes.len(), 0);
    let gguf = gust::gguf::Gguf::from_bytes("m", bytes).unwrap();
    assert_eq!(gguf.tensors().len(), n);
    assert!(gguf.warnings()[0].to_string().contains("unused bytes after the tensors"));
}

#[test]
fn headers_cut_anywhere_are_refused() {
    let bytes = Writer::small_model().bytes();
    for n in (24..1500).step_by(7) {
        let message = gust::gguf::Gguf::from_bytes("m", bytes[..n].to_vec()).unwrap_err();
        assert!(message.to_string().starts_with("m @byte "), "{message}");
    }
}
