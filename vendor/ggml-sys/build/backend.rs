//! Backends besides the CPU, one function each; a feature switches it on.

use std::path::PathBuf;

use crate::compile::Target;

const RPC_FILES: &[&str] = &["ggml-rpc/ggml-rpc.cpp", "ggml-rpc/transport.cpp", "ggml-rpc/log.cpp"];

pub fn objects(target: &Target) -> Vec<PathBuf> {
    let mut objects = Vec::new();
    if cfg!(feature = "rpc") {
        objects.extend(target.objects(RPC_FILES, |_| {}));
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
