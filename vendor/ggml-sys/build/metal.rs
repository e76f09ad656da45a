//! Metal, Apple's GPUs: Objective-C by clang, kernels as source inside the binary (`metal_source`).
//!
//! Untested: no Mac was at hand. What needs none is tested (`tests/builds.rs`): the embedded kernels.
//! Cargo cannot switch a feature on by target, so on macOS the backend is in every build, unless
//! `GGML_METAL=0` is set; the feature `metal` asks for it by name, and says so where it cannot be had.

use std::env;
use std::fs;
use std::path::PathBuf;

use cc::Build;

use crate::compile::Target;
use crate::metal_source;

const FILES: &[&str] = &[
    "ggml-metal/ggml-metal-ops.cpp",
    "ggml-metal/ggml-metal-device.cpp",
    "ggml-metal/ggml-metal.cpp",
    "ggml-metal/ggml-metal-common.cpp",
    "ggml-metal/ggml-metal-fusion.cpp",
    "ggml-metal/ggml-metal-tuning.cpp",
];

/// Not garbage-collected and not reference-counted by the compiler: ggml releases by hand.
const OBJECTIVE_C_FILES: &[&str] =
    &["ggml-metal/ggml-metal-device.m", "ggml-metal/ggml-metal-context.m"];

const FRAMEWORKS: &[&str] = &["Foundation", "Metal", "MetalKit"];

pub fn wanted(target: &Target) -> bool {
    println!("cargo::rerun-if-env-changed=GGML_METAL");
    let is_mac = target.os == "macos";
    assert!(is_mac || !cfg!(feature = "metal"), "feature metal exists for macOS only");
    is_mac && (cfg!(feature = "metal") || env::var("GGML_METAL").as_deref() != Ok("0"))
}

pub fn objects(target: &Target, link_lines: &mut Vec<String>) -> Vec<PathBuf> {
    let configure = |build: &mut Build| {
        build.include(target.src("ggml-metal")).define("GGML_METAL_EMBED_LIBRARY", None);
    };
    let mut objects = target.objects(FILES, configure);
    let mut objective_c = target.build(false);
    configure(&mut objective_c);
    objects.extend(
        objective_c.files(OBJECTIVE_C_FILES.iter().map(|f| target.src(f))).compile_intermediates(),
    );
    let assembly = embedded_kernels(target).expect("ggml's Metal kernels are there");
    objects.extend(target.build(false).files(assembly).compile_intermediates());
    link_lines.extend(FRAMEWORKS.iter().map(|f| format!("cargo::rustc-link-lib=framework={f}")));
    objects
}

/// Writes each kernel file and the assembly that takes it in, and names the latter.
fn embedded_kernels(target: &Target) -> std::io::Result<Vec<PathBuf>> {
    let dir = target.out_dir.join("metal");
    fs::create_dir_all(&dir)?;
    let mut files = Vec::new();
    for kind in metal_source::kinds(&target.src("ggml-metal/kernels"))? {
        let source = dir.join(format!("{kind}.metal"));
        fs::write(&source, metal_source::embed(&target.src(""), &kind)?)?;
        let assembly = dir.join(format!("metal_{kind}.s"));
        fs::write(&assembly, metal_source::assembly(&kind, &source))?;
        files.push(assembly);
    }
    Ok(files)
}
