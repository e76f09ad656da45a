#!/usr/bin/env python3
"""Compares `gust quantize` with llama.cpp's llama-quantize, whole files byte by byte.

Every type, with and without an importance matrix (both file formats), on the GGUF given by --model and on small random
models whose shapes bring other choices: groups of 1 and 8 query heads per key/value head, tied embeddings, rows that are
no multiple of 256 or of 32, a picture tower; on a split file, and with the flags that change types. A difference is
listed with the first tensor or key that differs; --known names tensors' types whose bytes are known to differ between the
ggml of the two programs (a difference there is listed, but is no failure).

    scripts/compare_quantize.py --gust target/release/gust --llama-bin llama.cpp/build/bin --model tiny-bf16.gguf

Where only one of them fails, the two last lines of both are shown. llama-quantize does so, and no failure is meant by it,
for types that look at the heads of a picture tower (it ends with a signal), and for Q1_0 where rows do not fill its blocks.
Types that need an importance matrix must be refused by both without.
"""

import argparse
import itertools
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "golden"))
from recipe import MODELS, TYPES, tensors, write_imatrix, write_model  # noqa: E402

FLAGS = [  # llama-quantize's, ours
    (["--pure"], ["--pure"]),
    (["--output-tensor-type", "q5_K", "--token-embedding-type", "q8_0"], ["--output-type", "q5_K", "--embed-type", "q8_0"]),
    (["--tensor-type", r"blk\.[0-4]\.ffn_down=q8_0", "--tensor-type", "FFN_=q5_0"],) * 2,
]


def write_legacy(path: Path, model: dict, values) -> None:
    """An importance matrix in the older format."""
    entries = [(n, d[0]) for n, d in sorted(tensors(model)) if len(d) == 2 and "blk." in n]
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, n in entries:
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 7, n))
            file.write(values(n).astype("<f4").tobytes())
        file.write(struct.pack("<ii", 7, 8) + b"text.txt")


def run(command: list) -> tuple[bool, str]:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, errors="replace")
    return done.returncode == 0, "\n".join((done.stdout + done.stderr).strip().splitlines()[-2:])


def first_difference(a: Path, b: Path) -> tuple[str, str]:
    """What differs first, in words, and the type of the tensor if it is one."""
    a, b = gguf.GGUFReader(a), gguf.GGUFReader(b)
    keys = [[(f.name, f.contents()) for f in r.fields.values()] for r in (a, b)]
    for x, y in itertools.zip_longest(*keys):
        if x != y:
            return f"key {x} / {y}"[:300], ""
    for x, y in itertools.zip_longest(a.tensors, b.tensors):
        if x is None or y is None or (x.name, x.tensor_type, list(x.shape)) != (y.name, y.tensor_type, list(y.shape)):
            return f"tensor {x and (x.name, x.tensor_type.name)} / {y and (y.name, y.tensor_type.name)}", ""
        if not np.array_equal(x.data, y.data):
            n = int(np.count_nonzero(np.asarray(x.data).view(np.uint8) != np.asarray(y.data).view(np.uint8)))
            return f"{x.name} ({x.tensor_type.name}): {n} of {x.n_bytes} bytes", x.tensor_type.name.lower()
    return "padding", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gust", type=Path, required=True)
    parser.add_argument("--llama-bin", type=Path, required=True, help="directory of llama-quantize")
    parser.add_argument("--model", type=Path, required=True, help="GGUF in BF16, F16 or F32")
    parser.add_argument("--split", type=Path, help="first part of the same model, split")
    parser.add_argument("--imatrix", type=Path, nargs="*", default=[], help="importance matrices of the model")
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--models", nargs="*", default=["mistral3-gqa8", "mistral3-gqa2-tied", "llama-gqa1-odd", "llama-gqa1-128", "clip"])
    parser.add_argument("--known", nargs="*", default=[], help="types whose bytes are known to differ")
    args = parser.parse_args()
    counts = {"same": 0, "known": 0, "different": 0, "refused by both": 0, "refused by llama-quantize": 0, "refused by gust": 0}
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def compare(label: str, source: Path, ftype: str, theirs: list, ours: list) -> None:
            a, b = folder / "llama.gguf", folder / "gust.gguf"
            a.unlink(missing_ok=True), b.unlink(missing_ok=True)
            ok_a, text_a = run([args.llama_bin / "llama-quantize", *theirs, source, a, ftype, 1])
            ok_b, text_b = run([args.gust, "quantize", source, b, ftype, *ours, "--threads", "1"])
            if ok_a and ok_b:
                if a.read_bytes() == b.read_bytes():
                    return counts.update({"same": counts["same"] + 1})
                what, ty = first_difference(a, b)
                kind = "known" if ty in args.known else "different"
            else:
                kind = "refused by gust" if ok_a else "refused by llama-quantize" if ok_b else "refused by both"
                what = f"llama-quantize: {text_a}\n    gust: {text_b}"
            counts[kind] += 1
            # Of a list of types many cannot be made, and neither program is at fault; asked for by name, it is told.
            if kind != "refused by both" or label == "split":
                print(f"{kind}: {label} {ftype}: {what}", flush=True)

        def compare_all(label: str, source: Path, imatrices: list[Path]) -> None:
            for ftype in args.types:
                compare(label, source, ftype, [], [])
                for path in imatrices:
                    compare(f"{label} {path.suffix}", source, ftype, ["--imatrix", path], ["--imatrix", path])

        compare_all(args.model.name, args.model, args.imatrix)
        if args.split:
            compare("split", args.split, "Q4_K_M", [], [])
        for theirs, ours in FLAGS:
            compare(f"{args.model.name} {' '.join(ours)}", args.model, "Q4_K_M", theirs, ours)
        for name in args.models:
            model = {**MODELS[name]}
            source = folder / f"{name}.gguf"
            write_model(source, model, lambda _, shape: 0.05 * rng.standard_normal(shape))
            imatrices = [folder / f"{name}-imatrix.gguf", folder / f"{name}-imatrix.dat"]
            write_imatrix(imatrices[0], model, lambda n: rng.gamma(0.5, 900.0, n))
            write_legacy(imatrices[1], model, lambda n: rng.gamma(0.5, 9.0, n))
            compare_all(name, source, imatrices)
    print(", ".join(f"{n} {kind}" for kind, n in counts.items()))
    sys.exit(1 if counts["different"] or counts["refused by gust"] else 0)


if __name__ == "__main__":
    main()
