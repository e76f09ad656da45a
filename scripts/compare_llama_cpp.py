#!/usr/bin/env python3
"""Measures gust and llama.cpp side by side on one file with the same threads and KV type; prints Markdown tables.

Runs are interleaved and each pair starts with the other program than the pair before, so that a machine that slows down
slows both. A figure is the median over the pairs, with the range; a ratio is the median of the pairs' own ratios.

  speed        `llama-bench` against `gust bench`, one repetition each per pair
  first token  from start of the process to the first byte of the answer, and to its end: `llama-completion` against
               `gust run --raw`, one token, temperature 0, the file in the page cache; llama.cpp also without its warm-up
  memory       peak resident set of the processes of both measurements, mapped file pages included

With as many threads as cores one busy neighbour halves the speed of either program. So a run during which other processes
used more than --others cores is thrown away and repeated, up to --retries times; the last line says how many were kept
although disturbed. llama.cpp's programs (llama-bench, llama-completion) are those in --llama-cpp. Use a
release build.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def busy_seconds() -> float:
    """CPU seconds that this machine has spent on anything but idling, all cores together (Linux; elsewhere 0)."""
    try:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Run:
    """One finished process: its stdout, seconds to the first byte and to the end, peak resident MiB, others' use of the CPU."""

    def __init__(self, command: list[str]):
        with tempfile.TemporaryFile() as errors:
            start, busy = time.monotonic(), busy_seconds()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
            fd = process.stdout.fileno()
            pieces, self.first_byte = [], None
            while piece := os.read(fd, 65536):
                self.first_byte = self.first_byte or time.monotonic() - start
                pieces.append(piece)
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds = time.monotonic() - start
            ticks = 0.02  # the kernel counts in steps of 10 ms, at either end
            self.others = max(0.0, busy_seconds() - busy - usage.ru_utime - usage.ru_stime - ticks) / self.seconds
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                errors.seek(0)
                sys.exit(f"{' '.join(command)}\nexit code {process.returncode}: {errors.read()[-2000:].decode(errors='replace')}")
        self.stdout = b"".join(pieces)
        self.first_byte = self.first_byte or self.seconds
        self.peak_mib = usage.ru_maxrss / 1024


def bench_rows(run: Run, speed_key: str) -> dict[str, float]:
    """Tokens per second of every case of a bench run."""
    rows = {}
    for row in json.loads(run.stdout):
        name = f"prefill {row['n_prompt']}" if row["n_prompt"] else f"decode {row['n_gen']}"
        rows[name + (f" at {row['n_depth']}" if row.get("n_depth") else "")] = row[speed_key]
    return rows


def undisturbed(command: list[str], args: argparse.Namespace) -> Run:
    """Runs the command until no other process has taken part of the machine meanwhile, or the retries are used up."""
    for _ in range(args.retries):
        run = Run(command)
        if run.others <= args.others:
            return run
        print(f"  others used {run.others:.2f} cores: once more", file=sys.stderr)
        time.sleep(2)
    return Run(command)


def interleave(args: argparse.Namespace, sides: dict[str, list[str]], what: str) -> dict[str, list[Run]]:
    """Runs every side once per pair, in an order that rotates."""
    runs = {side: [] for side in sides}
    for i in range(args.pairs):
        order = list(sides)
        for side in order[i % len(order):] + order[: i % len(order)]:
            print(f"{what} {i + 1}/{args.pairs}: {side}", file=sys.stderr)
            runs[side].append(undisturbed(sides[side], args))
    return runs


def disturbed(runs: dict[str, list[Run]], args: argparse.Namespace) -> str:
    """How many of the kept runs were disturbed."""
    every = [run for side in runs.values() for run in side]
    return f"{sum(run.others > args.others for run in every)} of {len(every)} runs disturbed by other processes"


def row(name: str, gust: list[float], llama: list[float], digits: int) -> str:
    """One line of a table: both medians with their ranges, and the median ratio."""
    ratio = statistics.median(g / l for g, l in zip(gust, llama))
    cells = [f"{statistics.median(v):.{digits}f} ({min(v):.{digits}f} to {max(v):.{digits}f})" for v in (gust, llama)]
    return f"| {name} | {cells[0]} | {cells[1]} | {ratio:.3f} |"


