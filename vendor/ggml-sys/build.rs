//! Compiles ggml into one static archive.
//!
//! `source` finds the pinned tree, `base` and `cpu` list the files and flags, `variants` packs several
//! CPU backends into one archive, `backend` adds GPUs and RPC. Everything is written to `OUT_DIR`;
//! the source tree is never touched. Flags follow ggml's own CMake files (see UPGRADE.md).

#[path = "build/backend.rs"]
mod backend;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/cpu.rs"]
mod cpu;
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
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rustc-check-cfg=cfg(openmp)");
    println!("cargo::metadata=version={}", env!("CARGO_PKG_VERSION"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ggml = source::locate(&out_dir);
    let target = Target::from_env(ggml, out_dir);
    compile::write_version_header(&target);

    #[cfg(feature = "bindgen")]
    bindings::generate(&target);

    let mut objects = compile::base(&target);
    objects.extend(if cfg!(feature = "cpu-variants") {
        variants::objects(&target)
    } else {
        cpu::objects(&target)
    });
    objects.extend(backend::objects(&target));
    compile::archive(&target, &objects);
    compile::link(&target);
}
