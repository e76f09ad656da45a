//! Several CPU backends in one static archive, chosen at start by what the processor can do.
//!
//! ggml means its variants to be shared libraries, each with its own `ggml_backend_init` and
//! `ggml_backend_score`. Here each becomes one relocatable object whose only global symbols are those
//! two, renamed by variant; all else is local, so that no AVX-512 copy of an inline function can be
//! picked for another variant. Needs ELF and GNU binutils, which come with gcc.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::compile::{Target, run};
use crate::cpu;

/// Name and instruction sets, as in ggml's own list. `src/lib.rs` declares their symbols.
const X86_VARIANTS: &[(&str, &[&str])] = &[
    ("sse42", &["SSE42"]),
    ("haswell", &["SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2"]),
    ("alderlake", &["SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2", "AVX_VNNI"]),
    (
        "icelake",
        &["SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2", "AVX512", "AVX512_VBMI", "AVX512_VNNI"],
    ),
    (
        "zen4",
        &[
            "SSE42",
            "AVX",
            "F16C",
            "FMA",
            "AVX2",
            "BMI2",
            "AVX512",
            "AVX512_VBMI",
            "AVX512_VNNI",
            "AVX512_BF16",
        ],
    ),
];

pub fn objects(target: &Target) -> Vec<PathBuf> {
    assert!(
        target.os == "linux" && target.arch == "x86_64",
        "feature cpu-variants exists for Linux on x86-64 only; use feature native instead"
    );
    X86_VARIANTS.iter().map(|(name, features)| object(target, name, features)).collect()
}

fn object(target: &Target, name: &str, features: &[&str]) -> PathBuf {
    let dir = target.out_dir.join(name);
    fs::create_dir_all(&dir).expect("OUT_DIR is writable");
    let variant = |build: &mut cc::Build| {
        cpu::common(target, build);
        build
            .out_dir(&dir)
            .flag("-fno-gnu-unique") // else libstdc++'s unique symbols clash between variants
            .define("GGML_BACKEND_DL", None)
            .define("GGML_BACKEND_BUILD", None)
            .define("GGML_BACKEND_SHARED", None);
    };
    let mut objects = target.objects(&cpu::files(target), |build| {
        variant(build);
        cpu::x86_features(build, features);
    });
    // The score function runs on processors that lack the variant's instructions.
    objects.extend(target.objects(&["ggml-cpu/arch/x86/cpu-feats.cpp"], |build| {
        variant(build);
        for feature in features {
            build.define(&format!("GGML_{feature}"), None);
        }
    }));
    let merged = dir.join("merged.o");
    let object = dir.join("variant.o");
    run(Command::new("ld")
        .args(["-r", "--force-group-allocation", "-o"])
        .arg(&merged)
        .args(&objects));
    let mut objcopy = Command::new("objcopy");
    for symbol in ["ggml_backend_init", "ggml_backend_score"] {
        objcopy.arg(format!("--keep-global-symbol={symbol}"));
    }
    run(objcopy.arg(&merged));
    let mut rename = Command::new("objcopy");
    for symbol in ["ggml_backend_init", "ggml_backend_score"] {
        rename.arg(format!("--redefine-sym={symbol}={symbol}_{name}"));
    }
    run(rename.arg(&merged).arg(&object));
    object
}