def speed(args: argparse.Namespace) -> list[str]:
    """The table of speeds."""
    common = ["-m", args.model, "-t", str(args.threads), "-p", args.prefill, "-n", args.decode, "-d", args.depth, "-r", "1", "-o", "json"]
    runs = interleave(args, {
        "gust": [args.gust, "bench", *common, "--cache-type-k", args.kv, "--cache-type-v", args.kv, *args.gust_extra],
        "llama.cpp": [str(args.llama_cpp / "llama-bench"), *common, "-ctk", args.kv, "-ctv", args.kv],
    }, "bench")
    gust = [bench_rows(run, "tokens_per_s") for run in runs["gust"]]
    llama = [bench_rows(run, "avg_ts") for run in runs["llama.cpp"]]
    cases = [case for case in llama[0] if case in gust[0]]
    if missing := set(llama[0]) ^ set(gust[0]):
        sys.exit(f"only one of the two benches measured {sorted(missing)}")
    lines = ["| tokens/s | gust | llama.cpp | gust / llama.cpp |", "|---|---:|---:|---:|"]
    lines += [row(case, [r[case] for r in gust], [r[case] for r in llama], 2) for case in cases]
    lines.append(row("peak memory of bench, MiB", [r.peak_mib for r in runs["gust"]], [r.peak_mib for r in runs["llama.cpp"]], 0))
    return [*lines, "", disturbed(runs, args)]


def first_token(args: argparse.Namespace) -> list[str]:
    """The table of start-up times and memory."""
    with open(args.model, "rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    common = ["-m", args.model, "-t", str(args.threads), "-p", args.prompt, "--temp", "0"]
    llama = [str(args.llama_cpp / "llama-completion"), *common, "-n", "1", "-no-cnv", "--no-display-prompt", "-c", str(args.ctx),
             "-ctk", args.kv, "-ctv", args.kv]
    runs = interleave(args, {
        "gust": [args.gust, "run", *common, "--raw", "--max-tokens", "1", "--ctx", str(args.ctx), "--cache-type-k", args.kv,
                 "--cache-type-v", args.kv, *args.gust_extra],
        "llama.cpp": llama,
        "llama.cpp without warm-up": [*llama, "--no-warmup"],
    }, "first token")
    lines = []
    for side in ("llama.cpp", "llama.cpp without warm-up"):
        lines += [f"| one token, ctx {args.ctx} | gust | {side} | gust / llama.cpp |", "|---|---:|---:|---:|"]
        for name, value, digits in (("start to first byte, s", lambda r: r.first_byte, 3), ("start to end, s", lambda r: r.seconds, 3),
                                    ("peak memory, MiB", lambda r: r.peak_mib, 0)):
            lines.append(row(name, [value(r) for r in runs["gust"]], [value(r) for r in runs[side]], digits))
        lines.append("")
    return [*lines, disturbed(runs, args)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gust", default="target/release/gust", help="gust's program [%(default)s]")
    parser.add_argument("--llama-cpp", type=Path, required=True, metavar="DIR", help="directory with llama.cpp's programs")
    parser.add_argument("-m", "--model", required=True, help="GGUF file that both load")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count(), help="threads of both [%(default)s]")
    parser.add_argument("-p", "--prefill", default="128,512", help="prompt lengths [%(default)s]")
    parser.add_argument("-n", "--decode", default="64", help="generated tokens [%(default)s]")
    parser.add_argument("-d", "--depth", default="0", help="context depths [%(default)s]")
    parser.add_argument("--kv", default="f16", help="type of both halves of the KV cache [%(default)s]")
    parser.add_argument("--ctx", type=int, default=4096, help="context of the first-token runs [%(default)s]")
    parser.add_argument("--prompt", default="The capital of France is", help="prompt of the first-token runs")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs [%(default)s]")
    parser.add_argument("--gust-extra", nargs="*", default=[], help="more flags for gust, e.g. --gust-extra=--no-repack")
    parser.add_argument("--others", type=float, default=0.1, metavar="CORES", help="CPU use of others that spoils a run [%(default)s]")
    parser.add_argument("--retries", type=int, default=5, help="repetitions of a spoiled run [%(default)s]")
    parser.add_argument("--only", choices=["speed", "first-token"], help="measure one part only")
    args = parser.parse_args()

    busy = os.getloadavg()[0]
    print(f"{Path(args.model).name}, {Path(args.model).stat().st_size / 1e9:.2f} GB, {args.threads} threads, KV {args.kv}, "
          f"medians of {args.pairs} interleaved pairs, load average before {busy:.2f}\n")
    if args.only != "first-token":
        print("\n".join(speed(args)), end="\n\n", flush=True)
    if args.only != "speed":
        print("\n".join(first_token(args)))


if __name__ == "__main__":
    main()
