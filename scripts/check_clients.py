#!/usr/bin/env python3
"""Drives real client packages, pinned in tests/clients, against `gust serve` with the built-in model.

Prints a grid of clients and cases, and each failure; exits with 1 if there is one, or if a package cannot be
installed. Needs python3 with venv, node with npm, and the network or filled caches the first time.

    scripts/check_clients.py                         all of them, on cargo's debug build
    scripts/check_clients.py --only openai --case tools --trace
    scripts/check_clients.py --write README.md       also puts the grid between the file's markers
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/clients"))
from harness import Packages, Server, Unusable, binary  # noqa: E402

CASES = {
    "chat": "chat", "stream": "stream", "tools": "tools", "parallel": "parallel tools", "thinking": "thinking",
    "image": "image", "schema": "JSON schema", "overflow": "overflow", "model": "wrong model", "key": "wrong key",
    "abort": "abort", "open": "no key",
}
# A context that the long prompts of the cases do not fit into.
SERVER = ["--ctx", "4096"]
BEGIN, END = "<!-- clients: scripts/check_clients.py --write -->", "<!-- end of clients -->"

# Processes, each with a name for --only: what runs it, and which modules. The clients of a process run one after
# another, and processes too, so that what `abort` counts is its own.
GROUPS = {
    "openai": ("requirements", "openai_client"),
    "mistralai": ("requirements", "mistralai_client"),
    "anthropic": ("requirements", "anthropic_client"),
    "langchain": ("requirements", "langchain_clients"),
    "vibe": ("requirements", "vibe_client"),
    "litellm": ("requirements-litellm", "litellm_client"),
    "ai-sdk": ("node", "ai_sdk"),
    "anthropic-js": ("node", "anthropic"),
}


def command(packages, kind, modules):
    """How the modules of one kind are run, and what the environment needs."""
    if kind == "node":
        return ["node", str(ROOT / "tests/clients/node/run.mjs"), *modules], {"NODE_PATH_DIR": str(packages.node())}
    extra = {"PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    if "vibe_client" in modules:
        extra["VIBE_SOURCE"] = str(packages.vibe())
    return [str(packages.python(kind)), str(ROOT / "tests/clients/python/run.py"), *modules], extra


def results(packages, groups, keyed, keyless, options):
    """A line for each client and case, as the processes print them."""
    kinds = {}
    for group in groups:
        kind, module = GROUPS[group]
        kinds.setdefault(kind, []).append(module)
    # Installing is what takes long, and the three kinds do not meet.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        commands = list(pool.map(lambda item: command(packages, *item), kinds.items()))
    servers = {"GUST_BASE": keyed.base, "GUST_KEY": keyed.key, "GUST_OPEN_BASE": keyless.base}
    wishes = {"GUST_CASES": ",".join(options.case or []), "GUST_TRACE": "1" if options.trace else ""}
    for line, extra in commands:
        process = subprocess.Popen(line, env=os.environ | servers | wishes | extra, stdout=subprocess.PIPE, text=True)
        for text in process.stdout:
            if not text.startswith('{"client"'):
                print(text, end="", file=sys.stderr)
                continue
            result = json.loads(text)
            if result["result"] == "fail" or options.verbose:
                print(f"{result['result']:4} {result['s']:6.2f} s  {result['client']}: {result['case']}  {result['detail']}", flush=True)
            yield result
        if process.wait():
            raise Unusable(f"{' '.join(line)} ended with status {process.returncode}")


def grid(found):
    """The results as a Markdown table, with what cannot be asked below it."""
    clients = list(dict.fromkeys(result["client"] for result in found))
    marks = {"pass": "✓", "fail": "**✗**", "n/a": "–"}
    by = {(result["client"], result["case"]): result for result in found}
    cases = [case for case in CASES if any(result["case"] == case for result in found)]
    lines = ["| client | " + " | ".join(CASES[case] for case in cases) + " |", "|---|" + ":-:|" * len(cases)]
    for client in clients:
        cells = [marks[by[client, case]["result"]] if (client, case) in by else " " for case in cases]
        lines.append(f"| {client} | " + " | ".join(cells) + " |")
    reasons = {}
    for result in found:
        if result["result"] == "n/a":
            reasons.setdefault(f"{CASES[result['case']]}: {result['detail']}", []).append(result["client"])
    lines += [""] * bool(reasons) + [f"– {reason} ({'; '.join(clients)})." for reason, clients in reasons.items()]
    return "\n".join(lines) + "\n"


def write(path, table):
    """Puts the table between the markers of a file."""
    text = Path(path).read_text()
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end):
        raise Unusable(f"{path} has no lines {BEGIN} and {END}")
    Path(path).write_text(f"{before}{begin}\n{table}{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gust", help="the program to test; cargo's debug build otherwise")
    parser.add_argument("--cache", default=ROOT / "target/clients", help="where packages are kept")
    parser.add_argument("--only", action="append", choices=GROUPS, help="only these clients")
    parser.add_argument("--case", action="append", choices=CASES, help="only these cases")
    parser.add_argument("--write", metavar="FILE", help="put the grid between the markers of this file")
    parser.add_argument("--trace", action="store_true", help="tracebacks of failures, and the server's last lines")
    parser.add_argument("--verbose", action="store_true", help="also tell what passes")
    options = parser.parse_args()
    started = time.monotonic()
    found = []
    try:
        program = binary(options.gust)
        packages = Packages(options.cache)
        with Server(program, *SERVER) as keyed, Server(program, *SERVER, key=False) as keyless:
            for result in results(packages, options.only or GROUPS, keyed, keyless, options):
                found.append(result)
            if options.trace:
                print("\n".join(keyed.lines[-40:]), file=sys.stderr)
        table = grid(found)
        if options.write and not options.only and not options.case:
            write(options.write, table)
    except Unusable as e:
        sys.exit(f"check_clients: {e}")
    n_failed = sum(result["result"] == "fail" for result in found)
    print(table)
    print(f"{len(found)} cases, {n_failed} failed, {time.monotonic() - started:.0f} s")
    sys.exit(bool(n_failed or not found))


if __name__ == "__main__":
    main()
