//! CUDA and Vulkan, built in: `build/gpu` (Python) compiles their objects, here they join the archive.
//!
//! It is Python because the same files and flags also make modules that are loaded at run time, on machines
//! with a GPU and no Rust (`scripts/build_backend.sh`), and there should be one list of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::compile::Target;

/// What decides about the result.
const VARIABLES: &[&str] = &[
    "CUDA_PATH",
    "CUDA_HOME",
    "CUDAARCHS",
    "CUDAHOSTCXX",
    "CXX",
    "GGML_GPU_OBJECTS",
    "VIRTUAL_ENV",
    "VULKAN_SDK",
];

/// Objects of the backend `name`; `link_lines` gets what cargo must be told after the archive.
pub fn objects(target: &Target, name: &str, link_lines: &mut Vec<String>) -> Vec<PathBuf> {
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    assert!(target.os == "linux", "feature {name} exists for Linux only");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/gpu");
    println!("cargo::rerun-if-changed={}", script.display());
    let output = Command::new("python3")
        .arg("-B") // a file written beside the sources would be a change to cargo
        .arg(script)
        .args(["objects", name])
        .arg(target.out_dir.join(name))
        .env("GGML_SOURCE_DIR", &target.ggml)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|e| panic!("feature {name} needs python3 to build: {e}"));
    assert!(
        output.status.success(),
        "ggml's {name} backend was not built; the reason stands above"
    );
    let mut objects = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line.strip_prefix("object=") {
            Some(path) => objects.push(PathBuf::from(path)),
            None => link_lines.push(line.to_owned()),
        }
    }
    objects
}
