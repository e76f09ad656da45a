#!/usr/bin/env python3
"""Measures how fast gust and llama.cpp's mtmd encode pictures with one projector file; prints a Markdown table.

At 224² and 448² both cut a picture into the same grid of tokens. Each side runs in a process of its own, once with one picture
and once with --images of them; what the additional pictures cost, divided by their number, is the figure, so loading, warm-up
and the first picture don't count. Pairs are interleaved and each starts with the other program than the pair before; a figure
is the median over the pairs, with the range, and a ratio is the median of the pairs' own ratios.

  CPU time    seconds of processor time that the additional pictures took; with --threads 1 and nothing else on the machine it
              equals the time that passes, and where others compute as well it still says which program has less to do. llama.cpp's
              includes the language model reading the picture, so let that model be thin (scripts/synth_mmproj.py --text)
  wall time   medians of what both programs report for each picture; only of use on an otherwise idle machine

gust's side is the example encode_image; use release builds. Both get pictures of noise, llama.cpp as PNG files, which
scripts/compare_mtmd.py writes with Pillow.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 28  # pixels along a token


def run(command: list[str], reported: str) -> tuple[float, list[float]]:
    """CPU seconds of the process, and the milliseconds that it reports for each picture."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit code {process.returncode}: {text[-2000:]}")
    return usage.ru_utime, [float(ms) for ms in re.findall(reported, text, re.MULTILINE)]


def measure(args: argparse.Namespace, size: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds and reported seconds of one picture, for each pair and side."""
    png = folder / f"{size}.png"
    noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png)
    tokens, threads = size // SIDE, str(args.threads)

    def gust(n: int) -> list[str]:
        return [args.encode_image, args.model, args.mmproj, f"{tokens}x{tokens}", str(n - 1), threads]

    def llama(n: int) -> list[str]:
        return [str(args.llama_cpp / "llama-mtmd-cli"), "-m", args.model, "--mmproj", args.mmproj, "--image", ",".join([str(png)] * n),
                "-p", "hi", "-n", "1", "-t", threads, "-c", "8192", "--temp", "0", "--chat-template", "mistral-v7"]

    sides = {"gust": (gust, r"^([\d.]+)$"), "llama.cpp": (llama, r"(?:done|encoded) in (\d+) ms")}
    figures = {side: [] for side in sides}
    for pair in range(args.pairs):
        order = list(sides)[:: 1 if pair % 2 == 0 else -1]
        for side in order:
            print(f"{size}² {pair + 1}/{args.pairs}: {side}", file=sys.stderr)
            command, reported = sides[side]
            cpu_one, _ = run(command(1), reported)
            cpu_all, ms = run(command(args.images), reported)
            figures[side].append(((cpu_all - cpu_one) / (args.images - 1), statistics.median(ms) / 1e3))
    return figures


def row(name: str, gust: list[float], llama: list[float]) -> str:
    """One line of the table: both medians with their ranges, and the median ratio of speeds."""
    ratio = statistics.median(l / g for g, l in zip(gust, llama))
    cells = [f"{statistics.median(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in (gust, llama)]
    return f"| {name} | {cells[0]} | {cells[1]} | {ratio:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode-image", default="target/release/examples/encode_image", help="gust's side [%(default)s]")
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="DIR", help="directory with llama.cpp's programs")
    parser.add_argument("-m", "--model", required=True, help="language model that both load")
    parser.add_argument("--mmproj", required=True, help="projector file that both load")
    parser.add_argument("-t", "--threads", type=int, default=1, help="threads of both [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 448], help="pixels along a side [%(default)s]")
    parser.add_argument("--images", type=int, default=5, help="pictures a process [%(default)s]")
    parser.add_argument("--pairs", type=int, default=3, help="interleaved pairs [%(default)s]")
    args = parser.parse_args()

    print(f"{Path(args.mmproj).name}, {args.threads} threads, medians of {args.pairs} interleaved pairs, load average before {os.getloadavg()[0]:.2f}\n")
    print("| seconds a picture | gust | llama.cpp | speed of gust / llama.cpp |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            figures = measure(args, size, Path(folder))
            for i, kind in enumerate(("CPU time", "wall time")):
                print(row(f"{size}², {kind}", *([pair[i] for pair in figures[side]] for side in ("gust", "llama.cpp"))), flush=True)


if __name__ == "__main__":
    main()
