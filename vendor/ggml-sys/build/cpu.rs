//! The CPU backend: one set of kernels, tuned to this machine (`native`) or to a common one.

use std::path::PathBuf;

use cc::Build;

use crate::compile::Target;

/// Kernels common to all architectures. The slow ones first.
pub const FILES: &[&str] = &[
    "ggml-cpu/ops.cpp",
    "ggml-cpu/llamafile/sgemm.cpp",
    "ggml-cpu/repack.cpp",
    "ggml-cpu/ggml-cpu.c",
    "ggml-cpu/tiled/tiled-kernel.cpp",
    "ggml-cpu/binary-ops.cpp",
    "ggml-cpu/unary-ops.cpp",
    "ggml-cpu/vec.cpp",
    "ggml-cpu/tiled/tiled.cpp",
    "ggml-cpu/quants.c",
    "ggml-cpu/ggml-cpu.cpp",
    "ggml-cpu/traits.cpp",
    "ggml-cpu/amx/amx.cpp",
    "ggml-cpu/amx/mmq.cpp",
    "ggml-cpu/hbm.cpp",
];

/// What CMake calls Haswell: the least that is not painfully slow.
const X86_PORTABLE: &[&str] = &["SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2"];

pub fn objects(target: &Target) -> Vec<PathBuf> {
    target.objects(&files(target), |build| {
        common(target, build);
        match (target.arch.as_str(), cfg!(feature = "native")) {
            ("x86_64", true) => {
                build.flag("-march=native");
            }
            ("x86_64", false) => x86_features(build, X86_PORTABLE),
            ("aarch64", true) => {
                build.flag("-mcpu=native");
            }
            ("aarch64", false) if target.os == "macos" => {
                build.flag("-mcpu=apple-m1");
            }
            ("aarch64", false) => {
                build.flag("-march=armv8.2-a+dotprod");
            }
            _ => {}
        }
    })
}

/// Common and architecture-specific files.
pub fn files(target: &Target) -> Vec<&'static str> {
    let arch: &[&str] = match target.arch.as_str() {
        "x86_64" => &["ggml-cpu/arch/x86/quants.c", "ggml-cpu/arch/x86/repack.cpp"],
        "aarch64" => &["ggml-cpu/arch/arm/quants.c", "ggml-cpu/arch/arm/repack.cpp"],
        "riscv64" => &["ggml-cpu/arch/riscv/quants.c", "ggml-cpu/arch/riscv/repack.cpp"],
        _ => &[],
    };
    FILES.iter().chain(arch).copied().collect()
}

/// Flags that every CPU unit takes, whatever the instruction set.
pub fn common(target: &Target, build: &mut Build) {
    build
        .include(target.src("ggml-cpu"))
        .define("GGML_USE_LLAMAFILE", None)
        .define("GGML_USE_CPU_REPACK", None);
    if !matches!(target.arch.as_str(), "x86_64" | "aarch64" | "riscv64") {
        build.define("GGML_CPU_GENERIC", None);
    }
    if target.os == "macos" {
        build
            .define("GGML_USE_ACCELERATE", None)
            .define("ACCELERATE_NEW_LAPACK", None)
            .define("ACCELERATE_LAPACK_ILP64", None);
    }
}

/// Turns instruction-set names, as ggml's CMake spells them, into compiler flags and definitions.
pub fn x86_features(build: &mut Build, features: &[&str]) {
    for feature in features {
        for flag in x86_flags(feature) {
            build.flag(flag);
        }
        build.define(&format!("GGML_{feature}"), None);
    }
}

fn x86_flags(feature: &str) -> &'static [&'static str] {
    match feature {
        "SSE42" => &["-msse4.2"],
        "AVX" => &["-mavx"],
        "F16C" => &["-mf16c"],
        "FMA" => &["-mfma"],
        "AVX2" => &["-mavx2"],
        "BMI2" => &["-mbmi2"],
        "AVX_VNNI" => &["-mavxvnni"],
        "AVX512" => &["-mavx512f", "-mavx512cd", "-mavx512vl", "-mavx512dq", "-mavx512bw"],
        "AVX512_VBMI" => &["-mavx512vbmi"],
        "AVX512_VNNI" => &["-mavx512vnni"],
        "AVX512_BF16" => &["-mavx512bf16"],
        other => panic!("unknown instruction set {other}"),
    }
}
