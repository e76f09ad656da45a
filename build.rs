//! Stamps what `gust --version` says: version, commit, ggml's version, compiled-in backends.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD"); // moves with every commit
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = match commit {
        Ok(output) if output.status.success() => {
            format!(" ({})", String::from_utf8_lossy(&output.stdout).trim())
        }
        _ => String::new(), // built from an archive, not a checkout
    };
    let on = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let cpu = match (on("CPU_VARIANTS"), on("NATIVE")) {
        (true, _) => "cpu (picked at start)",
        (false, true) => "cpu (tuned to the machine that built it)",
        (false, false) => "cpu (portable)",
    };
    let mut backends = vec![cpu];
    let built = env::var("DEP_GGML_BACKENDS").expect("ggml-sys tells its backends");
    backends.extend(built.split(',').filter(|name| !name.is_empty()));
    // Where the libraries of a toolkit outside the system's folders lie; a dependency can't set this.
    for path in env::var("DEP_GGML_RUN_PATH").iter().flat_map(|paths| paths.split(':')) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{path}");
    }
    let source = env::var("DEP_GGML_SOURCE").expect("ggml-sys tells its source");
    println!("cargo::rustc-env=GUST_GGML_SOURCE={source}"); // for tests
    println!(
        "cargo::rustc-env=GUST_VERSION={}{commit}, ggml {}, backends: {}",
        env!("CARGO_PKG_VERSION"),
        env::var("DEP_GGML_VERSION").expect("ggml-sys tells its version"),
        backends.join(", ")
    );
}
