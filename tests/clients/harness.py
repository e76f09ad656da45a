"""What the scripts that drive real clients share: their packages in a cache folder, and servers to talk to.

Packages are pinned, and kept outside of the repository's files; a folder is made anew when its pins change.
Whatever cannot be installed is an error: a check that quietly runs less than it claims is worse than none.
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VIBE = "mistral-vibe==3.0.3"


class Unusable(Exception):
    """A package or the server is not to be had; the message says why."""


def _run(command, what, **options):
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if found.returncode:
        raise Unusable(f"{what} failed: {' '.join(map(str, command))}\n{found.stdout[-3000:]}")


class Packages:
    """The clients' packages below a cache folder."""

    def __init__(self, cache):
        self.cache = Path(cache).resolve()
        self.cache.mkdir(parents=True, exist_ok=True)

    def _made(self, name, pins, make):
        """The folder `name`, made by `make` unless it was made from the same pins."""
        folder, mark = self.cache / name, self.cache / f"{name}.pins"
        digest = hashlib.sha256(pins.encode()).hexdigest()
        if not (folder.exists() and mark.exists() and mark.read_text() == digest):
            print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            mark.write_text(digest)
        return folder

    def python(self, requirements):
        """The interpreter of an environment with what `tests/clients/python/REQUIREMENTS.txt` lists."""
        file = HERE / "python" / f"{requirements}.txt"

        def make(folder):
            _run([sys.executable, "-m", "venv", folder], "making an environment")
            pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", file]
            _run(pip, "installing Python packages")

        return self._made(requirements, file.read_text() + sys.version, make) / "bin/python"

    def vibe(self):
        """The Python sources of mistral-vibe's wheel; `python/vibe_import.py` says how they are imported."""

        def make(folder):
            folder.mkdir()
            # Its wheel is for Python 3.12 and newer. The source archive would be built, with a Rust compiler of
            # its own, only to learn its name.
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            _run([*pip, "--python-version", "3.12", "--dest", folder, VIBE], f"downloading {VIBE}")
            (wheel,) = folder.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [n for n in archive.namelist() if n.startswith("mistralai_vibe_local_harness/") and n.endswith(".py")]
                archive.extractall(folder, names)
            wheel.unlink()  # 70 MB, most of it native programs

        return self._made("vibe", VIBE, make)

    def node(self):
        """A folder with `node_modules`."""
        files = [HERE / "node" / name for name in ["package.json", "package-lock.json"]]
        for program in ["node", "npm"]:
            if shutil.which(program) is None:
                raise Unusable(f"{program} is not installed")

        def make(folder):
            folder.mkdir()
            for file in files:
                shutil.copy(file, folder)
            _run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], "installing npm packages", cwd=folder)

        return self._made("node", "".join(file.read_text() for file in files), make)


def binary(given):
    """The program to test: the one given, or cargo's debug build, brought up to date."""
    if given:
        return Path(given).resolve()
    _run(["cargo", "build", "--locked", "--quiet"], "building gust", cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "gust"


class Server:
    """`gust serve` on a free port, stopped at the end of a `with`."""

    def __init__(self, program, *options, key=True, timeout_s=60):
        self.key = secrets.token_hex(16) if key else None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GUST_")}
        # A spinning barrier costs a thousandfold on a machine that is shared.
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        command = [str(program), "serve", "--port", "0", *options]
        if self.key:
            command += ["--api-key", self.key]
        self.lines = []
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.found = threading.Event()
        self.base = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self._wait(time.monotonic() + timeout_s)
        except Unusable:
            self.stop()
            raise

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.base is None and (address := re.search(r"http://[^\s/]+:\d+", line)):
                self.base = address[0]
                self.found.set()
        self.found.set()

    def _wait(self, deadline):
        self.found.wait(max(0.0, deadline - time.monotonic()))
        while self.base and self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.base}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise Unusable("the server did not become ready:\n" + "\n".join(self.lines[-30:]))

    def stop(self):
        """SIGTERM, then SIGKILL; gives the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(5)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
