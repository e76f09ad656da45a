#!/bin/sh
# Makes a GPU backend that gust loads at start, libggml-cuda.so or libggml-vulkan.so.
#
#     scripts/build_backend.sh cuda|vulkan [OUT_DIR]
#
# Put the file beside gust or into ../lib/gust from there, or name its folder in GUST_BACKENDS. Needs python3 and g++, and nvcc
# (scripts/cuda_toolkit.sh) or glslc and Vulkan's headers. With GGML_SOURCE_DIR no cargo is needed. May be interrupted: it goes on
# where it was. vendor/ggml-sys/build/gpu/__main__.py lists the variables it heeds.
set -eu
exec python3 -B "$(dirname "$0")/../vendor/ggml-sys/build/gpu" module "$@"
