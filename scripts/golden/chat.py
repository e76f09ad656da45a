"""Golden data of the chat layer, from mistral_common.

`generate(out_dir, fixtures, tekken)` writes conversations.jsonl (request -> ids or error) and
replies.jsonl (ids -> events) for the given vocabulary. Run as a program it can also write random
conversations, to be compared with a vocabulary that is too large to commit:

    chat.py --random 20000 --seed 1 --tekken tekken.json --out DIR
"""

import argparse
import json
import logging
import pathlib
import random
import re

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

CONTROL = re.compile(r"(\[THINK\]|\[/THINK\]|\[TOOL_CALLS\]|\[ARGS\]|</s>)")


def has_image(request):
    return "image_url" in json.dumps(request)


def encode(tokenizer, request):
    """Ids, or the error's text where mistral_common refuses the request."""
    try:
        parsed = ChatCompletionRequest.model_validate(request)
        return {"ids": tokenizer.encode_chat_completion(parsed).tokens}
    except (MistralCommonException, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def reply_ids(tokenizer, raw):
    """Ids of a raw reply. Within arguments only [TOOL_CALLS] and </s> are control tokens."""
    tekken = tokenizer.instruct_tokenizer.tokenizer
    ids, in_arguments = [], False
    for part in CONTROL.split(raw):
        is_control = CONTROL.fullmatch(part) and not (
            in_arguments and part not in ("[TOOL_CALLS]", "</s>")
        )
        if is_control:
            in_arguments = part == "[ARGS]"
            ids.append(tekken.get_special_token(part))
        elif in_arguments and ids and part:
            # A literal look-alike belongs to the text around it.
            pending = tekken.encode(part, bos=False, eos=False)
            ids.extend(pending)
        else:
            ids.extend(tekken.encode(part, bos=False, eos=False))
    return ids


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def generate(out_dir, fixtures, tekken):
    out_dir, fixtures = pathlib.Path(out_dir), pathlib.Path(fixtures)
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = MistralTokenizer.from_file(str(tekken))
    rows = []
    for path in sorted(fixtures.glob("[0-9]*.json")):
        fixture = json.loads(path.read_text(encoding="utf-8"))
        if not has_image(fixture["request"]):
            rows.append(
                {"name": path.stem, "request": fixture["request"]}
                | encode(tokenizer, fixture["request"])
            )
    write_lines(out_dir / "conversations.jsonl", rows)

    cases = json.loads((fixtures / "parse_cases.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        case["ids"] = reply_ids(tokenizer, case["raw"])
    write_lines(out_dir / "replies.jsonl", cases)


TEXTS = [
    "", " ", "  ", "\n", "hello", "Hello, world!", " trailing  ", "a\n\nb\n", "[INST]", "</s>",
    "[/INST] [TOOL_CALLS]x[ARGS]{}", "[THINK]", "naïve café — 東京 🎉", "\u202e\u200d", "12345 6.7e8",
    "\r\n\t", "{\"a\": 1}", "\x00\x1b[31m", "don't", "ünï\u0301", "한국어 ไทย हिन्दी", "x" * 40,
]
ARGUMENTS = [
    "", "{}", "{\"a\":1}", "{\"z\":1,\"a\":[1,2.5,1e3,-0.0,1e22,1E-7,true,null]}", "not json", "[]",
    "\"text\"", "3", "1e400", "NaN", "{\"a\":1,\"a\":2}", "{\"k\":\"\\u00e9\\ud83c\\udf89\\u2028\\/\"}",
    "{\"k\":\"\\ud800\"}", " { \"s\" : \"</s>[ARGS]\" } ", "{\"n\":123456789012345678901234567890}",
    "{\"bad\":}", "\ufeff{}", "{\"c\":\"\\u0001\\u007f\x7f\"}", "{'a': 1}", "01", "-", "1.", ".5", "-0",
    "123456789.125", "5e-324", "1.7976931348623157e308", "0.1", "100000000000000000000.0",
]
PARAMETERS = [
    {}, {"type": "object", "properties": {}},
    {"type": "object", "properties": {"é": {"type": "string", "description": "Ville \" \\ \n \x7f"}},
     "required": ["é"]},
    {"type": "object", "properties": {"n": {"type": "number", "minimum": 1e-7, "maximum": 1e16}}},
    {"type": "object", "properties": {"m": {"enum": ["[/AVAILABLE_TOOLS]", 1.0, 3, None, True]}}},
]


class RandomConversation:
    """Mostly legal conversations; some break a rule, so that refusals are compared too."""

    def __init__(self, rng):
        self.rng = rng
        self.n_ids = 0

    def text(self):
        return "".join(self.rng.choices(TEXTS, k=self.rng.choice([1, 1, 1, 2, 3])))

    def content(self, thinking):
        if self.rng.random() < 0.5:
            return self.text()
        chunks = []
        for _ in range(self.rng.randrange(0, 4)):
            if thinking and self.rng.random() < 0.4:
                closed = self.rng.random() < 0.8
                chunks.append({"type": "thinking", "thinking": self.text(), "closed": closed})
            else:
                chunks.append({"type": "text", "text": self.text()})
        return chunks

    def calls(self):
        calls = []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            self.n_ids += 1
            name = self.rng.choice(["f", "get_weather", "A-b_9"])
            call_id = f"call{self.n_ids:05}" if self.rng.random() < 0.98 else "dup"
            function = {"name": name, "arguments": self.rng.choice(ARGUMENTS)}
            calls.append({"id": call_id, "type": "function", "function": function})
        return calls

    def request(self):
        rng, messages = self.rng, []
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            messages.append({"role": "system", "content": self.content(rng.random() < 0.02)})
        for _ in range(rng.randrange(1, 5)):
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                messages.append({"role": "user", "content": self.content(rng.random() < 0.01)})
            if rng.random() < 0.1:
                messages.append({"role": "system", "content": self.content(False)})
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                message = {"role": "assistant", "content": self.content(True)}
                messages.append(message)
                if rng.random() < 0.4:
                    message["tool_calls"] = self.calls()
                    if rng.random() < 0.5:
                        message["content"] = rng.choice([None, ""])
                    ids = [call["id"] for call in message["tool_calls"]]
                    rng.shuffle(ids)
                    for call_id in ids[: len(ids) if rng.random() < 0.95 else None]:
                        result = {"role": "tool", "tool_call_id": call_id}
                        messages.append(result | {"content": self.content(False)})
        if rng.random() < 0.6 and messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": self.content(False)})
        elif messages[-1]["role"] == "assistant" and rng.random() < 0.7:
            messages[-1]["prefix"] = True
        if rng.random() < 0.05:
            rng.shuffle(messages)
        request = {"messages": messages}
        if rng.random() < 0.6:
            request["reasoning_effort"] = rng.choice(["none", "high", "high", None])
        if rng.random() < 0.5:
            request["tools"] = [self.tool() for _ in range(rng.randrange(0, 4))]
        return request

    def tool(self):
        function = {
            "name": self.rng.choice(["f", "get_weather", "A-b_9"]),
            "parameters": self.rng.choice(PARAMETERS),
        }
        if self.rng.random() < 0.8:
            function["description"] = self.text()
        if self.rng.random() < 0.3:
            function["strict"] = self.rng.random() < 0.5
        return {"type": "function", "function": function}


def generate_random(out_dir, tekken, n, seed):
    tokenizer = MistralTokenizer.from_file(str(tekken))
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        request = RandomConversation(rng).request()
        rows.append({"name": f"random-{seed}-{i}", "request": request} | encode(tokenizer, request))
    out_dir = pathlib.Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_lines(out_dir / f"random-{seed}.jsonl", rows)
    n_errors = sum("error" in row for row in rows)
    print(f"{n} conversations, {n_errors} of them refused")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures", help="folder of fixtures to be encoded again")
    parser.add_argument("--random", type=int, help="number of random conversations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tekken", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.fixtures:
        generate(args.out, args.fixtures, args.tekken)
    if args.random:
        generate_random(args.out, args.tekken, args.random, args.seed)


if __name__ == "__main__":
    main()
