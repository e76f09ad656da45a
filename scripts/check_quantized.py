#!/usr/bin/env python3
"""Checks gust's numbers on quantized files against llama.cpp's on the same files and KV type.

llama.cpp does not give the same logits at batch 1 and at batch 512: other kernels, other roundings. That difference is the
yardstick: gust may lie twice as far from llama.cpp as llama.cpp from itself.

  dump    writes llama.cpp's logits of one token sequence at batch 1 and 512: DIR/NAME.b1.logits and DIR/NAME.b512.logits
          (raw little-endian f32, [n_tokens][n_vocab]), with the program that llama_logits.cpp builds
  logits  compares gust's logits in the same format, GUST/NAME.logits or GUST/NAME.b1.logits and GUST/NAME.b512.logits,
          with those dumps: largest and rms difference, relative to the largest logit
  nll     compares `gust perplexity --json` with llama-perplexity on one text, in nats per token

NAME is the GGUF file's name without .gguf. Differences are taken position by position; exit code 1 if any check fails.
"""

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

TIMES_SPREAD = 2.0  # how many times llama.cpp's own spread gust may differ
NLL_FLOOR = 1e-3  # nats per token that never count as a difference: two sums may agree by chance


def dump(args: argparse.Namespace) -> bool:
    """Writes llama.cpp's logits of every model."""
    args.dir.mkdir(parents=True, exist_ok=True)
    ids = json.loads(args.ids.read_text())
    (args.dir / "ids.json").write_text(json.dumps(ids) + "\n")
    print(f"{len(ids)} tokens, KV {args.kv}\n\n| file | rms b1 - b512 | max b1 - b512 | largest logit |\n|---|---:|---:|---:|")
    for model in args.models:
        out = {}
        for batch in (1, 512):
            path = args.dir / f"{model.stem}.b{batch}.logits"
            command = [args.llama_logits, model, args.dir / "ids.json", path, "--batch", str(batch), "--kv", args.kv, *args.extra]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            out[batch] = load(path, len(ids))
        rms, worst = difference(out[1], out[512])
        print(f"| {model.stem} | {rms:.2e} | {worst:.2e} | {np.abs(out[512]).max():.2f} |")
    return True


