#!/usr/bin/env python3
"""How much of an agent's growing conversation `gust serve` computes anew.

Plays a session of 50 turns with tools, sent again in full with each request as agents do, through the `openai` and
the `mistralai` package. What can be reused is the previous request's prompt and the answer to it; the share of it
that the server says it reused is told for each request, and less than 99 % overall is a failure.

    scripts/check_replay.py
    scripts/check_replay.py --gust target/release/gust --effort high
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/clients"))
from harness import Packages, Server, Unusable, binary  # noqa: E402

LEAST = 0.99


def replay(packages, program, client, options):
    """The session's requests, on a server of its own."""
    with Server(program, "--ctx", str(options.ctx)) as server:
        environment = os.environ | {"GUST_BASE": server.base, "GUST_KEY": server.key, "PYTHONDONTWRITEBYTECODE": "1"}
        line = [packages.python("requirements"), ROOT / "tests/clients/python/replay.py", client, str(options.turns), options.effort]
        found = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True)
        if found.returncode:
            raise Unusable(f"{client}: the session broke off:\n" + "\n".join(server.lines[-20:]))
        return [json.loads(text) for text in found.stdout.splitlines()], server.lines


def judge(requests, is_told):
    """Reused and reusable tokens of a session."""
    reused = reusable = 0
    before = None
    for n, request in enumerate(requests):
        share = ""
        if before is not None:
            possible = min(before["prompt"] + before["completion"], request["prompt"])
            reused, reusable = reused + min(request["cached"], possible), reusable + possible
            share = f"{min(request['cached'], possible) / possible:8.2%}"
        if is_told:
            what = "call" if n % 2 == 0 else "text"
            print(f"{request['client']:10} {request['turn']:4} {what}  {request['prompt']:7} prompt {request['cached']:7} cached {share}")
        before = request
    return reused, reusable


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gust", help="the program to test; cargo's debug build otherwise")
    parser.add_argument("--cache", default=ROOT / "target/clients", help="where packages are kept")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--ctx", type=int, default=65536)
    parser.add_argument("--effort", default="none", choices=["none", "high"], help="of reasoning")
    parser.add_argument("--quiet", action="store_true", help="only the totals")
    options = parser.parse_args()
    worst = 1.0
    try:
        program, packages = binary(options.gust), Packages(options.cache)
        for client in ["openai", "mistralai"]:
            requests, _ = replay(packages, program, client, options)
            reused, reusable = judge(requests, not options.quiet)
            worst = min(worst, reused / reusable)
            print(f"{client}: {len(requests)} requests, {reused} of {reusable} tokens reused: {reused / reusable:.2%}")
    except Unusable as e:
        sys.exit(f"check_replay: {e}")
    sys.exit(worst < LEAST)


if __name__ == "__main__":
    main()
