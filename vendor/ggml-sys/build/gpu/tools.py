"""Runs compilers side by side and keeps what they made.

An object's name ends in the hash of all that went into it: compiler, flags, source and headers. If the file is there, the work
is done, whichever run did it; a file gets its name only when it is complete.
"""

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


class Failure(Exception):
    """What the user must know or do."""


@dataclass
class Unit:
    """One object to be: `command` with `includes` compiles `source`. `make` may write the real source first."""

    command: list
    source: Path
    includes: list = field(default_factory=list)
    make: object = None  # called with a path for the source to compile
    key: str = ""  # of what else it is made of


@dataclass
class Libraries:
    """File names to link with, and where they are. A stub is (library, pattern of its symbols)."""

    search: list = field(default_factory=list)
    static: list = field(default_factory=list)
    shared: list = field(default_factory=list)
    stubs: list = field(default_factory=list)
    run_path: list = field(default_factory=list)


def compiler():
    return shlex.split(os.environ.get("CXX") or "g++")


@cache
def identity(*command):
    """What a compiler says of itself, because a new one makes other objects."""
    return output([*command, "--version"])


def output(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"{shlex.join(map(str, command))} does not run: {error}") from None


def digest(*parts):
    hashed = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()[:16]


class Objects:
    def __init__(self, folder):
        self.folder = folder
        self.jobs = int(os.environ.get("NUM_JOBS") or len(os.sched_getaffinity(0)))
        self.headers = ""
        folder.mkdir(parents=True, exist_ok=True)

    def read_headers(self, tree):
        found = [f for f in sorted(tree.rglob("*")) if f.suffix in (".h", ".hpp", ".cuh") and f.is_file()]
        self.headers = digest(*found, self.folder / "ggml-version.h")

    def path(self, unit):
        tool = unit.command[: 1 + (unit.command[0].endswith("ccache"))]
        key = digest(identity(*tool), *unit.command[len(tool) :], unit.source, unit.key, self.headers)
        return self.folder / f"{unit.source.stem}-{key}.o"

    def compile(self, units):
        """Paths of the objects of `units`, in their order; starts with the first, so slow ones belong there."""
        paths = [self.path(unit) for unit in units]
        missing = [(unit, path) for unit, path in zip(units, paths) if not path.is_file()]
        note(f"{len(units)} files, {len(missing)} to compile, {self.jobs} at a time")
        start, done = time.monotonic(), 0

        def one(unit, path):
            nonlocal done
            begin = time.monotonic()
            if not path.is_file():  # another run may have been quicker
                self.compile_one(unit, path)
            done += 1
            note(f"[{done}/{len(missing)}] {unit.source.name} {time.monotonic() - begin:.0f} s")

        with ThreadPoolExecutor(self.jobs) as pool:
            tasks = [pool.submit(one, *task) for task in missing]
            finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=True, cancel_futures=True)
            for task in finished:
                task.result()
        if missing:
            note(f"compiled in {time.monotonic() - start:.0f} s")
        return paths

    def compile_one(self, unit, path):
        source, partial, made = unit.source, path.with_suffix(".part"), None
        if unit.make:
            source = made = path.with_suffix(".cpp")
            unit.make(made)
        includes = [f"-I{folder}" for folder in [*unit.includes, self.folder]]
        self.run([*unit.command, *includes, "-c", source, "-o", partial])
        partial.replace(path)
        if made:
            made.unlink()

    def run(self, command):
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if ended.returncode != 0:
            shown = shlex.join(map(str, command))
            raise Failure(f"{shown[:2000]}\nfailed ({ended.returncode}):\n{ended.stdout}{ended.stderr}")


def stub(objects, library, pattern, paths):
    """An empty `library` with the symbols that `paths` want of it.

    The driver's own library is there only where the driver is, which need not be where gust is built. At run time the name
    in the stub leads to the real one.
    """
    wanted = sorted(set(re.findall(rf"\bU ({pattern})\b", output(["nm", "-u", *map(str, paths)]))))
    code = objects.folder / f"{library}.c"
    code.write_text("".join(f"void {name}(void) {{}}\n" for name in wanted))
    target = objects.folder / library
    objects.run([*compiler(), "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", target, code])


def note(line):
    print(line, file=sys.stderr, flush=True)
