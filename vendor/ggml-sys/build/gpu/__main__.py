#!/usr/bin/env python3
"""Compiles a GPU backend of ggml: the one place that knows the files and flags of CUDA and Vulkan.

    python3 vendor/ggml-sys/build/gpu module cuda|vulkan [OUT_DIR]     makes OUT_DIR/libggml-NAME.so, to be loaded by gust
    python3 vendor/ggml-sys/build/gpu objects cuda|vulkan [OBJECTS]    compiles only, and prints what build.rs must link

scripts/build_backend.sh is the first, build/gpu.rs calls the second for cargo's features `cuda` and `vulkan`. Needs python3.9, g++
and binutils, and nvcc for CUDA or glslc and headers for Vulkan; no cargo if GGML_SOURCE_DIR points at ggml's source. Objects are
named by what they are made of, so a run that was cut short goes on where it was, and both uses share one folder.

    GGML_SOURCE_DIR    folder with ggml's src/ and include/   [the pinned crate, see build/source.rs]
    GGML_GPU_OBJECTS   folder for objects                     [OUT_DIR/objects, or cargo's OUT_DIR]
    NUM_JOBS           how many compilers run at once         [one a core]
    CUDA_PATH, CUDA_HOME, CUDAARCHS, CUDAHOSTCXX              see cuda.py
    VULKAN_SDK                                                see vulkan.py
"""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # cargo would take new files beside the sources for a change

import cuda
import source
import vulkan
from tools import Failure, Objects, Unit, compiler, stub

BACKENDS = {"cuda": cuda, "vulkan": vulkan}
HERE = Path(__file__).resolve().parent


def base_units(tree):
    """ggml's own core, once more: a module brings a hidden copy along and needs nothing of the program that loads it."""
    flags = source.flags() + ["-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"]
    units = []
    for file in [tree / "src" / name for name in source.base_files()] + [HERE / "module.c"]:
        cpp = file.suffix == ".cpp"
        std = "-std=gnu++17" if cpp else "-std=gnu11"
        command = compiler() + (["-x", "c++"] if cpp else ["-x", "c"]) + [std, *flags]
        units.append(Unit(command, file, [tree / "include", tree / "src"]))
    return units


def link_module(backend, name, objects, paths, libraries, out):
    """Everything in one shared library that shows only what a loader asks for."""
    script = objects.folder / "module.map"
    script.write_text("{ global: ggml_backend_init; ggml_backend_score; gust_module_*; local: *; };\n")
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"libggml-{name}.so"
    partial = target.with_suffix(".so.part")
    command = compiler() + ["-shared", "-static-libstdc++", "-static-libgcc", "-o", partial, *paths]
    command += [f"-Wl,--version-script={script}", "-Wl,--no-undefined", "-Wl,--gc-sections"]
    for search in libraries.search:
        command.append(f"-L{search}")
    for library in libraries.static + libraries.shared:
        command.append(f"-l:{library}")
    # Libraries that the backend needs are looked for beside the module, then where they were at build time.
    for path in ["$ORIGIN", *libraries.run_path]:
        command.append(f"-Wl,-rpath,{path}")
    objects.run(command + ["-lpthread", "-ldl", "-lrt"])
    partial.replace(target)
    return target


def main():
    arguments = dict(enumerate(sys.argv[1:]))
    what, name, folder = arguments.get(0), arguments.get(1), arguments.get(2, ".")
    if what not in ("module", "objects") or name not in BACKENDS or len(arguments) > 3:
        sys.exit(__doc__)
    backend, out = BACKENDS[name], Path(folder).resolve()
    default = out / "objects" if what == "module" else out
    objects = Objects(Path(os.environ.get("GGML_GPU_OBJECTS") or default).resolve())
    tree = source.locate()
    source.write_version_header(tree, objects.folder)
    objects.read_headers(tree)
    is_module = what == "module"
    libraries = backend.libraries()  # first, because what is missing should be told before the long work
    units = backend.units(tree, objects, is_module) + (base_units(tree) if is_module else [])
    paths = objects.compile(units)
    for library, pattern in libraries.stubs:
        stub(objects, library, pattern, paths)
    libraries.search.append(objects.folder)
    if is_module:
        target = link_module(backend, name, objects, paths, libraries, out)
        print(f"{target}  {target.stat().st_size / 1e6:.1f} MB")
        return
    for path in paths:
        print(f"object={path}")
    for search in libraries.search:
        print(f"cargo::rustc-link-search=native={search}")
    for library in libraries.static:
        print(f"cargo::rustc-link-lib=static:-bundle,+verbatim={library}")
    for library in libraries.shared:
        print(f"cargo::rustc-link-lib=dylib:+verbatim={library}")
    if libraries.run_path:
        print(f"cargo::metadata=run_path={':'.join(map(str, libraries.run_path))}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"{failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
