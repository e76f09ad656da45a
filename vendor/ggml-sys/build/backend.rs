//! Backends besides the CPU, one function each; a feature switches it on.

use std::path::PathBuf;

use crate::compile::Target;

/// ggml's transport is left out: it would face the network with nothing between. Ours takes its place.
const RPC_FILES: &[&str] = &["ggml-rpc/ggml-rpc.cpp", "ggml-rpc/log.cpp", RPC_TRANSPORT];
const RPC_TRANSPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport.cpp");

pub fn objects(target: &Target) -> Vec<PathBuf> {
    let mut objects = Vec::new();
    if cfg!(feature = "rpc") {
        println!("cargo::rerun-if-changed={RPC_TRANSPORT}");
        objects.extend(target.objects(RPC_FILES, |build| {
            build.include(target.src("ggml-rpc"));
        }));
    }
    for (name, wanted) in [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("vulkan", cfg!(feature = "vulkan")),
    ] {
        assert!(!wanted, "this version of gust does not build ggml's {name} backend yet");
    }
    objects
}
