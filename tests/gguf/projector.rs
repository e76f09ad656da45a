//! Image projector files: numbers out of range, wrong family, and the wrong model beside them.
//!
//! Only headers: what the tower computes is tested where it is built.

use super::gw::{Writer, f32, raw, string, u32};
use super::{inspect, refused_with};
use gust::gguf::{Array, Value};

type Change<'a> = &'a dyn Fn(&mut Writer);

#[test]
fn projectors_with_bad_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let three = |x: [f32; 3]| raw(&Value::Array(Array::F32(x.to_vec())));
    let projector = || {
        let mut w = Writer::new();
        w.set("general.architecture", string("clip"));
        w.set("clip.has_vision_encoder", raw(&Value::Bool(true)));
        w.set("clip.projector_type", string("pixtral"));
        w.set("clip.use_silu", raw(&Value::Bool(true)));
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 8),
            ("feed_forward_length", 16),
            ("attention.head_count", 2),
            ("projection_dim", 8),
            ("image_size", 28),
            ("patch_size", 14),
            ("spatial_merge_size", 2),
        ] {
            w.set(&format!("clip.vision.{key}"), u32(value));
        }
        w.set("clip.vision.attention.layer_norm_epsilon", f32(1e-5));
        w.set("clip.vision.image_mean", three([0.5; 3]));
        w.set("clip.vision.image_std", three([0.25; 3]));
        w
    };
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
    let swapped = stderr(&["-m", path, "--mmproj", model]);
    assert!(swapped.contains("model.gguf: not an image projector"), "{swapped}");
}
