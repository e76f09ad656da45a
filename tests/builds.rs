//! What of the builds of GPU backends can be checked on any machine.

use std::path::Path;
use std::process::Command;

#[allow(unreachable_pub)] // public to the build script
#[path = "../vendor/ggml-sys/build/metal_source.rs"]
mod metal_source;

fn ggml_src() -> &'static Path {
    const SOURCE: &str = concat!(env!("GUST_GGML_SOURCE"), "/src");
    Path::new(SOURCE)
}

/// The kinds that ggml's loader looks for, from the table in its source.
fn kinds_of_the_loader() -> Vec<String> {
    let loader = ggml_src().join("ggml-metal/ggml-metal-device.m");
    let text = std::fs::read_to_string(loader).unwrap();
    let (_, table) = text.split_once("#define GGML_METAL_LIBS").unwrap();
    let mut kinds: Vec<_> = table
        .lines()
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("X("))
        .map(|row| row.split([',', ')']).nth(1).unwrap().trim().to_owned())
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn every_metal_kernel_that_ggml_looks_for_is_embedded() {
    let kinds = metal_source::kinds(&ggml_src().join("ggml-metal/kernels")).unwrap();
    assert_eq!(kinds, kinds_of_the_loader());
    assert_eq!(kinds.len(), 36);
}

#[test]
fn embedded_metal_kernels_include_nothing_of_ours() {
    for kind in metal_source::kinds(&ggml_src().join("ggml-metal/kernels")).unwrap() {
        let text = metal_source::embed(ggml_src(), &kind).unwrap();
        let own = text.lines().find(|line| line.trim_start().starts_with("#include \""));
        // This one stands behind an #if that Metal's compiler does not enter.
        assert!(matches!(own, None | Some("#include \"ggml-common.h\"")), "{kind}: {own:?}");
        assert!(!text.contains("__embed_") && !text.contains("#pragma once"), "{kind}");
        // What all of them include is there, and once.
        for part in ["#define GGML_METAL_IMPL\n", "#define N_SIMDWIDTH"] {
            assert_eq!(text.matches(part).count(), 1, "{kind}: {part}");
        }
        assert!(text.contains("kernel "), "{kind} has kernels");
    }
}

#[test]
fn the_assembly_has_the_symbols_that_ggml_looks_for() {
    let assembly = metal_source::assembly("mul_mm", Path::new("/out/mul_mm.metal"));
    assert_eq!(
        assembly,
        ".section __DATA,__ggml_metallib\n\
         .globl _ggml_metallib_mul_mm_start\n_ggml_metallib_mul_mm_start:\n\
         .incbin \"/out/mul_mm.metal\"\n\
         .globl _ggml_metallib_mul_mm_end\n_ggml_metallib_mul_mm_end:\n"
    );
}

/// What the script for modules says when it cannot begin. It runs in an empty folder.
#[track_caller]
fn check_refusal(backend: &str, (variable, value): (&str, &str), expect: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/build_backend.sh");
    let output = Command::new(script)
        .arg(backend)
        .current_dir(dir.path())
        .env("GGML_SOURCE_DIR", env!("GUST_GGML_SOURCE"))
        .env(variable, value)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(expect), "{said}");
}

#[test]
fn what_a_module_lacks_to_be_built_is_told() {
    if Command::new("python3").arg("--version").output().is_err() {
        return; // modules are built where there is Python
    }
    check_refusal("cuda", ("CUDA_PATH", "/nowhere"), "CUDA_PATH=/nowhere has no bin/nvcc");
    check_refusal("cuda", ("GGML_SOURCE_DIR", "/nowhere"), "GGML_SOURCE_DIR=/nowhere has no src");
    check_refusal("rocm", ("CUDA_PATH", ""), "module cuda|vulkan [OUT_DIR]");
}

/// The script reads the list of files from the build that it must agree with.
#[test]
fn a_module_has_all_of_ggml_s_core() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/vendor/ggml-sys/build/gpu");
    let print = "import source; print(*source.base_files(), sep='\\n')";
    let done = Command::new("python3").args(["-B", "-c", print]).current_dir(folder).output();
    let done = done.unwrap();
    let files = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && files.contains("ggml-backend.cpp\n"), "{files}");
    for file in files.lines() {
        assert!(ggml_src().join(file).is_file(), "{file}");
    }
}
