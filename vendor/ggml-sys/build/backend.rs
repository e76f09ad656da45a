//! Backends besides the CPU. A feature switches one on; Metal is on wherever it exists.

use std::path::PathBuf;

use crate::compile::Target;
use crate::{gpu, metal};

/// ggml's transport is left out: it would face the network with nothing between. Ours takes its place.
const RPC_FILES: &[&str] = &["ggml-rpc/ggml-rpc.cpp", "ggml-rpc/log.cpp", RPC_TRANSPORT];
const RPC_TRANSPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport.cpp");

/// Names of the backends in this build, as in ggml's `GGML_USE_…`.
pub fn names(target: &Target) -> Vec<&'static str> {
    [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", metal::wanted(target)),
        ("vulkan", cfg!(feature = "vulkan")),
        ("rpc", cfg!(feature = "rpc")),
    ]
    .into_iter()
    .filter_map(|(name, wanted)| wanted.then_some(name))
    .collect()
}

/// Their objects, and what cargo must be told to link after the archive.
pub fn objects(target: &Target) -> (Vec<PathBuf>, Vec<String>) {
    let mut link_lines = Vec::new();
    let mut objects = Vec::new();
    for name in names(target) {
        objects.extend(match name {
            "rpc" => {
                println!("cargo::rerun-if-changed={RPC_TRANSPORT}");
                target.objects(RPC_FILES, |build| {
                    build.include(target.src("ggml-rpc"));
                })
            }
            "metal" => metal::objects(target, &mut link_lines),
            _ => gpu::objects(target, name, &mut link_lines),
        });
    }
    (objects, link_lines)
}
