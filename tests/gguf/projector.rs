//! Image projector files: numbers out of range, wrong family, missing and wrong tensors, and the wrong
//! model beside them.
//!
//! What the tower computes is tested in `vision_tower.rs`.

use super::gw::{Writer, raw, string, u32};
use super::{inspect, refused_with};
use gust::gguf::{Array, Value};

type Change<'a> = &'a dyn Fn(&mut Writer);

#[test]
fn projectors_with_bad_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let three = |x: [f32; 3]| raw(&Value::Array(Array::F32(x.to_vec())));
    let projector = Writer::small_mmproj;
    let write = |change: Change<'_>| {
        let mut w = projector();
        change(&mut w);
        let path = folder.path().join("proj.gguf");
        std::fs::write(&path, w.bytes()).unwrap();
        path
    };
    assert!(inspect(&[write(&|_| ()).to_str().unwrap()]).status.success());
    for key in ["patch_size", "spatial_merge_size", "image_size", "attention.head_count"] {
        for value in [0, u32::MAX] {
            let key = format!("clip.vision.{key}");
            let path = write(&|w| w.set(&key, u32(value)));
            let found = format!("found {value}");
            refused_with("int", &path, &[], &[&format!("key '{key}'"), &found]);
        }
    }
    let path = write(&|w| w.set("clip.vision.image_std", three([0.0, 1.0, 1.0])));
    refused_with("std", &path, &[], &["key 'clip.vision.image_std'", "above 0 to 100"]);
    let path = write(&|w| w.set("clip.vision.image_mean", three([f32::NAN, 1.0, 1.0])));
    refused_with("mean", &path, &[], &["key 'clip.vision.image_mean'"]);
    let path = write(&|w| w.set("clip.projector_type", string("ldp")));
    refused_with("family", &path, &[], &["expected 'pixtral', found 'ldp'"]);

    // With a model: of another width, and the two files swapped.
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, Writer::small_model().bytes()).unwrap();
    let path = write(&|_| ());
    let flags = ["-m", model.to_str().unwrap(), "--mmproj", path.to_str().unwrap()];
    assert!(inspect(&flags).status.success());
    let path = write(&|w| w.set("clip.vision.projection_dim", u32(16)));
    let (model, path) = (model.to_str().unwrap(), path.to_str().unwrap());
    let stderr = |args: &[&str]| String::from_utf8(inspect(args).stderr).unwrap();
    let other = stderr(&["-m", model, "--mmproj", path]);
    assert!(other.contains("belongs to another model; expected 8 as the model's"), "{other}");
    write(&|_| ());
    let swapped = stderr(&["-m", path, "--mmproj", model]);
    assert!(swapped.contains("model.gguf: not an image projector"), "{swapped}");
}

#[test]
fn projectors_with_wrong_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proj.gguf");
    let write = |change: Change<'_>| {
        let mut w = Writer::small_mmproj();
        change(&mut w);
        std::fs::write(&path, w.bytes()).unwrap();
    };
    let without = |w: &mut Writer, name: &str| w.tensors.retain(|t| t.name != name.as_bytes());
    // Some converters leave the embedding of [IMG_BREAK] out; the model has its own.
    write(&|w| without(w, "v.token_embd.img_break"));
    assert!(inspect(&[path.to_str().unwrap()]).status.success());
    let cases: &[(&str, Change<'_>, &str)] = &[
        ("missing", &|w| without(w, "v.blk.0.attn_q.weight"), "'v.blk.0.attn_q.weight': missing"),
        ("merger", &|w| without(w, "mm.patch_merger.weight"), "'mm.patch_merger.weight': missing"),
        ("norm", &|w| without(w, "mm.input_norm.weight"), "'mm.input_norm.weight': missing"),
        (
            "shape",
            &|w| w.tensor("v.patch_embd.weight").dims = vec![14, 14, 4, 6],
            "'v.patch_embd.weight': wrong shape; expected 14 × 14 × 3 × 8, found 14 × 14 × 4 × 6",
        ),
        (
            "break",
            &|w| w.tensor("v.token_embd.img_break").dims = vec![4, 2],
            "'v.token_embd.img_break': wrong shape",
        ),
        ("more", &|w| w.add_tensor("v.blk.1.ln1.weight", &[8]), "unexpected tensor"),
        ("heads", &|w| w.set("clip.vision.attention.head_count", u32(4)), "a multiple of 4"),
        ("gate", &|w| w.remove("clip.use_silu"), "key 'clip.use_silu'"),
        ("side", &|w| w.set("clip.vision.image_size", u32(4096)), "at most 256 patches"),
    ];
    for (case, change, message) in cases {
        write(change);
        refused_with(case, &path, &[], &[message]);
    }
}

/// What is found by itself beside the model or above it: named after it, or after its type; what does not
/// fit is passed over.
#[test]
fn a_projector_is_found_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = folder.path().join("Q8_0");
    std::fs::create_dir(&quantized).unwrap();
    let model = quantized.join("small-Q8_0.gguf");
    std::fs::write(&model, Writer::small_model().bytes()).unwrap();
    let report = || {
        let output = inspect(&[model.to_str().unwrap(), "--json"]);
        assert!(output.status.success());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let file =
            json["mmproj"].as_str().map(|label| label.rsplit('/').next().unwrap().to_owned());
        (file, json["warnings"].to_string())
    };
    assert_eq!(report().0, None);
    let fitting = Writer::small_mmproj().bytes();
    let mut other = Writer::small_mmproj();
    other.set("clip.vision.projection_dim", u32(16));
    std::fs::write(folder.path().join("mmproj-F16.gguf"), &fitting).unwrap();
    assert_eq!(report(), (Some("mmproj-F16.gguf".to_owned()), "[]".to_owned()));
    std::fs::write(quantized.join("mmproj-small.gguf"), other.bytes()).unwrap();
    let (found, warnings) = report();
    assert_eq!(found.as_deref(), Some("mmproj-F16.gguf"));
    assert!(warnings.contains("passed over as vision tower"), "{warnings}");
    assert!(warnings.contains("mmproj-small.gguf"), "{warnings}");
    assert!(warnings.contains("belongs to another model"), "{warnings}");
    std::fs::write(quantized.join("mmproj-small-Q8_0.gguf"), &fitting).unwrap();
    assert_eq!(report(), (Some("mmproj-small-Q8_0.gguf".to_owned()), "[]".to_owned()));
}
