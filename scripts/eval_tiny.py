#!/usr/bin/env python3
"""Asks gust the questions of the tiny checkpoint's eval.jsonl and compares its score with transformers'.

Every item is one process: `gust run` with temperature 0, the item's system prompt, its one user message with its pictures
(found beside eval.jsonl), and its tools. An answer is what gust writes to stdout (reasoning is not part of it), with
surrounding white space removed. It is right when it equals `expect.text`; a story is right when it has the story's form
about the right person; a call is right when it is the only one and has the expected name and arguments. These are the rules
behind the file's `transformers_ok`: with --transformers they are checked by running the checkpoint in transformers (f32,
greedy) and comparing all flags.

Prints a table by task, the difference in points of 100 and how many items of 100 are judged as in the file; exit code 1 when
gust is more than --tolerance points worse, or agrees on fewer than --agreement items of 100.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MAX_TOKENS = 256  # the longest right answer of the set takes fewer than 100
STORY = re.compile(r"Once upon a time, (\w+) found a (\w+) near the \w+\. \1 took the \2 home and was very happy\. The end\.")


def read_items(path: Path) -> list[dict]:
    """All items; pictures get their whole path."""
    items = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    for item in items:
        for chunk in chunks(item["messages"][-1]):
            if chunk["type"] == "image_url":
                chunk["image_url"]["url"] = str(path.parent / chunk["image_url"]["url"])
    return items


def chunks(message: dict) -> list[dict]:
    """A message's content as a list."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def question(item: dict) -> str:
    """The text of the user's message."""
    return "".join(chunk["text"] for chunk in chunks(item["messages"][-1]) if chunk["type"] == "text")


def is_right(item: dict, answer: str) -> bool:
    """Whether the answer counts as right."""
    if "tool" in item["expect"]:
        calls = [json.loads(line) for line in answer.splitlines() if line.startswith('{"id":')]
        found = [(call["name"], call["arguments"]) for call in calls]
        return found == [(item["expect"]["tool"], item["expect"]["arguments"])]
    expected = item["expect"]["text"]
    if item["task"] == "story":
        said, wanted = STORY.fullmatch(answer.strip()), STORY.fullmatch(expected)
        return bool(said and wanted and said[1] == wanted[1])
    return answer.strip() == expected


def ask_gust(args: argparse.Namespace, item: dict) -> str:
    """Runs gust on one item; its stdout."""
    roles = [m["role"] for m in item["messages"]]
    if roles not in (["user"], ["system", "user"]):
        sys.exit(f"an item has the roles {roles}, which `gust run` cannot express")
    command = [args.gust, "run", "--temp", "0", "--max-tokens", str(MAX_TOKENS), args.effort_flag, item["reasoning_effort"]]
    command += ["-m", args.model] if args.model else []
    command += ["--system", item["messages"][0]["content"]] if "system" in roles else []
    for chunk in chunks(item["messages"][-1]):
        command += ["--image", chunk["image_url"]["url"]] if chunk["type"] == "image_url" else []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as tools:
        if "tools" in item:
            json.dump(item["tools"], tools)
            tools.flush()
            command += ["--tools", tools.name]
        command += [*args.extra, "-p", question(item)]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit code {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def ask_transformers(checkpoint: Path, items: list[dict]) -> list[str]:
    """The answers of the Hugging Face checkpoint, encoded by mistral_common, f32, greedy, reasoning cut off by token id."""
    import torch
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from safetensors import safe_open
    from transformers import Mistral3ForConditionalGeneration, logging

    logging.set_verbosity_error()
    model = Mistral3ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config.max_length = None
    for shard in checkpoint.glob("*.safetensors"):  # transformers 5.23 does not find the head under this name
        with safe_open(shard, "pt") as tensors:
            if "model.language_model.lm_head.weight" in tensors.keys():
                model.lm_head.weight.data.copy_(tensors.get_tensor("model.language_model.lm_head.weight").float())
    tokenizer = MistralTokenizer.from_file(checkpoint / "tekken.json")
    plain = tokenizer.instruct_tokenizer.tokenizer
    think_end, eos = plain.get_special_token("[/THINK]"), plain.eos_id
    call, args = plain.get_special_token("[TOOL_CALLS]"), plain.get_special_token("[ARGS]")

    def as_written(ids: list[int]) -> str:
        """What gust would write."""
        starts = [i for i, token in enumerate(ids) if token == call] + [len(ids)]
        text = plain.decode(ids[:starts[0]])
        for start, end in zip(starts, starts[1:]):
            middle = ids.index(args, start) if args in ids[start:end] else end
            name, arguments = plain.decode(ids[start + 1:middle]), plain.decode(ids[middle + 1:end])
            try:
                arguments = json.loads(arguments)
            except json.JSONDecodeError:
                pass
            text += "\n" + json.dumps({"id": "", "name": name.strip(), "arguments": arguments}, separators=(",", ":"))
        return text

    answers = []
    for item in items:
        messages = json.loads(json.dumps(item["messages"]))
        for chunk in chunks(messages[-1]):
            if chunk["type"] == "image_url":
                chunk["image_url"]["url"] = "file://" + str(Path(chunk["image_url"]["url"]).resolve())
        request = ChatCompletionRequest(messages=messages, tools=item.get("tools"), reasoning_effort=item["reasoning_effort"])
        encoded = tokenizer.encode_chat_completion(request)
        ids, pictures = encoded.tokens, {}
        if encoded.images:
            pictures["pixel_values"] = torch.tensor(encoded.images[0], dtype=torch.float32)[None]
            pictures["image_sizes"] = torch.tensor([encoded.images[0].shape[1:]])
        with torch.no_grad():
            reply = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=MAX_TOKENS, pad_token_id=11, **pictures)[0, len(ids):].tolist()
        reply = reply[:-1] if reply[-1] == eos else reply
        answers.append(as_written(reply[reply.index(think_end) + 1 if think_end in reply else 0:]))
    return answers


