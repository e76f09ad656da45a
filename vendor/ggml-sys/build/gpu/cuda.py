"""CUDA: the toolkit, the architectures, and ggml-cuda's files and flags as ggml's CMake has them.

Definitions that are llama.cpp's or ours and not ggml's defaults: CUDA graphs are on, and attention has kernels for one more
pair of KV types (q8_0 keys with q4_0 values). NCCL is off: it is one more library, and gust splits by layers. Peer access is
ggml's default, off until the variable GGML_CUDA_P2P is set when gust runs.

cudart is linked statically and cublas is not: cublas_static and cublasLt_static add hundreds of megabytes. libcuda belongs to
the driver. Both are looked for when gust runs; a program that has the backend built in does not start without them, a module
is passed over.
"""

import os
import re
import shutil
import site
from functools import cache
from pathlib import Path

import source
from tools import Failure, Libraries, Unit, compiler, identity, output

KV_TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16"]
# Types of keys and of values that attention reads without a conversion. Each costs eleven seconds of one core.
KV_PAIRS = ["f16-f16", "bf16-bf16", "q8_0-q8_0", "q4_0-q4_0", "q8_0-q4_0"]

FILES = [
    "*.cu",
    "template-instances/fattn-tile*.cu",
    "template-instances/fattn-mma*.cu",
    "template-instances/mmq*.cu",
    "template-instances/mmf*.cu",
    *(f"template-instances/fattn-vec-instance-{pair}.cu" for pair in KV_PAIRS),
]
# These take longest, so they start first.
SLOW = ["mmvq", "fattn-mma", "mmq-", "mmvf", "fattn-tile", "binbcast", "fattn", "ggml-cuda", "mmf-"]


@cache
def toolkit():
    """The folder with bin/nvcc."""
    tried = []
    for name in ["CUDA_PATH", "CUDA_HOME"]:
        if value := os.environ.get(name):
            if (Path(value) / "bin/nvcc").is_file():
                return Path(value).resolve()
            raise Failure(f"{name}={value} has no bin/nvcc; {name} must name the folder of a CUDA toolkit")
        tried.append(f"{name}: not set")
    if nvcc := shutil.which("nvcc"):
        return Path(nvcc).resolve().parent.parent
    tried.append("PATH: no nvcc")
    for folder in [Path("/usr/local/cuda"), *wheels()]:
        if (folder / "bin/nvcc").is_file():
            return folder.resolve()
        tried.append(f"{folder}: no bin/nvcc")
    lines = "\n".join(f"    {line}" for line in tried)
    raise Failure(
        f"no CUDA toolkit (nvcc) found. Looked in:\n{lines}\n"
        "Install one and set CUDA_PATH to its folder, or let scripts/cuda_toolkit.sh make one from PyPI's wheels."
    )


@cache
def wheels():
    """Where PyPI's packages put a toolkit, or parts of one, in this Python and in the active environment."""
    packages = [Path(path) for path in site.getsitepackages()]
    if active := os.environ.get("VIRTUAL_ENV"):
        packages += Path(active).glob("lib/python*/site-packages")
    return [folder for path in packages for folder in sorted(path.glob("nvidia/cu[0-9]*"), reverse=True)]


def find(*patterns):
    """The first file of these patterns in the toolkit, else in wheels (cublas often comes with a framework), else in Debian's
    folders, which hold parts of its toolkit."""
    for root in [toolkit(), *wheels(), Path("/usr")]:
        for pattern in patterns:
            if found := sorted(root.glob(pattern)):
                return found[0]
    raise Failure(
        f"no {Path(patterns[0]).name} in the CUDA toolkit {toolkit()}; install its development files, "
        "or let scripts/cuda_toolkit.sh make a toolkit that has them"
    )


def find_library(*names):
    folders = ["lib64", "lib", "targets/*/lib", "lib/*-linux-gnu"]
    return find(*(f"{folder}/{name}" for name in names for folder in folders))


@cache
def nvcc_version():
    found = re.search(r"release (\d+)\.(\d+)", identity(str(toolkit() / "bin/nvcc")))
    if not found:
        raise Failure(f"{toolkit()}/bin/nvcc --version names no release")
    return int(found.group(1)), int(found.group(2))


