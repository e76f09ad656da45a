#!/usr/bin/env python3
"""Time, memory and disk from a checkpoint to a quantized GGUF, beside llama.cpp.

gust does it in one pass. llama.cpp takes two: its converter writes a BF16 file, llama-quantize reads that. The two ways
are run in turn, `--rounds` times, each after the page cache has read the checkpoint once; medians are printed. Bytes
written are those that the kernel counts for the process.

    scripts/synth_checkpoint.py --tekken TEKKEN --out CHECKPOINT
    scripts/bench_convert.py CHECKPOINT --gust target/release/gust --llama-cpp DIR --llama-bin DIR/build/bin
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(command: list, env: dict) -> tuple[float, float, float]:
    """Wall seconds, peak MiB and GB written of a command that must succeed."""
    start = time.monotonic()
    child = subprocess.Popen([str(part) for part in command], env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{stderr.decode(errors='replace')[-2000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, usage.ru_oublock * 512 / 1e9


def read_all(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="in Mistral's layout")
    parser.add_argument("--gust", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="source, with convert_hf_to_gguf.py")
    parser.add_argument("--llama-bin", type=Path, required=True, help="folder of llama-quantize")
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    ways = {"gust": [], "llama.cpp": [], "· convert": [], "· quantize": []}
    with tempfile.TemporaryDirectory(dir=args.checkpoint.parent) as folder:
        ours, between, theirs = (Path(folder, name) for name in ("gust.gguf", "bf16.gguf", "llama.gguf"))
        for _ in range(args.rounds):
            read_all(args.checkpoint)
            ways["gust"].append(measure([args.gust, "convert", args.checkpoint, "-o", ours, "--type", args.type, "--threads", args.threads, "--no-mmproj", "--force"], {}))
            read_all(args.checkpoint)
            convert = [sys.executable, args.llama_cpp / "convert_hf_to_gguf.py", args.checkpoint, "--outfile", between, "--outtype", "bf16", "--mistral-format"]
            first = measure(convert, {"PYTHONPATH": str(args.llama_cpp / "gguf-py")})
            second = measure([args.llama_bin / "llama-quantize", between, theirs, args.type, args.threads], {})
            ways["· convert"].append(first)
            ways["· quantize"].append(second)
            ways["llama.cpp"].append((first[0] + second[0], max(first[1], second[1]), first[2] + second[2]))
            between.unlink()
            theirs.unlink()
    medians = {way: [statistics.median(column) for column in zip(*rows)] for way, rows in ways.items()}
    print(f"{'':12} {'wall s':>8} {'peak MiB':>9} {'written GB':>11}")
    for way, (wall, peak, written) in medians.items():
        print(f"{way:12} {wall:8.1f} {peak:9.0f} {written:11.2f}")
    ratios = [a[0] / b[0] for a, b in zip(ways["gust"], ways["llama.cpp"])]
    print(f"wall ratio gust / llama.cpp: {statistics.median(ratios):.3f} (rounds: {', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
