#!/usr/bin/env python3
"""Scores a tiny checkpoint with transformers (f32, greedy) and writes what eval.jsonl and eval.txt say.

Every item of the question set gets `transformers_ok`; the score by task goes beside it. When the set has the flags
already, the items on which the two disagree are counted and the exit code is 1 if there are any. The rules of what is right
are those of eval_tiny.py, which asks gust the same questions.
"""

import argparse
import collections
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from eval_tiny import ask_transformers, is_right, read_items  # noqa: E402


def score(flagged: list[dict]) -> str:
    """The text of eval.txt."""
    rows = collections.defaultdict(lambda: [0, 0])
    for item in flagged:
        for task in (item["task"], "total"):
            rows[task][0] += item["transformers_ok"]
            rows[task][1] += 1
    right, n = rows.pop("total")
    return "\n".join([f"total {right} / {n} {100 * right / n:.1f} %", *(f"{task} {rows[task][0]} / {rows[task][1]}" for task in sorted(rows))]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory in the Hugging Face layout, BF16")
    parser.add_argument("eval", type=Path, help="eval.jsonl, with its pictures beside it")
    parser.add_argument("--out", type=Path, help="directory for the flagged eval.jsonl and eval.txt")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N items, evenly spread")
    parser.add_argument("--threads", type=int, help="threads of torch [all cores]")
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    lines = [json.loads(line) for line in args.eval.read_text().splitlines() if line.strip()]
    asked = range(0, len(lines), max(1, len(lines) // args.limit)) if args.limit else range(len(lines))
    items = read_items(args.eval)
    start = time.monotonic()
    answers = ask_transformers(args.checkpoint, [items[i] for i in asked])
    flagged = [lines[i] | {"transformers_ok": is_right(items[i], answer)} for i, answer in zip(asked, answers)]
    text = score(flagged)
    print(text + f"{time.monotonic() - start:.0f} s")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "eval.jsonl").write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in flagged))
        (args.out / "eval.txt").write_text(text)
    known = [(i, flags) for i, flags in zip(asked, flagged) if "transformers_ok" in lines[i]]
    if not known:
        return 0
    other = [i for i, flags in known if lines[i]["transformers_ok"] != flags["transformers_ok"]]
    print(f"{len(known) - len(other)} of {len(known)} items as flagged in {args.eval.name}" + "".join(f"\n  line {i + 1}: {lines[i]['task']}" for i in other))
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
