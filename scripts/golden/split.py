#!/usr/bin/env python3
"""Makes tests/golden/split: a small GGUF and the parts that llama.cpp's tool cuts it into.

  whole.gguf                 five tensors of odd sizes and a few keys, no model
  plain-0000N-of-00003.gguf  two tensors a part
  first-0000N-of-00004.gguf  the same, the first part without tensors

--splitter is the program llama-gguf-split of the llama.cpp release that gust's ggml comes from.
"""

import argparse
import subprocess
from pathlib import Path

import gguf
import numpy as np

REPO = Path(__file__).resolve().parents[2]
SIZES = [7, 8, 9, 33, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "tests/golden/split")
    parser.add_argument("--splitter", type=Path, required=True, help="llama-gguf-split")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.gguf"):
        old.unlink()
    whole = args.out / "whole.gguf"
    writer = gguf.GGUFWriter(whole, "split-test")
    writer.add_name("numbers")
    writer.add_array("test.words", ["a", "", "é"])
    for i, n in enumerate(SIZES):
        writer.add_tensor(f"t{i}", np.full(n, i, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name, flags in {"plain": [], "first": ["--no-tensor-first-split"]}.items():
        flags += ["--split-max-tensors", "2"]
        subprocess.run([args.splitter, "--split", *flags, whole, args.out / name], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