def default_architectures():
    """The GPUs of this machine; without one, what covers the cards in use at a quarter of the time of ggml's own list.

    Code for 8.0 runs on all of 8.x (A100, RTX 30 and 40), code for 9.0 on H100 and H200, and its PTX is compiled by the driver
    for what comes later; 12.0a (RTX 50) is apart because its FP4 instructions are nowhere else.
    """
    if shutil.which("nvidia-smi"):
        try:
            return native()
        except Failure:
            pass  # the tool without a driver
    if nvcc_version() >= (12, 8):
        return ["80-real", "90", "120a-real"]
    return ["80-real", "90"] if nvcc_version() >= (11, 8) else ["80"]


def native():
    found = output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    names = sorted({line.strip().replace(".", "") for line in found.splitlines() if re.match(r"\s*\d+\.\d+\s*$", line)})
    if not names:
        raise Failure("CUDAARCHS=native, but nvidia-smi names no GPU here; name the architecture, such as 90-real")
    return [f"{name}-real" for name in names]


def architecture_flags(wanted):
    """nvcc's flags for architectures in CMake's spelling: 90, 86-real, 89-virtual, native, all, all-major."""
    names = [name for name in re.split(r"[;,\s]+", wanted) if name]
    if names in (["all"], ["all-major"]):
        return [f"-arch={names[0]}"]
    flags = []
    for name in (native() if names == ["native"] else names) or default_architectures():
        spelled = re.fullmatch(r"(\d{2,3})([af]?)(-real|-virtual)?", name)
        if not spelled:
            raise Failure(f"CUDAARCHS={wanted}: expected such as 90, 86-real;89-real, native or all-major, found {name!r}")
        number, suffix, kind = spelled.groups()
        # As in ggml's CMake: FP4 on Blackwell exists only in the code that is not compatible with later cards.
        number += suffix or ("a" if re.fullmatch(r"12\d", number) else "")
        code = {"-real": f"sm_{number}", "-virtual": f"compute_{number}", None: f"[sm_{number},compute_{number}]"}[kind]
        flags.append(f"-gencode=arch=compute_{number},code={code}")
    return flags


def defines():
    named = ["GGML_CUDA_USE_GRAPHS", f'GGML_CUDA_FA_QUANTS="{",".join(KV_PAIRS)}"']
    for value in KV_TYPES:
        for key in KV_TYPES:
            named.append(f"GGML_CUDA_FA_{key}_{value}".upper() + f"={int(f'{key}-{value}' in KV_PAIRS)}")
    return [f"-D{define}" for define in named]


def units(tree, _objects, is_module):
    nvcc = toolkit() / "bin/nvcc"
    host = os.environ.get("CUDAHOSTCXX") or compiler()[-1]
    command = [str(nvcc), f"-ccbin={host}", "-std=c++17", "-O3", "-w"]
    command += ["-use_fast_math", "-extended-lambda", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-pedantic"]
    command += [flag for flag in source.flags() if flag.startswith("-D")] + defines()
    command += architecture_flags(os.environ.get("CUDAARCHS") or "")
    if nvcc_version() >= (12, 8):
        command.append("-compress-mode=size")
    folder = tree / "src/ggml-cuda"
    files = [file for pattern in FILES for file in folder.glob(pattern)]
    if len(files) < len(FILES) or not (folder / "ggml-cuda.cu").is_file():
        raise Failure(f"{folder} lacks files of ggml-cuda")
    files.sort(key=lambda file: (next((i for i, name in enumerate(SLOW) if file.name.startswith(name)), 99), file.name))
    cublas = find("include/cublas_v2.h", "targets/*/include/cublas_v2.h").parent
    includes = [tree / "include", tree / "src", folder] + ([] if cublas.is_relative_to(toolkit()) else [cublas])
    made = []
    for file in files:
        entry = module_defines() if is_module and file.name == "ggml-cuda.cu" else []
        made.append(Unit(command + entry, file, includes, key=identity(host)))
    return made


def module_defines():
    """Gives the file with the registry entry its `ggml_backend_init`; no other file looks at them."""
    return ["-DGGML_BACKEND_DL", "-DGGML_BACKEND_BUILD", "-DGGML_BACKEND_SHARED"]


def libraries():
    cublas = find_library("libcublas.so", "libcublas.so.*")
    cudart = find_library("libcudart_static.a", "libcudart.so", "libcudart.so.*")
    is_static = cudart.suffix == ".a"
    shared = [cublas] + ([] if is_static else [cudart])
    return Libraries(
        search=sorted({cublas.parent, cudart.parent}),
        static=[cudart.name] if is_static else [],
        shared=[file.name for file in shared] + ["libcuda.so.1"],
        stubs=[("libcuda.so.1", r"cu[A-Z]\w*")],
        run_path=sorted({file.parent for file in shared}),
    )
