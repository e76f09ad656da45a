//! Compiles ggml into one static archive.
//!
//! `source` finds the pinned tree, `base` and `cpu` list the files and flags, `variants` packs several
//! CPU backends into one archive, `backend` adds GPUs (`gpu`, `metal`) and RPC. Everything is written
//! to `OUT_DIR`; the source tree is never touched. Flags follow ggml's own CMake files (see UPGRADE.md).

#[path = "build/backend.rs"]
mod backend;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/cpu.rs"]
mod cpu;
#[path = "build/gpu.rs"]
mod gpu;
#[path = "build/metal.rs"]
mod metal;
#[path = "build/metal_source.rs"]
mod metal_source;
#[path = "build/source.rs"]
mod source;
#[path = "build/variants.rs"]
mod variants;

#[cfg(feature = "bindgen")]
#[path = "build/bindings.rs"]
mod bindings;

use std::env;
use std::path::PathBuf;

use compile::Target;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for file in std::fs::read_dir("build").expect("the crate is whole").flatten() {
        if file.path().is_file() {
            println!("cargo::rerun-if-changed={}", file.path().display());
        }
    }
    println!("cargo::rustc-check-cfg=cfg(openmp)");
    println!("cargo::metadata=version={}", env!("CARGO_PKG_VERSION"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ggml = source::locate(&out_dir);
    let target = Target::from_env(ggml, out_dir);
    println!("cargo::metadata=source={}", target.ggml.display());
    println!("cargo::metadata=backends={}", backend::names(&target).join(","));
    compile::write_version_header(&target);

    #[cfg(feature = "bindgen")]
    bindings::generate(&target);

    let mut objects = compile::base(&target);
    objects.extend(if cfg!(feature = "cpu-variants") {
        variants::objects(&target)
    } else {
        cpu::objects(&target)
    });
    let (more, link_lines) = backend::objects(&target);
    objects.extend(more);
    compile::archive(&target, &objects);
    for line in link_lines {
        println!("{line}");
    }
    compile::link(&target);
}
