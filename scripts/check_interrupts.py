#!/usr/bin/env python3
"""Kills a command of gust that writes files at random points, runs it again, and compares what comes out.

    scripts/check_interrupts.py GUST -n 50 -- convert DIR -o {out}.gguf --type Q4_K_M
    scripts/check_interrupts.py GUST -n 50 --full-disk             # splits a file of random numbers

After `--` stands the command, with {out} where a name without its ending belongs; without one, a file of --mib MiB is made
and split. The command runs once undisturbed, which tells its time and its files. Then it is started again and again, each
time ended after a random time by a random one of --signals, until it has been ended -n times; whenever it comes to its end,
its files are compared (sha256) and removed, and it begins anew. At no time may a file under a final name be another than
the undisturbed run's, and every run must end well or by its signal.

--full-disk (Linux, root) does the same on a tmpfs that other files fill while the command runs: it must fail with a message
that names the file, and go on to the same bytes when there is room again.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make_gguf(path: Path, mib: int) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "numbers")
    rng = np.random.default_rng(1)
    for i in range(8):
        writer.add_tensor(f"t{i}", rng.standard_normal((mib * 32, 1024), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finals(folder: Path) -> dict[str, str]:
    """Hashes of the finished files of a folder, by name without the prefix."""
    names = [path for path in sorted(folder.iterdir()) if path.suffix not in (".partial", ".journal", ".filler")]
    return {path.name: sha256(path) for path in names}


def fail(message: str) -> None:
    sys.exit(f"FAILED: {message}")


class Check:
    def __init__(self, command: list[str], work: Path):
        self.command = command
        whole = work / "whole"
        whole.mkdir()
        start = time.monotonic()
        subprocess.run(self.argv(whole), check=True, stderr=subprocess.DEVNULL)
        self.seconds = time.monotonic() - start
        self.expected = finals(whole)
        self.n_bytes = sum(path.stat().st_size for path in whole.iterdir())
        print(f"undisturbed: {self.seconds:.2f} s, {self.n_bytes / 1e6:.1f} MB in {len(self.expected)} files", flush=True)

    def argv(self, folder: Path) -> list[str]:
        return [part.replace("{out}", str(folder / "out")) for part in self.command]

    def compare(self, folder: Path, complete: bool) -> None:
        found = finals(folder)
        if complete and found != self.expected:
            fail(f"the files differ: {found}, expected {self.expected}")
        for name, digest in found.items():
            if self.expected.get(name) != digest:
                fail(f"{name} is not what an undisturbed run writes")

    def finish(self, folder: Path) -> None:
        done = subprocess.run(self.argv(folder), capture_output=True, text=True)
        # A run that was killed between its last rename and its end left nothing to do.
        if done.returncode != 0 and not ("exists" in done.stderr and finals(folder) == self.expected):
            fail(f"exit code {done.returncode}: {done.stderr}")
        self.clear(folder)

    def clear(self, folder: Path) -> None:
        self.compare(folder, complete=True)
        for path in folder.iterdir():
            if path.suffix in (".partial", ".journal"):
                fail(f"{path.name} was left")
            path.unlink()

    def interrupt(self, folder: Path, n: int, signals: list[signal.Signals]) -> None:
        n_ended = n_finished = n_runs = 0
        while n_ended < n:
            process = subprocess.Popen(self.argv(folder), stderr=subprocess.PIPE, text=True)
            time.sleep(random.random() * self.seconds * 0.8)
            sent = random.choice(signals)
            process.send_signal(sent)
            _, stderr = process.communicate()
            n_runs += 1
            if process.returncode == 0:
                n_finished += 1
                self.clear(folder)
                continue
            if process.returncode not in (-sent, 128 + sent):
                if "exists" in stderr and finals(folder) == self.expected:
                    self.clear(folder)
                    continue
                fail(f"{sent.name}: exit code {process.returncode}: {stderr}")
            n_ended += 1
            self.compare(folder, complete=False)
        self.finish(folder)
        print(f"{n_runs} runs, {n_ended} ended by {'/'.join(s.name for s in signals)}, {n_finished} finished: same bytes")

    def full_disk(self, folder: Path) -> None:
        size = self.n_bytes + (4 << 20)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        try:
            n_full = 0
            for share in (0.0, 0.3, 0.6, 0.9):
                process = subprocess.Popen(self.argv(folder), stderr=subprocess.PIPE, text=True)
                while process.poll() is None and used(folder) < share * self.n_bytes:
                    time.sleep(0.001)
                filler = folder / "x.filler"
                with filler.open("wb", buffering=0) as file:
                    try:
                        while process.poll() is None:
                            file.write(bytes(1 << 20))
                    except OSError:
                        pass
                _, stderr = process.communicate()
                if process.returncode == 1 and ("No space left" in stderr or "not enough space" in stderr):
                    n_full += 1
                    print(stderr.strip().splitlines()[-1])
                elif process.returncode != 0:
                    fail(f"full disk: exit code {process.returncode}: {stderr}")
                self.compare(folder, complete=False)
                filler.unlink()
                if process.returncode == 0:
                    self.clear(folder)
            self.finish(folder)
            print(f"4 runs on a disk that fills, {n_full} failed with a reason: same bytes")
        finally:
            subprocess.run(["umount", folder], check=True)


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gust", type=Path)
    parser.add_argument("-n", type=int, default=20, help="how often the command is ended [20]")
    parser.add_argument("--signals", default="KILL,TERM,INT", help="which signals [KILL,TERM,INT]")
    parser.add_argument("--mib", type=int, default=64, help="size of the file that is made [64]")
    parser.add_argument("--full-disk", action="store_true", help="also fill the disk meanwhile (root)")
    parser.add_argument("--work", type=Path, help="folder for scratch files [a temporary one]")
    parser.add_argument("--seed", type=int, default=1)
    options, command = (sys.argv[1:], [])
    if "--" in options:
        at = options.index("--")
        options, command = options[:at], options[at + 1 :]
    args = parser.parse_args(options)
    random.seed(args.seed)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        work = Path(work)
        if not command:
            make_gguf(work / "in.gguf", args.mib)
            command = ["split", str(work / "in.gguf"), "{out}", "--max-tensors", "3"]
        check = Check([str(args.gust.resolve()), *command], work)
        for name in ("killed", "full"):
            (work / name).mkdir()
        check.interrupt(work / "killed", args.n, [signal.Signals[f"SIG{name}"] for name in args.signals.split(",")])
        if args.full_disk:
            if os.geteuid() != 0:
                print("not root: the full disk is left out")
            else:
                check.full_disk(work / "full")


if __name__ == "__main__":
    main()
