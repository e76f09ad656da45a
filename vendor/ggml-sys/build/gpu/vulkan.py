"""Vulkan: glslc and headers, the shaders, and ggml-vulkan's files and flags as ggml's CMake has them.

ggml writes each shader once; its generator (vulkan-shaders-gen) has glslc compile the many forms of it and writes them as
arrays of C++. Which extensions the shaders may use depends on glslc; an old one gives a slower backend and no error. The
loader (libvulkan.so.1) is linked by name only: what is needed here are headers and glslc, not a GPU and not its driver.

    VULKAN_SDK    folder with include/vulkan, include/spirv and bin/glslc    [what the system has]
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import source
from tools import Failure, Libraries, Unit, compiler, digest, identity

# The newest thing that ggml-vulkan.cpp wants of the headers without asking for it.
HEADER_PROBE = """
#include <vulkan/vulkan.hpp>
#include <spirv/unified1/spirv.hpp>
#ifndef VK_EXT_LAYER_SETTINGS_EXTENSION_NAME
#error these Vulkan headers are older than 1.3.272
#endif
"""
# Feature tests of glslc: file, extension, definition.
EXTENSIONS = [
    ("coopmat", "GL_KHR_cooperative_matrix", "COOPMAT"),
    ("coopmat2", "GL_NV_cooperative_matrix2", "COOPMAT2"),
    ("coopmat2_decode_vector", "GL_NV_cooperative_matrix_decode_vector", "COOPMAT2_DECODE_VECTOR"),
    ("integer_dot", "GL_EXT_integer_dot_product", "INTEGER_DOT"),
    ("bfloat16", "GL_EXT_bfloat16", "BFLOAT16"),
    ("float_e2m1", "GL_EXT_float_e2m1", "FLOAT_E2M1"),
    ("float_e4m3", "GL_EXT_float_e4m3", "FLOAT_E4M3"),
]
# These take longest, so they start first.
SLOW = ["mul_mm", "flash_attn", "mul_mmq", "mul_mat_vec", "conv2d"]


@cache
def sdk():
    return Path(os.environ["VULKAN_SDK"]).resolve() if os.environ.get("VULKAN_SDK") else None


@cache
def glslc():
    if sdk() and (sdk() / "bin/glslc").is_file():
        return str(sdk() / "bin/glslc")
    if found := shutil.which("glslc"):
        return found
    raise Failure(
        "glslc, the compiler of Vulkan's shaders, is neither in VULKAN_SDK/bin nor on PATH.\n"
        "Install it (Debian, Ubuntu: glslc; Fedora: glslc; Arch: shaderc) or LunarG's Vulkan SDK and set VULKAN_SDK."
    )


def includes():
    return [sdk() / "include"] if sdk() else []


def check_headers():
    """The headers' version; a Failure that says how to get newer ones."""
    command = [*compiler(), "-x", "c++", "-std=gnu++17", *(f"-I{folder}" for folder in includes()), "-"]
    tried = subprocess.run([*command, "-fsyntax-only"], input=HEADER_PROBE, capture_output=True, text=True)
    if tried.returncode != 0:
        reason = next((line for line in tried.stderr.splitlines() if "error" in line), tried.stderr)
        raise Failure(
            f"Vulkan's headers are missing or too old: {reason}\n"
            "Needed: vulkan/vulkan.hpp of 1.3.272 or newer, and spirv/unified1/spirv.hpp.\n"
            "Debian 13, Ubuntu 24.04: apt install libvulkan-dev spirv-headers. On an older system unpack those two packages "
            "of a newer one (they are headers)\nwith dpkg -x into a folder, and set VULKAN_SDK to its usr/. "
            "Or install LunarG's Vulkan SDK and set VULKAN_SDK."
        )
    macros = subprocess.run([*command, "-E", "-dM"], input=HEADER_PROBE, capture_output=True, text=True).stdout
    return re.findall(r"#define VK_HEADER_VERSION\w* .*", macros)


def defines(shaders):
    """What this glslc can do, tested as CMake does it."""
    supported = []
    for file, extension, name in EXTENSIONS:
        test = [glslc(), "-o", "-", "-fshader-stage=compute", "--target-env=vulkan1.3", shaders / f"feature-tests/{file}.comp"]
        said = subprocess.run(test, capture_output=True).stderr.decode(errors="replace")
        if f"extension not supported: {extension}" not in said:
            supported.append(f"-DGGML_VULKAN_{name}_GLSLC_SUPPORT")
    return supported


def generator(shaders, objects, supported):
    """ggml's own tool, compiled for this machine."""
    code = shaders / "vulkan-shaders-gen.cpp"
    tool = objects.folder / f"vulkan-shaders-gen-{digest(code, *supported)}"
    if not tool.is_file():
        partial = tool.with_suffix(".part")
        objects.run([*compiler(), "-std=c++17", "-O2", "-w", *supported, code, "-o", partial, "-lpthread"])
        partial.replace(tool)
    return tool


def units(tree, objects, is_module):
    folder = tree / "src/ggml-vulkan"
    shaders = folder / "vulkan-shaders"
    headers = check_headers()
    supported = defines(shaders)
    tool = generator(shaders, objects, supported)
    # The generated header lists every shader, so its folder is named by what they are made of.
    recipe = digest(identity(glslc()), *supported, *sorted(f for f in shaders.rglob("*") if f.is_file()))
    generated = objects.folder / f"shaders-{recipe}"
    header = generated / "ggml-vulkan-shaders.hpp"
    objects.run([tool, "--output-dir", generated, "--target-hpp", header])

    common = compiler() + ["-x", "c++", "-std=gnu++17", *source.flags(), "-fvisibility=hidden"]
    made = []
    for shader in sorted(shaders.glob("*.comp"), key=lambda file: (order(file), file.name)):
        def make(target, shader=shader):
            work = target.with_suffix(".spv")  # a folder for each, so that it can be removed
            objects.run([
                tool, "--glslc", glslc(), "--source", shader, "--output-dir", work,
                "--target-hpp", header, "--target-cpp", target,
            ])
            shutil.rmtree(work)
            target.with_suffix(".cpp.d").unlink(missing_ok=True)
        made.append(Unit(common, shader, [generated], make=make, key=recipe))
    where = [tree / "include", tree / "src", folder, generated, *includes()]
    for file in sorted(folder.glob("*.cpp"), key=lambda file: len(file.name)):
        entry = ["-DGGML_BACKEND_DL", "-DGGML_BACKEND_BUILD", "-DGGML_BACKEND_SHARED"]
        with_entry = is_module and file.name == "ggml-vulkan.cpp"
        key = digest(recipe, *headers)
        made.insert(0, Unit(common + supported + (entry if with_entry else []), file, where, key=key))
    return made


def order(file):
    return next((i for i, name in enumerate(SLOW) if file.name.startswith(name)), len(SLOW))


def libraries():
    return Libraries(shared=["libvulkan.so.1"], stubs=[("libvulkan.so.1", r"vk[A-Z]\w*")])
