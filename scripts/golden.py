#!/usr/bin/env python3
"""Makes all golden data under tests/golden anew: what gust's tests compare with, from the reference programs.

Made with Python 3.11, mistral_common 1.13.1, transformers 5.23.0, torch 2.15.0 (CPU), gguf 0.19.0, numpy 2.3.5,
pillow 13.0.0 and opencv-python-headless 5.0.0.93:

    python -m venv venv
    venv/bin/pip install mistral_common==1.13.1 transformers==5.23.0 torch==2.15.0 gguf==0.19.0 numpy==2.3.5 \
        pillow==13.0.0 opencv-python-headless==5.0.0.93
    venv/bin/python scripts/golden.py --tekken tekken.json --fixtures DIR --splitter llama-gguf-split \
        --quantizer llama-quantize                                            # everything
    venv/bin/python scripts/golden.py model                                   # one part

Convention: a part is a program scripts/golden/PART.py that writes everything into the directory given by --out, which is
tests/golden/PART; what else it needs stands in NEEDS, and it gets it under the same flag. It asks no network and is
deterministic: whatever is random in it is seeded. Its docstring says what it makes.
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PINNED = {"mistral_common": "1.13.1", "transformers": "5.23.0", "torch": "2.15.0", "gguf": "0.19.0", "numpy": "2.3.5", "pillow": "13.0.0", "opencv-python-headless": "5.0.0.93"}
NEEDS = {"model": [], "convert": [], "eagle": [], "fp8": [], "vision_tower": [], "template": ["fixtures"], "chat": ["tekken", "fixtures"], "tokenizer": ["tekken"], "split": ["splitter"], "recipe": ["quantizer"]}


def other_versions() -> list[str]:
    """The pinned packages that are missing or of another version."""
    found = {}
    for package in PINNED:
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            found[package] = "missing"
    return [f"{p} {found[p]} (pinned {wanted})" for p, wanted in PINNED.items() if found[p] != wanted]


def main() -> None:
    known = sorted(path.stem for path in (REPO / "scripts/golden").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to make: {', '.join(known)} [all]")
    parser.add_argument("--tekken", type=Path, help="tekken.json of the vocabulary")
    parser.add_argument("--fixtures", type=Path, help="directory of chat fixtures")
    parser.add_argument("--splitter", type=Path, help="llama.cpp's program llama-gguf-split")
    parser.add_argument("--quantizer", type=Path, help="llama.cpp's program llama-quantize")
    parser.add_argument("--out", type=Path, default=REPO / "tests/golden", help="directory of the parts' directories [tests/golden]")
    args = parser.parse_args()
    parts = args.parts or known
    if unknown := set(parts) - set(known):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    inputs = {part: {need: getattr(args, need) for need in NEEDS.get(part, [])} for part in parts}
    if missing := {f"--{need}" for given in inputs.values() for need, path in given.items() if path is None}:
        parser.error(f"{' and '.join(sorted(missing))} must be given")
    for other in other_versions():
        print(f"warning: {other}: the data may come out different", file=sys.stderr)
    for part in parts:
        start = time.monotonic()
        command = [sys.executable, REPO / f"scripts/golden/{part}.py", "--out", args.out / part]
        for need, path in inputs[part].items():
            command += [f"--{need}", path]
        subprocess.run(command, check=True)
        print(f"{part}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
