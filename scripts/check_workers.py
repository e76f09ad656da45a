#!/usr/bin/env python3
"""Runs gust with a worker in another network namespace, and kills, cuts and counts (Linux, root, iproute2).

    scripts/check_workers.py GUST                         # the built-in model
    scripts/check_workers.py GUST -m MODEL -n 64 --ctx 4096

Two namespaces are joined by a pair of interfaces. `gust worker` runs in one, `gust run --worker` in the other; GUST is built
with `--features rpc`. Checked are: the text is what this machine writes alone (same device kind, greedy); the second start
sends less than 1 % of the first one's bytes, by the interface's own counter, where the model is large enough for that; a
killed worker, a killed client and a link that goes down end the other side within ten seconds with a line that names it;
the same goes for a computing process that is suspended and for an address that swallows all packets;
a wrong key and a plain ggml client are refused; the worker's process gives its memory back after each client. Interfaces
and namespaces are removed at the end.
"""

import argparse
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEAR, FAR = "gust-near", "gust-far"
NEAR_IP, FAR_IP = "10.200.0.1", "10.200.0.2"
BLACK_HOLE = "10.201.0.1"  # behind FAR, which forwards nothing
PORT = 50052
LIMIT_S = 10


def sh(*words: str) -> None:
    subprocess.run(words, check=True)


def make_network() -> None:
    remove_network()
    for name in (NEAR, FAR):
        sh("ip", "netns", "add", name)
    sh("ip", "link", "add", "gust-n", "netns", NEAR, "type", "veth", "peer", "name", "gust-f", "netns", FAR)
    for name, device, ip in ((NEAR, "gust-n", NEAR_IP), (FAR, "gust-f", FAR_IP)):
        sh("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", device)
        sh("ip", "-n", name, "link", "set", "lo", "up")
    link("up")
    sh("ip", "-n", NEAR, "route", "add", f"{BLACK_HOLE}/32", "via", FAR_IP)


def link(state: str) -> None:
    for name, device in ((NEAR, "gust-n"), (FAR, "gust-f")):
        sh("ip", "-n", name, "link", "set", device, state)
    if state == "up":
        time.sleep(1)


