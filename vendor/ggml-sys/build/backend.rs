//! Backends besides the CPU. A feature switches one on; Metal is on wherever it exists.

use std::fs;
use std::path::PathBuf;

use crate::compile::Target;
use crate::{gpu, metal};

/// ggml's transport is left out: it would face the network with nothing between. Ours takes its place.
const RPC_FILES: &[&str] = &[RPC, "ggml-rpc/log.cpp", RPC_TRANSPORT];
const RPC_TRANSPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport.cpp");
/// ggml's file with our bound, and what we add to it.
const RPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rpc.cpp");

/// How many graphs a server keeps for a client to run again by their number. One of the whole 128B model takes
/// some 3 MB, and we never go back to an earlier one: what counts is how many belong to one pass. That is one for each
/// run of layers on a device, and two a layer where devices are joined. A pass of more than fit sends them each time,
/// which is slower and nothing worse: both sides forget all at the same request. So both need the same bound, and `PROTOCOL` in
/// src/remote/handshake.rs counts its changes.
const GRAPHS_THEIRS: &str = "const size_t GRAPH_CACHE_MAX = 1024;";
const GRAPHS_OURS: &str = "const size_t GRAPH_CACHE_MAX = 16;";

/// Joined servers would try for five seconds to connect to each other on ports of their own; they never may here.
const PEERS_THEIRS: &str = "std::getenv(\"GGML_RPC_NO_COMM\") != nullptr";
const PEERS_OURS: &str = "true";

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
                println!("cargo::rerun-if-changed={RPC}");
                write_rpc(target);
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

/// Writes the file that `RPC` includes.
fn write_rpc(target: &Target) {
    let theirs = target.src("ggml-rpc/ggml-rpc.cpp");
    let theirs = fs::read_to_string(theirs).expect("ggml's RPC backend is in its tree");
    let replaced = [(GRAPHS_THEIRS, GRAPHS_OURS), (PEERS_THEIRS, PEERS_OURS)];
    let ours = replaced.iter().fold(theirs, |text, (theirs, ours)| {
        assert!(text.matches(theirs).count() == 1, "ggml-rpc.cpp has no {theirs}");
        text.replace(theirs, ours)
    });
    fs::write(target.out_dir.join("gust-ggml-rpc.cpp"), ours).expect("OUT_DIR is writable");
}
