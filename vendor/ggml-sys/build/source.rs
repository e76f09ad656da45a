//! Finds ggml's source: a tree the user names, or the pinned crate that carries it.
//!
//! The crate is unpacked by `cargo info` (one download of 7.6 MB, checked against the registry's
//! index); being no dependency, it brings neither its own build nor its 130 dependencies along.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The crate on crates.io that carries ggml, its exact version, and the sha256 of its archive.
const CRATE: &str = "llama-cpp-sys-4";
const CRATE_VERSION: &str = "0.11.0";
const CRATE_SHA256: &str = "814738cddce0c910aa0f5192fd9d3e2ff7e447453e66326dd2f5df7f1375aea3";
/// Where ggml lies inside that crate.
const GGML_IN_CRATE: &str = "llama.cpp/ggml";

/// The directory that holds ggml's `src/` and `include/`.
pub fn locate(out_dir: &Path) -> PathBuf {
    println!("cargo::rerun-if-env-changed=GGML_SOURCE_DIR");
    if let Some(dir) = env::var_os("GGML_SOURCE_DIR") {
        let dir = PathBuf::from(dir);
        assert!(
            dir.join("src/ggml.c").is_file(),
            "GGML_SOURCE_DIR={} has no src/ggml.c",
            dir.display()
        );
        return dir;
    }
    if let Some(dir) = unpacked() {
        return dir;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let fetched = Command::new(&cargo)
        .args(["info", "--quiet", "--registry", "crates-io"])
        .arg(format!("{CRATE}@{CRATE_VERSION}"))
        .current_dir(out_dir) // away from this workspace's manifest
        .output();
    unpacked().unwrap_or_else(|| {
        let reason = match fetched {
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "ggml's source is not here and could not be fetched.\n\
             Run once with network access: cargo info --registry crates-io {CRATE}@{CRATE_VERSION}\n\
             or point GGML_SOURCE_DIR at a ggml {} tree.\n{reason}",
            env!("CARGO_PKG_VERSION"),
        )
    })
}

/// The crate in cargo's registry cache, if it has been unpacked there completely.
fn unpacked() -> Option<PathBuf> {
    let registry = cargo_home().join("registry");
    let name = format!("{CRATE}-{CRATE_VERSION}");
    let index = fs::read_dir(registry.join("src"))
        .ok()?
        .flatten()
        .find(|index| index.path().join(&name).join(".cargo-ok").is_file())?;
    let archive = registry.join("cache").join(index.file_name()).join(format!("{name}.crate"));
    if let Ok(bytes) = fs::read(&archive) {
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, CRATE_SHA256, "{} is not the pinned ggml source", archive.display());
    }
    Some(index.path().join(name).join(GGML_IN_CRATE))
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = env::var_os("HOME").or_else(|| env::var_os("USERPROFILE"));
        PathBuf::from(home.expect("a home directory is set")).join(".cargo")
    })
}
