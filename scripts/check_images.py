#!/usr/bin/env python3
"""Compares gust's grids and pixels with mistral_common's on many sizes and pictures.

    cargo build --release --example dump_patches
    scripts/check_images.py --dump target/release/examples/dump_patches [--grids 10000] [--bad]

Grids: random sizes. Pixels: photo-like, gradient, noise and one-pixel pictures, thin ones, and every file of
tests/golden/vision/files. The largest difference of the decoded bytes and of the normalised pixels is shown for each;
pixels are compared with what mistral_common makes of the bytes that gust decoded, so that a JPEG decoder's rounding
does not hide a resizer's. Needs mistral_common with Pillow and OpenCV. Exit code 0: grids equal, pixels within 1e-4.
"""

import argparse
import importlib.util
import io
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
MAX_DIFF = 1e-4


def golden():
    spec = importlib.util.spec_from_file_location("vision", REPO / "scripts/golden/vision.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dump(program, out, names):
    run = subprocess.run([program, out, *names], check=True, capture_output=True, text=True)
    return run.stdout.splitlines()


def check_grids(vision, program, out, n, seed):
    rng = random.Random(seed)
    sizes = [vision.random_size(rng) for _ in range(n)]
    n_wrong = 0
    for start in range(0, n, 1000):
        part = sizes[start : start + 1000]
        for size, line in zip(part, dump(program, out, [f"{w}x{h}" for w, h in part]), strict=True):
            found = tuple(map(int, line.split()[2:4]))
            if found != vision.grid(*size):
                n_wrong += 1
                print(f"{size}: {found}, expected {vision.grid(*size)}")
    print(f"grids: {n} sizes, {n_wrong} differ")
    return n_wrong == 0


def pictures(vision):
    """Name and file of pictures that are made here."""
    rng = np.random.default_rng(0)
    noise = lambda w, h: Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
    gradient = lambda w, h: Image.fromarray(np.stack(np.broadcast_arrays(np.linspace(0, 255, w)[None], np.linspace(255, 0, h)[:, None], 128.0), -1).astype(np.uint8))
    for w, h in [(4000, 3000), (3000, 4000), (1920, 1080), (1540, 1540), (224, 224), (640, 480), (7728, 5152)]:
        yield f"photo-{w}x{h}.jpg", vision.saved(vision.photo(w, h), "JPEG", quality=92)
        yield f"gradient-{w}x{h}.png", vision.saved(gradient(w, h), "PNG", compress_level=1)
    sizes = [(1, 1), (1, 5000), (5000, 1), (2, 2), (28, 28), (29, 27), (20000, 10), (10, 20000), (65500, 30), (4000, 3000), (1541, 1539), (999, 333)]
    for w, h in sizes:
        yield f"noise-{w}x{h}.bmp", vision.saved(noise(w, h), "BMP")
    sharp = Image.fromarray((rng.integers(0, 2, (2048, 3001, 3)) * 255).astype(np.uint8))
    yield "black-and-white-noise.png", vision.saved(sharp, "PNG", compress_level=1)


def check_pixels(vision, program, out, folder):
    worst = 0.0
    files = [(name, data, plain[0] if plain else data) for name, data, *plain in vision.all_files()]
    for name, data, plain in [(name, data, data) for name, data in pictures(vision)] + files:
        path = folder / name
        path.write_bytes(data)
        line = dump(program, out, [str(path)])[0]
        path.unlink()
        if line.startswith("error"):
            print(f"{name}: {line}")
            worst = float("inf")
            continue
        w, h, cols, rows, ms = line.split()
        w, h = int(w), int(h)
        reference = vision.upright_rgb(Image.open(io.BytesIO(plain)))
        found = out.read_bytes()
        rgb = np.frombuffer(found[: 3 * w * h], np.uint8).reshape(h, w, 3)
        bytes_off = np.abs(rgb.astype(int) - np.asarray(reference).astype(int)) if reference.size == (w, h) else None
        pixels = np.frombuffer(found[3 * w * h :], np.float32)
        off = float(np.abs(vision.normalised(Image.fromarray(rgb)).reshape(-1) - pixels).max())
        worst = max(worst, off)
        decoded = "WRONG SIZE" if bytes_off is None else f"max {bytes_off.max()} mean {bytes_off.mean():.3f}"
        print(f"{name}: {w}x{h} {cols}x{rows} decoded bytes off by {decoded}, pixels off by {off:.1e}, preprocess {ms} ms")
    print(f"pixels: worst {worst:.1e}")
    return worst <= MAX_DIFF


def check_bad(vision, program, out, folder):
    """Bad files: a message each, little memory."""
    for name, data, _ in vision.bad_files():
        path = folder / name
        path.write_bytes(data)
        print(f"{name}: {dump(program, out, [str(path)])[0]}")
    print(f"most memory of any run: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, required=True, help="the example dump_patches")
    parser.add_argument("--grids", type=int, default=10000, metavar="N", help="random sizes [10000]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bad", action="store_true", help="only show what becomes of bad files")
    args = parser.parse_args()
    vision = golden()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        out = folder / "out"
        if args.bad:
            check_bad(vision, args.dump, out, folder)
            return
        equal = check_grids(vision, args.dump, out, args.grids, args.seed)
        sys.exit(0 if check_pixels(vision, args.dump, out, folder) and equal else 1)


if __name__ == "__main__":
    main()
