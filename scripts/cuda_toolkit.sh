#!/bin/sh
# Makes a CUDA toolkit of NVIDIA's packages on PyPI (1.1 GB), for machines that have none, and prints the CUDA_PATH to set.
#
#     export CUDA_PATH=$(scripts/cuda_toolkit.sh DIR [VERSION])
#
# DIR gets a virtual environment of python3. VERSION, such as 13.0, must not be newer than what nvidia-smi says of the driver where
# the backend will run [the newest]. cublas, which the backend needs at run time, comes along.
set -eu
dir=$1
version=${2:+==$2.*}
[ -x "$dir/bin/python" ] || python3 -m venv "$dir" >&2
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
    "cuda-toolkit[nvcc,cudart,cccl,crt,nvvm,cublas]$version" >&2
for root in "$dir"/lib/python3*/site-packages/nvidia/cu*; do
    [ -x "$root/bin/nvcc" ] && (cd "$root" && pwd) && exit
done
echo "these packages have no nvidia/cu*/bin/nvcc; CUDA 13 is known to work" >&2
exit 1
