#!/usr/bin/env python3
"""Measures `gust serve` and llama.cpp's `llama-server` side by side under 1, 4, 16 and 64 clients; prints a Markdown table.

Both serve the same file with the same threads, slots and context, and both are asked by the same client, the example `load`
of this repository, over /v1/chat/completions with streams: questions of random words, answers of equal length (the end token
is biased away). Rounds are interleaved, and each round starts with the other server than the round before. A cell is the
median over the rounds; a ratio is the median of the rounds' own ratios, turned so that above 1 gust is better.

    cargo build --release && cargo build --release --example load
    scripts/compare_serve.py --llama-server PATH

Only one of the servers runs at a time. Memory is the peak resident set of all processes of a server.
"""

import argparse
import json
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Key in the client's report, heading, and whether more is better.
CELLS = [
    ("requests_per_s", "requests/s", True),
    ("ttft_p50_ms", "first token p50, ms", False),
    ("ttft_p99_ms", "first token p99, ms", False),
    ("gap_p99_ms", "between tokens p99, ms", False),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server that has loaded its model; ended by `stop`."""

    def __init__(self, command: list[str], port: int):
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"did not become ready: {' '.join(command)}")

    def resident_mib(self) -> float:
        """Peak resident set of the process and its children, added up."""
        total, waiting = 0.0, [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                # A child belongs to the thread that started it.
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (thread / "children").read_text().split())
            except OSError:
                continue
            found = re.search(r"VmHWM:\s+(\d+)", status)
            total += int(found[1]) / 1024 if found else 0
        return total

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(args: argparse.Namespace, which: str, n_clients: int, seed: int) -> dict:
    port = free_port()
    common = ["-m", str(args.model), "-t", str(args.threads), "--host", "127.0.0.1", "--port", str(port)]
    if which == "gust":
        command = [str(args.gust), "serve", *common, "--slots", str(args.slots), "--ctx", str(args.ctx), "--queue", "256"]
    else:
        command = [str(args.llama_server), *common, "-np", str(args.slots), "-c", str(args.ctx), "--jinja", "--no-webui"]
    server = Server(command, port)
    load = [str(args.load), server.address, str(n_clients)]
    try:
        subprocess.run([*load, "1", str(args.tokens), str(args.words), str(seed + 500)], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([*load, str(args.seconds), str(args.tokens), str(args.words), str(seed)], check=True, stdout=subprocess.PIPE)
        report = json.loads(done.stdout)
        report["memory_mib"] = server.resident_mib()
    finally:
        server.stop()
    if report["failed"]:
        print(f"{which}: {report['failed']} of {report['requests']} requests failed with {n_clients} clients", file=sys.stderr)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--gust", type=Path, default=ROOT / "target/release/gust")
    parser.add_argument("--load", type=Path, default=ROOT / "target/release/examples/load")
    parser.add_argument("--model", type=Path, default=ROOT / "models/tiny/tiny-Q8_0.gguf")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--words", type=int, default=60, help="of each question")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--ctx", type=int, default=32768, help="of all slots together")
    args = parser.parse_args()

    print("| clients | | gust | llama-server | ratio |\n|---|---|---|---|---|")
    logs, worst = [], math.inf
    for n_clients in args.clients:
        reports: dict[str, list[dict]] = {"gust": [], "llama": []}
        for i in range(args.rounds):
            for which in ["gust", "llama"] if i % 2 == 0 else ["llama", "gust"]:
                reports[which].append(measure(args, which, n_clients, i))
        for key, heading, more_is_better in CELLS:
            ours, theirs = ([report[key] for report in reports[which]] for which in ["gust", "llama"])
            pairs = [o / t if more_is_better else t / o for o, t in zip(ours, theirs)]
            ratio = statistics.median(pairs)
            logs.append(math.log(ratio))
            worst = min(worst, ratio)
            print(f"| {n_clients} | {heading} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | {ratio:.2f} |", flush=True)
        memory = {which: statistics.median(report["memory_mib"] for report in reports[which]) for which in reports}
        answers = {which: statistics.median(report["events_per_answer"] for report in reports[which]) for which in reports}
        print(
            f"{n_clients} clients: peak MiB {memory['gust']:.0f} and {memory['llama']:.0f}, "
            f"events an answer {answers['gust']:.0f} and {answers['llama']:.0f}",
            file=sys.stderr,
        )
    print(f"\nGeometric mean {math.exp(statistics.fmean(logs)):.2f}, lowest cell {worst:.2f}.")


if __name__ == "__main__":
    main()
