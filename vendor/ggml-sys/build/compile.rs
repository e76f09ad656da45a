//! What every unit of ggml is compiled with, the files that are not a backend, and the linking.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cc::Build;

use crate::backend;

/// Graph, allocator, scheduler, quantization tables: no backend. The slow ones first.
const BASE_FILES: &[&str] = &[
    "ggml-backend-meta.cpp",
    "ggml-quants.c",
    "ggml.c",
    "ggml-opt.cpp",
    "ggml-backend.cpp",
    "ggml-alloc.c",
    "ggml.cpp",
    "ggml-threading.cpp",
    "gguf.cpp",
    "ggml-backend-dl.cpp",
];

/// Devices of our own, for plans.
const PRETEND_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pretend.cpp");

/// Files of ggml's that we add something to, and what they are compiled with it.
const EXTENDED: [(&str, &str); 2] = [
    ("ggml-backend.cpp", concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend.cpp")),
    ("ggml-backend-meta.cpp", concat!(env!("CARGO_MANIFEST_DIR"), "/src/meta.cpp")),
];

/// The one unit that knows which backends are linked in.
const REGISTRY_FILE: &str = "ggml-backend-reg.cpp";

/// Where the source is, where objects go, and for what machine.
pub struct Target {
    pub ggml: PathBuf,
    pub out_dir: PathBuf,
    pub os: String,
    pub arch: String,
}

impl Target {
    pub fn from_env(ggml: PathBuf, out_dir: PathBuf) -> Self {
        let var = |name| env::var(name).expect("cargo sets the target variables");
        let (os, arch) = (var("CARGO_CFG_TARGET_OS"), var("CARGO_CFG_TARGET_ARCH"));
        Self { ggml, out_dir, os, arch }
    }

    pub fn src(&self, file: &str) -> PathBuf {
        self.ggml.join("src").join(file)
    }

    /// OpenMP is worth having where gcc brings it along.
    pub fn openmp(&self) -> bool {
        cfg!(feature = "openmp") && self.os == "linux"
    }

    /// A compiler with the flags that all units share, C++ or C.
    pub fn build(&self, cpp: bool) -> Build {
        let mut build = Build::new();
        build
            .cpp(cpp)
            .std(if cpp { "gnu++17" } else { "gnu11" })
            .include(self.ggml.join("include"))
            .include(self.ggml.join("src"))
            .include(&self.out_dir)
            .define("NDEBUG", None)
            .define("_XOPEN_SOURCE", "600")
            .define("GGML_SCHED_MAX_COPIES", "4")
            .opt_level(3) // also in cargo's dev profile: an -O0 ggml is 50 times slower
            .debug(false)
            .pic(true)
            .warnings(false)
            .cargo_metadata(false);
        match self.os.as_str() {
            "linux" => build.define("_GNU_SOURCE", None),
            "macos" => build.define("_DARWIN_C_SOURCE", None),
            _ => &mut build,
        };
        if self.openmp() {
            build.flag("-fopenmp").define("GGML_USE_OPENMP", None);
        }
        build
    }

    /// Compiles `files` (relative to ggml's `src/`), C and C++ side by side.
    pub fn objects(&self, files: &[&str], configure: impl Fn(&mut Build) + Sync) -> Vec<PathBuf> {
        let compile = |cpp: bool| {
            let mut build = self.build(cpp);
            configure(&mut build);
            build.files(files.iter().filter(|f| f.ends_with(".cpp") == cpp).map(|f| self.src(f)));
            build.compile_intermediates()
        };
        std::thread::scope(|scope| {
            let cpp = scope.spawn(|| compile(true));
            let mut objects = compile(false);
            objects.extend(cpp.join().expect("the C++ half compiles or panics with the reason"));
            objects
        })
    }
}

/// `ggml.c` includes this header; CMake would have made it.
pub fn write_version_header(target: &Target) {
    let header = format!(
        "#define GGML_VERSION \"{}\"\n#define GGML_COMMIT \"unknown\"\n",
        env!("CARGO_PKG_VERSION")
    );
    fs::write(target.out_dir.join("ggml-version.h"), header).expect("OUT_DIR is writable");
}

/// Objects of everything that is not a backend.
pub fn base(target: &Target) -> Vec<PathBuf> {
    println!("cargo::rerun-if-changed={PRETEND_FILE}");
    for (_, ours) in EXTENDED {
        println!("cargo::rerun-if-changed={ours}");
    }
    let extended = |file: &str| EXTENDED.iter().find(|(theirs, _)| *theirs == file);
    let ours = |file: &'static str| extended(file).map_or(file, |(_, ours)| ours);
    let files: Vec<&str> = BASE_FILES.iter().map(|file| ours(file)).collect();
    let mut objects = target.objects(&files, |_| {});
    objects.extend(target.objects(&[PRETEND_FILE], |_| {}));
    objects.extend(target.objects(&[REGISTRY_FILE], |build| {
        if !cfg!(feature = "cpu-variants") {
            build.define("GGML_USE_CPU", None);
        }
        for name in backend::names(target) {
            build.define(&format!("GGML_USE_{}", name.to_uppercase()), None);
        }
    }));
    objects
}

/// Puts all objects into one archive, so that their order can't matter to the linker.
pub fn archive(target: &Target, objects: &[PathBuf]) {
    let mut build = target.build(true);
    build.objects(objects).compile("ggml");
    println!("cargo::rustc-link-search=native={}", target.out_dir.display());
    println!("cargo::rustc-link-lib=static=ggml");
}

/// Links the C++ and OpenMP runtimes, statically on Linux: one binary to copy around.
pub fn link(target: &Target) {
    match target.os.as_str() {
        "linux" => {
            link_static(target, "stdc++");
            if target.openmp() {
                println!("cargo::rustc-cfg=openmp");
                link_static(target, "gomp");
            }
        }
        "macos" => {
            println!("cargo::rustc-link-lib=c++");
            println!("cargo::rustc-link-lib=framework=Accelerate");
        }
        _ => println!("cargo::rustc-link-lib=stdc++"),
    }
}

fn link_static(target: &Target, name: &str) {
    let file = format!("lib{name}.a");
    let found = target
        .build(true)
        .get_compiler()
        .to_command()
        .arg(format!("-print-file-name={file}"))
        .output();
    let path =
        found.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    match Path::new(&path).parent() {
        Some(dir) if dir.is_absolute() => {
            println!("cargo::rustc-link-search=native={}", dir.display());
            println!("cargo::rustc-link-lib=static={name}");
        }
        _ => println!("cargo::rustc-link-lib={name}"),
    }
}

/// Runs a tool of the toolchain and stops the build with its message if it fails.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