def load(path: Path, n_tokens: int) -> np.ndarray:
    """Logits of a dump, one row per token."""
    return np.fromfile(path, "<f4").reshape(n_tokens, -1)


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Rms and largest difference, relative to the largest logit."""
    delta, scale = (a - b).astype(np.float64), np.abs(b).max()
    return float(np.sqrt((delta**2).mean()) / scale), float(np.abs(delta).max() / scale)


def logits(args: argparse.Namespace) -> bool:
    """Compares gust's dumps with llama.cpp's."""
    n_tokens = len(json.loads((args.dir / "ids.json").read_text()))
    print("| file | gust at | against | rms | max | spread rms | spread max | top-1 equal | |\n|---|---|---|---:|---:|---:|---:|---:|---|")
    good = True
    for path in sorted(args.dir.glob("*.b512.logits")):
        name = path.name.removesuffix(".b512.logits")
        llama = {batch: load(args.dir / f"{name}.b{batch}.logits", n_tokens) for batch in ("1", "512")}
        spread = difference(llama["1"], llama["512"])
        own = {b: args.gust / f"{name}.b{b}.logits" for b in ("1", "512")} | {"one dump": args.gust / f"{name}.logits"}
        present = {at: load(p, n_tokens) for at, p in own.items() if p.exists()}
        if not present:
            print(f"| {name} | no dump in {args.gust} | | | | | | | FAIL |")
            good = False
        for at, ours in present.items():
            # Against the same batch size where it is known, otherwise against the nearer of the two.
            against = at if at in llama else min(llama, key=lambda b: difference(ours, llama[b])[0])
            rms, worst = difference(ours, llama[against])
            ok = rms <= TIMES_SPREAD * spread[0] and worst <= TIMES_SPREAD * spread[1]
            same = (ours.argmax(1) == llama[against].argmax(1)).mean()
            print(f"| {name} | {at} | b{against} | {rms:.2e} | {worst:.2e} | {spread[0]:.2e} | {spread[1]:.2e} | {same:.1%} | {'ok' if ok else 'FAIL'} |")
            good &= ok
    return good


def llama_nll(args: argparse.Namespace, model: Path, batch: int) -> float:
    """Nats per token by llama-perplexity."""
    command = [args.llama_cpp / "llama-perplexity", "-m", model, "-f", args.file, "-c", str(args.ctx), "--chunks", str(args.chunks),
               "-b", str(batch), "-ub", str(batch), "-ctk", args.kv, "-ctv", args.kv, "-t", str(args.threads)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    found = re.search(rb"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if not found:
        sys.exit(f"llama-perplexity printed no estimate: {done.stderr[-500:].decode(errors='replace')}")
    return math.log(float(found[1]))


def gust_nll(args: argparse.Namespace, model: Path) -> float:
    """Nats per token by gust perplexity."""
    command = [args.gust, "perplexity", "-m", model, "-f", args.file, "--ctx", str(args.ctx), "--chunks", str(args.chunks), "--json",
               "--cache-type-k", args.kv, "--cache-type-v", args.kv, "-t", str(args.threads)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"gust perplexity: exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    result = json.loads(done.stdout)
    expected = args.chunks * (args.ctx // 2 - 1)
    if result["n_tokens"] != expected:
        sys.exit(f"gust scored {result['n_tokens']} tokens of {model.name}, llama.cpp {expected}")
    return result["nll"] / result["n_tokens"]


def nll(args: argparse.Namespace) -> bool:
    """Compares the perplexities."""
    print("| file | gust | llama.cpp b512 | llama.cpp b1 | gust - b512 | b1 - b512 | |\n|---|---:|---:|---:|---:|---:|---|")
    good = True
    for model in args.models:
        at512, at1 = (llama_nll(args, model, batch) for batch in (512, 1))
        ours = gust_nll(args, model) if args.gust else math.nan
        ok = math.isnan(ours) or abs(ours - at512) <= max(TIMES_SPREAD * abs(at1 - at512), NLL_FLOOR)
        print(f"| {model.stem} | {ours:.6f} | {at512:.6f} | {at1:.6f} | {ours - at512:+.1e} | {at1 - at512:+.1e} | {'ok' if ok else 'FAIL'} |")
        good &= ok
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="dump|logits|nll")

    p = commands.add_parser("dump", help="write llama.cpp's logits")
    p.add_argument("--llama-logits", required=True, help="the program built from llama_logits.cpp")
    p.add_argument("--ids", type=Path, required=True, help="JSON array of token ids")
    p.add_argument("--dir", type=Path, required=True, help="directory of the dumps")
    p.add_argument("--kv", default="f16", help="KV cache type [%(default)s]")
    p.add_argument("--extra", nargs="*", default=[], help="more flags for llama_logits, e.g. --extra=--no-flash-attn")
    p.add_argument("models", type=Path, nargs="+", metavar="MODEL.gguf")
    p.set_defaults(run=dump)

    p = commands.add_parser("logits", help="compare gust's logits with the dumps")
    p.add_argument("--dir", type=Path, required=True, help="directory that `dump` wrote")
    p.add_argument("--gust", type=Path, required=True, help="directory with gust's dumps")
    p.set_defaults(run=logits)

    p = commands.add_parser("nll", help="compare perplexities")
    p.add_argument("--gust", help="gust's program; without it only llama.cpp is measured")
    p.add_argument("--llama-cpp", type=Path, required=True, metavar="DIR", help="directory with llama-perplexity")
    p.add_argument("-f", "--file", required=True, help="text")
    p.add_argument("--ctx", type=int, default=256, help="tokens in a window [%(default)s]")
    p.add_argument("--chunks", type=int, default=8, help="windows [%(default)s]")
    p.add_argument("--kv", default="f16", help="KV cache type [%(default)s]")
    p.add_argument("-t", "--threads", type=int, default=1)
    p.add_argument("models", type=Path, nargs="+", metavar="MODEL.gguf")
    p.set_defaults(run=nll)

    args = parser.parse_args()
    return 0 if args.run(args) else 1


if __name__ == "__main__":
    sys.exit(main())