def report(items: list[dict], right: list[bool], who: str) -> float:
    """Prints the table by task; how many points `who` lies above transformers."""
    rows = collections.defaultdict(lambda: [0, 0, 0])
    for item, ok in zip(items, right):
        for task in (item["task"], "total"):
            rows[task][0] += 1
            rows[task][1] += item["transformers_ok"]
            rows[task][2] += ok
    print(f"| task | items | transformers | {who} |\n|---|---:|---:|---:|")
    for task in sorted(rows, key=lambda t: (t == "total", t)):
        print(f"| {task} | {rows[task][0]} | {rows[task][1]} | {rows[task][2]} |")
    n, theirs, ours = rows["total"]
    return 100 * (ours - theirs) / n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eval", type=Path, help="eval.jsonl")
    parser.add_argument("--gust", default="target/release/gust", help="the program to ask [%(default)s]")
    parser.add_argument("-m", "--model", help="GGUF file [the built-in model]")
    parser.add_argument("--effort-flag", default="--reasoning-effort", help="gust's flag for the reasoning effort [%(default)s]")
    parser.add_argument("--extra", nargs="*", default=[], help="more flags for gust run, e.g. --extra=-t1")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes at a time [%(default)s]")
    parser.add_argument("--transformers", type=Path, metavar="DIR", help="ask this checkpoint in transformers instead and check the flags")
    parser.add_argument("--tolerance", type=float, default=1.0, help="points that gust may be worse [%(default)s]")
    parser.add_argument("--agreement", type=float, default=97.0, help="of 100 items, how many must be judged alike [%(default)s]")
    parser.add_argument("--task", action="append", help="ask only the items of this task; may be given again")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every item on which the two differ")
    args = parser.parse_args()

    items = [item for item in read_items(args.eval) if not args.task or item["task"] in args.task]
    start = time.monotonic()
    if args.transformers:
        answers = ask_transformers(args.transformers, items)
    else:
        with ThreadPoolExecutor(args.jobs) as pool:
            answers = list(pool.map(lambda item: ask_gust(args, item), items))
    right = [is_right(item, answer) for item, answer in zip(items, answers)]
    points = report(items, right, "transformers now" if args.transformers else "gust")
    differing = [(i, a) for i, a, ok in zip(items, answers, right) if ok != i["transformers_ok"]]
    agreement = 100 * (1 - len(differing) / len(items))
    print(f"\n{points:+.1f} points; {len(differing)} items judged differently ({agreement:.1f} % alike); {time.monotonic() - start:.1f} s")
    if args.verbose:
        for item, answer in differing:
            print(f"- {question(item)!r}\n  wanted {item['expect']}\n  said   {answer.strip()!r}")
    if args.transformers:
        return 1 if differing else 0
    return 1 if points < -args.tolerance or agreement < args.agreement else 0


if __name__ == "__main__":
    sys.exit(main())