def remove_network() -> None:
    for name in (NEAR, FAR):
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def n_sent() -> int:
    """Bytes that the client's side has sent."""
    words = ["ip", "netns", "exec", NEAR, "cat", "/sys/class/net/gust-n/statistics/tx_bytes"]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def children(process: subprocess.Popen) -> list[int]:
    """Of a worker: what computes for its client."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


class Checks:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.n_failed = 0
        self.n_logs = 0
        self.key = folder / "key"
        self.key.write_text(subprocess.run([args.gust, "worker", "--new-key"], check=True, capture_output=True, text=True).stdout)
        self.key.chmod(0o600)

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        print(f"{'ok  ' if ok else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)
        self.n_failed += not ok

    def worker(self) -> tuple[subprocess.Popen, Path]:
        self.n_logs += 1
        log = self.folder / f"worker{self.n_logs}.log"
        words = ["ip", "netns", "exec", FAR, self.args.gust, "worker", "--listen", f"{FAR_IP}:{PORT}"]
        words += ["--worker-key", str(self.key), "--cache", str(self.folder / "cache")]
        if self.args.device:
            words += ["--device", self.args.device]
        process = subprocess.Popen(words, stderr=log.open("w"), stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while "listening" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return process, log

    def words(self, n: int, remote: bool = True, key: Path | None = None) -> list[str]:
        words = ["ip", "netns", "exec", NEAR, self.args.gust, "run", "-p", self.args.prompt, "--temp", "0", "-n", str(n)]
        words += ["--ctx", str(self.args.ctx)]
        if self.args.model:
            words += ["-m", self.args.model]
        if remote:
            words += ["--worker", f"{FAR_IP}:{PORT}", "--worker-key", str(key or self.key)]
        return words

    def run(self, **how) -> subprocess.CompletedProcess:
        return subprocess.run(self.words(self.args.n, **how), capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def texts_and_bytes(self) -> None:
        alone = self.run(remote=False)
        sent, texts = [], []
        process, log = self.worker()
        for _ in range(2):
            before, start = n_sent(), time.monotonic()
            done = self.run()
            texts.append(done.stdout)
            sent.append(n_sent() - before)
            self.check("a run with a worker", done.returncode == 0, f"{time.monotonic() - start:.1f} s, {sent[-1]:,} bytes sent")
            if done.returncode:
                print(done.stderr)
        self.check("both runs give one text", texts[0] == texts[1])
        self.check("the same text as this machine alone", texts[0] == alone.stdout, repr(texts[0][:60]))
        ratio = sent[1] / sent[0]
        is_small = sent[0] < 500e6
        self.check("the second start sends less than 1 %", ratio < 0.01 or is_small,
                   f"{ratio:.2%}" + (" of a model too small to judge by" if is_small else ""))
        process.send_signal(signal.SIGTERM)
        self.check("SIGTERM ends the worker with status 0", process.wait(LIMIT_S) == 0)
        print("".join("     " + line + "\n" for line in log.read_text().splitlines()), end="")

    def busy_client(self) -> subprocess.Popen:
        """A client that has begun to write."""
        words = self.words(self.args.ctx - 64) + ["--logit-bias", "2=-inf"]  # the token that would end the answer
        client = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  stdin=subprocess.DEVNULL)
        os.read(client.stdout.fileno(), 1)
        return client

    def harm(self, name: str, harm, words: list[str]) -> None:
        process, _ = self.worker()
        client = self.busy_client()
        start = time.monotonic()
        harm(process)
        try:
            _, stderr = client.communicate(timeout=LIMIT_S)
            took = time.monotonic() - start
            line = stderr.decode().strip().splitlines()[-1]
            ok = client.returncode == 1 and all(word in line for word in [f"{FAR_IP}:{PORT}", *words])
            self.check(name, ok, f"status {client.returncode} after {took:.1f} s: {line}")
        except subprocess.TimeoutExpired:
            client.kill()
            self.check(name, False, "the client hangs")
        process.kill()
        process.wait()

    def black_hole(self) -> None:
        words = [f"{BLACK_HOLE}:{PORT}" if word == f"{FAR_IP}:{PORT}" else word for word in self.words(1)]
        start = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        took = time.monotonic() - start
        line = done.stderr.strip().splitlines()[-1]
        self.check("a black hole", done.returncode == 1 and BLACK_HOLE in line and took < LIMIT_S, f"{took:.1f} s: {line}")

    def cut_seen_by_worker(self) -> None:
        process, log = self.worker()
        client = self.busy_client()
        start = time.monotonic()
        link("down")
        while "dropped" not in log.read_text() and time.monotonic() - start < LIMIT_S:
            time.sleep(0.05)
        took = time.monotonic() - start
        self.check("a cut link frees the worker", took < LIMIT_S, f"after {took:.1f} s")
        client.wait(LIMIT_S)
        link("up")
        done = self.run()
        self.check("and the next client is served", done.returncode == 0)
        client = self.busy_client()
        second = self.run()
        self.check("a second client is told that the worker is busy", second.returncode == 1 and "busy with" in second.stderr,
                   second.stderr.strip().splitlines()[-1])
        start = time.monotonic()
        client.kill()
        client.wait()
        done = self.run()
        self.check("a killed client makes room", done.returncode == 0, f"{time.monotonic() - start:.1f} s")
        self.check("no process is left for clients that are gone", not children(process))
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)

    def strangers(self) -> None:
        process, log = self.worker()
        other = self.folder / "other-key"
        other.write_text("another key for this test")
        start = time.monotonic()
        done = self.run(key=other)
        self.check("a wrong key", done.returncode == 1 and "wrong key" in done.stderr and time.monotonic() - start < LIMIT_S,
                   done.stderr.strip().splitlines()[-1])
        hello = bytes([14]) + struct.pack("<Q", 24) + bytes(24)
        code = (f"import socket; s = socket.create_connection(('{FAR_IP}', {PORT})); s.sendall({hello!r}); "
                "s.settimeout(8); print(len(s.recv(100)))")
        plain = subprocess.run(["ip", "netns", "exec", NEAR, sys.executable, "-c", code], capture_output=True, text=True)
        self.check("a plain ggml client is told nothing", plain.stdout.strip() == "0" or "reset" in plain.stderr)
        text = log.read_text()
        self.check("both are in the worker's log", "wrong key" in text and "plain ggml RPC" in text)
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)
        done = self.run()
        self.check("no worker", done.returncode == 1 and "cannot connect" in done.stderr, done.stderr.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gust", help="the program, built with --features rpc")
    parser.add_argument("-m", "--model", help="a GGUF file [default: the built-in model]")
    parser.add_argument("-n", type=int, default=24, help="tokens of each text")
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--prompt", default="The wind")
    parser.add_argument("--device", help="what the worker lends [default: its GPUs, or the CPU]")
    args = parser.parse_args()
    args.gust = str(Path(args.gust).resolve())
    make_network()
    try:
        with tempfile.TemporaryDirectory() as folder:
            checks = Checks(args, Path(folder))
            checks.texts_and_bytes()
            checks.harm("a killed worker", lambda process: process.kill(), ["connection lost"])
            checks.harm("a stopped worker", lambda process: process.terminate(), ["connection lost", "stopped"])
            checks.harm("a suspended server", lambda process: os.kill(children(process)[0], signal.SIGSTOP),
                        ["connection lost", "suspended"])
            checks.black_hole()
            checks.harm("a cut link", lambda process: link("down"), ["connection lost"])
            link("up")
            checks.cut_seen_by_worker()
            checks.strangers()
    finally:
        remove_network()
    print("all is well" if not checks.n_failed else f"{checks.n_failed} checks failed")
    return 1 if checks.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
