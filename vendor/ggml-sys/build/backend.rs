//! Backends besides the CPU. A feature switches one on; Metal is on wherever it exists.

use std::path::PathBuf;

use crate::compile::Target;
use crate::{gpu, metal};

const RPC_FILES: &[&str] = &["ggml-rpc/ggml-rpc.cpp", "ggml-rpc/transport.cpp", "ggml-rpc/log.cpp"];

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
            "rpc" => target.objects(RPC_FILES, |_| {}),
            "metal" => metal::objects(target, &mut link_lines),
            _ => gpu::objects(target, name, &mut link_lines),
        });
    }
    (objects, link_lines)
}
