"""Where ggml's source is, and what the Rust side says about it.

The pin (crate, version, sha256) stands in build/source.rs, the files of ggml's core in build/compile.rs, ggml's version in
Cargo.toml; they are read from there, so that there is one of each.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools import Failure

CRATE_DIR = Path(__file__).resolve().parent.parent.parent


def text(name):
    return (CRATE_DIR / name).read_text()


def constant(name):
    return re.search(rf'const {name}: &str = "([^"]+)";', text("build/source.rs")).group(1)


def base_files():
    listed = re.search(r"const BASE_FILES: &\[&str\] = &\[(.*?)\];", text("build/compile.rs"), re.DOTALL)
    return re.findall(r'"([^"]+)"', listed.group(1))


def version():
    return re.search(r'^version = "([^"]+)"', text("Cargo.toml"), re.MULTILINE).group(1)


def flags():
    """What all units are compiled with, as `Target::build` in build/compile.rs has it, less OpenMP."""
    defines = ["NDEBUG", "_XOPEN_SOURCE=600", "_GNU_SOURCE", "GGML_SCHED_MAX_COPIES=4"]
    return ["-O3", "-fPIC", "-w"] + [f"-D{define}" for define in defines]


def locate():
    """The folder that holds ggml's src/ and include/: of the pinned version, or a Failure that says how to get it."""
    if given := os.environ.get("GGML_SOURCE_DIR"):
        tree = Path(given).resolve()
        if not (tree / "src/ggml.c").is_file():
            raise Failure(f"GGML_SOURCE_DIR={given} has no src/ggml.c")
    else:
        tree = unpacked() or fetched()
    found = tree_version(tree)
    if found != version():
        raise Failure(f"{tree} is ggml {found}, and this gust is made for ggml {version()}: a module must match exactly")
    return tree


def tree_version(tree):
    cmake = (tree / "CMakeLists.txt").read_text()
    parts = [re.search(rf"GGML_VERSION_{part} (\d+)", cmake) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part.group(1) for part in parts)


def unpacked():
    """The crate in cargo's cache, if it was unpacked completely and its archive is the pinned one."""
    name = f"{constant('CRATE')}-{constant('CRATE_VERSION')}"
    registry = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "registry"
    for done in registry.glob(f"src/*/{name}/.cargo-ok"):
        archive = registry / "cache" / done.parent.parent.name / f"{name}.crate"
        if archive.is_file():
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if digest != constant("CRATE_SHA256"):
                raise Failure(f"{archive} is not the pinned ggml source")
        return done.parent / constant("GGML_IN_CRATE")
    return None


def fetched():
    fetch = ["cargo", "info", "--registry", "crates-io", f"{constant('CRATE')}@{constant('CRATE_VERSION')}"]
    if shutil.which("cargo"):
        with tempfile.TemporaryDirectory() as elsewhere:
            subprocess.run([*fetch, "--quiet"], cwd=elsewhere, capture_output=True)
        if tree := unpacked():
            return tree
    raise Failure(
        "ggml's source is not here. Either run once, with network access:\n"
        f"    {' '.join(fetch)}\n"
        f"or point GGML_SOURCE_DIR at a ggml {version()} tree, copied from a machine that has it "
        "(~/.cargo/registry/src/*/" + f"{constant('CRATE')}-{constant('CRATE_VERSION')}/{constant('GGML_IN_CRATE')})."
    )


def write_version_header(tree, folder):
    """`ggml.c` includes this header; CMake would have made it."""
    header = f'#define GGML_VERSION "{tree_version(tree)}"\n#define GGML_COMMIT "unknown"\n'
    path = folder / "ggml-version.h"
    if not path.is_file() or path.read_text() != header:
        path.write_text(header)
