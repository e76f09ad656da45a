#!/usr/bin/env python3
"""Drives mistral-vibe headless against `gust serve` with the built-in model, in each of its ways to speak.

    python3.12 -m pip install mistral-vibe==3.0.3
    scripts/check_vibe.py --vibe PATH/bin/vibe

The agent is the program as its users run it, with its own system prompt and tools, and a configuration that names the
server. One turn each: it has to end well, or at the limit of turns where the toy takes to calling tools, and the server's
last answer has to be whole. What it says is of no matter.
`scripts/check_clients.py` asks more of its adapters, without Python 3.12. Exits with 1 if a way fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/clients"))
from harness import Server  # noqa: E402

# Its provider's `api_style` and `backend`, and what the address ends in.
WAYS = [
    ("openai", "generic", "/v1"),
    ("reasoning", "generic", "/v1"),
    ("anthropic", "generic", ""),
    ("openai-responses", "generic", "/v1"),
    ("openai", "mistral", "/v1"),
]
CONFIG = """
active_model = "local"
enable_telemetry = false
enable_update_checks = false

[[providers]]
name = "gust"
api_base = "{base}"
api_key_env_var = "GUST_TEST_KEY"
api_style = "{style}"
backend = "{backend}"

[[models]]
name = "mistral-medium-3.5"
provider = "gust"
alias = "local"
temperature = 0.0
"""


def turn(vibe: Path, server: Server, style: str, backend: str, end: str) -> str:
    """What the assistant says; whatever goes wrong is an exception."""
    with tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder, "home"), Path(folder, "work")
        home.mkdir(), work.mkdir()
        (home / "config.toml").write_text(CONFIG.format(base=server.base + end, style=style, backend=backend))
        keys = {"GUST_TEST_KEY": server.key, "MISTRAL_API_KEY": server.key, "VIBE_HOME": str(home)}
        command = [str(vibe), "-p", "Hello", "--max-turns", "1", "--output", "json", "--trust"]
        done = subprocess.run(command, cwd=work, env=os.environ | keys, capture_output=True, text=True, timeout=300)
    if done.returncode and "Stopped: turn_limit" not in done.stderr:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-500:]}")
    if ": 200 " not in server.lines[-1]:
        raise RuntimeError(f"the server says {server.lines[-1]}")
    messages = json.loads(done.stdout[done.stdout.index("[\n") :])
    parts = [part for message in messages if message.get("role") == "assistant" for part in message["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "text") or "a tool call"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vibe", type=Path, required=True, help="mistral-vibe's program")
    parser.add_argument("--gust", type=Path, default=ROOT / "target/release/gust")
    args = parser.parse_args()
    version = subprocess.run([args.vibe, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{version}\n| api_style | backend | | seconds |\n|---|---|---|---|")
    n_failed = 0
    # Its system prompt and tools have 13,000 tokens.
    with Server(args.gust, "--ctx", "32768") as server:
        for style, backend, end in WAYS:
            start = time.monotonic()
            try:
                text = repr(turn(args.vibe, server, style, backend, end)[:60])
            except (RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
                n_failed += 1
                text = f"**failed**: {error}"
            print(f"| {style} | {backend} | {text} | {time.monotonic() - start:.1f} |", flush=True)
    sys.exit(bool(n_failed))


if __name__ == "__main__":
    main()
