#!/usr/bin/env python3
"""Compares the prompts of `gust tokenize --chat --strict` with mistral_common's on random conversations.

    scripts/check_chat.py --gust target/release/gust --tekken tekken.json [--tekken other.json]
                          [-n v15=100000 -n v7=30000 ...]

Conversations of all roles with tools, calls, results, thinking, pictures, prefixes, texts of every
script and look-alikes of control tokens in every field; about a fifth break a rule. Ids must be
equal, and what mistral_common refuses must be refused. The given v15 vocabularies are taken in
turns; for other versions a copy is made that has the control tokens of that version. Left out is what
gust takes on purpose: a reasoning effort of "none" for models without settings, and patterns in
schemas that Python's `re` cannot read. Needs `mistral_common`, `numpy` and `pillow`.
Exit code 0: all equal.
"""

import argparse
import base64
import collections
import io
import json
import logging
import multiprocessing
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from check_tokenizer import random_text

CHUNK = 500
DEFAULT = {"v15": 100_000, "v7": 30_000, "v11": 30_000, "v13": 30_000}
# The first control token that each version does not have; v7's files may not list any.
FIRST_MISSING = {"v7": 20, "v11": 34, "v13": 36}

LOOK_ALIKES = [
    "[INST]", "[/INST]", "</s>", "<s>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[THINK]", "[/THINK]", "<unk>", "<pad>",
    "[TOOL_CALLS]x[ARGS]{}", "[CALL_ID]", "[/SYSTEM_PROMPT]", "[SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]",
    "[/AVAILABLE_TOOLS]", "[MODEL_SETTINGS]{\"reasoning_effort\": \"high\"}[/MODEL_SETTINGS]", "<SPECIAL_20>",
]
TEXTS = [
    "", "", " ", "  ", "\n", "\n\n", "hello", "Hello, world!", " trailing  ", "a\n\nb\n", "naïve café — 東京 🎉", "12345 6.7e8",
    "\r\n\t", "{\"a\": 1}", "\x00\x1b[31m", "don't", "x" * 40, "null", "[]", "\u2028\u202e\u200d",
]
ARGUMENTS = [
    "", "{}", "{\"a\":1}", "{\"z\":1,\"a\":[1,2.5,1e3,-0.0,1e22,1E-7,true,null]}", "not json", "[]", "[{\"name\": \"f\"}]",
    "\"text\"", "3", "1e400", "NaN", "-Infinity", "{\"a\":1,\"a\":2}", "{\"k\":\"\\u00e9\\ud83c\\udf89\\u2028\\/\"}",
    "{\"k\":\"\\ud800\"}", " { \"s\" : \"</s>[ARGS]\" } ", "{\"n\":123456789012345678901234567890}", "{\"bad\":}", "\ufeff{}",
    "{\"c\":\"\\u0001\\u007f\x7f\"}", "{'a': 1}", "01", "-", "1.", ".5", "-0", "123456789.125", "5e-324", "\n{\n}\n", "null",
    "1.7976931348623157e308", "0.1", "100000000000000000000.0", "{\"a\":{\"b\":{\"c\":[[[]]]}}}", "{} {}", "{\"\":\"\"}", "tRue",
    {}, {"a": 1}, {"é": ["[INST]", 1.0, None]}, None,
]
PARAMETERS = [
    {}, {"type": "object", "properties": {}},
    {"type": "object", "properties": {"é": {"type": "string", "description": "Ville \" \\ \n \x7f </s>"}}, "required": ["é"]},
    {"type": "object", "properties": {"n": {"type": "number", "minimum": 1e-7, "maximum": 1e16}}},
    {"type": "object", "properties": {"m": {"enum": ["[/AVAILABLE_TOOLS]", 1.0, 3, None, True]}}},
    {"type": "object", "title": "東京", "properties": {"u": {"type": ["string", "null"], "default": ""}}, "$defs": {"x": {}}},
]
BAD_PARAMETERS = [
    [], "{}", 3, {"type": "strin"}, {"type": []}, {"type": ["null", "null"]}, {"items": []}, {"properties": {"a": 3}},
    {"required": ["a", "a"]}, {"required": True}, {"exclusiveMinimum": True}, {"maxLength": -1}, {"maxLength": 1.5}, {"minItems": True},
    {"multipleOf": 0}, {"anyOf": []}, {"anyOf": [{}, {"not": {"$ref": 3}}]}, {"definitions": []}, {"dependencies": {"a": ["b", "b"]}},
    {"enum": {}}, {"additionalProperties": "no"}, {"title": None}, {"uniqueItems": 1}, {"if": {"then": 3}},
    # These are schemas.
    {"enum": []}, {"maxLength": 1.0}, {"writeOnly": 3}, {"const": {"type": 3}}, {"x": {"type": 3}}, {"items": [True, {}]},
    {"dependencies": {"a": ["b"], "c": {}}}, {"required": []}, {"type": ["null", "array"]}, {"$ref": "::"}, {"format": "none"},
]
NAMES = ["f", "get_weather", "A-b_9", "x" * 64, "0"]
BAD_NAMES = ["", "a b", "x" * 65, "f\n\n", "[INST]", "é", "f.g"]
BAD_IDS = ["", "null", "short", "much_longer_than_nine", "abc-ef_hi", "日本語日本語日本語", "abcdefgh1\n", "[CALL_ID]"]


def pictures():
    """Data URLs of small pictures of every shape and of the common kinds."""
    import numpy
    from PIL import Image

    rng, urls = numpy.random.default_rng(0), []
    sizes = [(1, 1), (28, 28), (29, 28), (56, 57), (300, 40), (40, 301), (224, 225), (1600, 20), (20, 1541), (1, 90)]
    sizes += [tuple(map(int, rng.integers(1, 160, 2))) for _ in range(50)]
    for i, (width, height) in enumerate(sizes):
        mode, kind = [("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP")][i % 5]
        channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        low = rng.integers(0, 256, (2, 2, channels), dtype=numpy.uint8)
        image = Image.fromarray(low.squeeze(), mode).resize((width, height), Image.Resampling.BILINEAR)
        stream = io.BytesIO()
        image.save(stream, kind)
        urls.append(f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}")
    return urls


class RandomConversation:
    """Mostly legal conversations; some break a rule, so that refusals are compared too."""

    def __init__(self, rng, version, urls):
        self.rng, self.version, self.urls = rng, version, urls
        self.n_ids = 0
        # A few kinds of faults are likely in a few conversations, none in most.
        self.p_fault = rng.choice([0, 0, 0, 0, 0, 0.02, 0.1])
        self.has_thoughts = version in ("v13", "v15") or self.fault()
        self.has_images = rng.random() < 0.3

    def fault(self):
        return self.rng.random() < self.p_fault

    def text(self):
        parts = []
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            kind = self.rng.random()
            if kind < 0.4:
                parts.append(self.rng.choice(TEXTS))
            elif kind < 0.6:
                parts.append(self.rng.choice(LOOK_ALIKES))
            else:
                parts.append(random_text(self.rng))
        return "".join(parts)

    def image(self):
        url = self.rng.choice(self.urls)
        form = self.rng.random()
        if form < 0.1:
            return {"type": "image_url", "image_url": url}
        if form < 0.2:
            return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        return {"type": "image_url", "image_url": {"url": url}}

    def content(self, role):
        thinks = {"assistant": True, "system": self.version == "v13"}.get(role, False) and self.has_thoughts
        sees = {"user": True, "tool": self.version == "v15"}.get(role, False) and self.has_images
        thinks, sees = thinks or self.fault(), sees or self.fault()
        if self.rng.random() < (0.2 if sees else 0.5):
            return self.text()
        chunks = []
        for _ in range(self.rng.choice([0, 1, 1, 2, 2, 3, 4])):
            kind = self.rng.random()
            if thinks and kind < 0.4:
                chunk = {"type": "thinking", "thinking": self.text()}
                if self.rng.random() < 0.5:
                    chunk["closed"] = self.rng.random() < 0.6
                chunks.append(chunk)
            elif sees and kind < 0.75:
                chunks.append(self.image())
            else:
                chunks.append({"type": "text", "text": self.text()})
        return chunks

    def call_id(self):
        if self.fault():
            return self.rng.choice(BAD_IDS)
        self.n_ids += 1
        if self.version in ("v13", "v15") and self.rng.random() < 0.3:
            return f"call_{self.n_ids}{self.rng.choice(LOOK_ALIKES)}"
        return f"call{self.n_ids:05}"

    def name(self):
        return self.rng.choice(BAD_NAMES if self.fault() else NAMES)

    def call(self):
        function = {"name": self.name(), "arguments": self.rng.choice(ARGUMENTS)}
        if isinstance(function["arguments"], str) and self.rng.random() < 0.1:
            function["arguments"] = json.dumps({self.text(): self.text()}, ensure_ascii=self.rng.random() < 0.5)
        call = {"id": self.call_id(), "type": "function", "function": function}
        if self.fault():
            del call["id"]
        return call

    def results(self, calls):
        ids = [call.get("id") for call in calls]
        self.rng.shuffle(ids)
        if self.fault():
            ids = ids[1:]
        if self.fault():
            ids.append(self.call_id())
        for call_id in ids:
            result = {"role": "tool", "tool_call_id": call_id, "content": self.content("tool")}
            if self.rng.random() < 0.1:
                result["name"] = self.rng.choice(NAMES)
            if call_id is None or self.fault():
                del result["tool_call_id"]
            yield result

    def turn(self):
        for _ in range(self.rng.choice([0, 1, 1, 1, 2]) if self.n_ids or self.fault() else self.rng.choice([1, 1, 2])):
            message = {"role": "assistant", "content": self.content("assistant")}
            if not self.fault() and not any(map(str.strip, map(str, message["content"]))):
                message["content"] = "said"
            if self.rng.random() < 0.4:
                message["tool_calls"] = [self.call() for _ in range(self.rng.choice([1, 1, 2, 3]))]
                if self.rng.random() < 0.5:
                    message["content"] = self.rng.choice([None, ""])
                elif self.rng.random() < 0.2:
                    del message["content"]
            elif self.rng.random() < 0.1:
                message["tool_calls"] = self.rng.choice([[], None])
            yield message
            yield from self.results(message.get("tool_calls") or [])

    def request(self):
        rng, messages = self.rng, []
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            messages.append({"role": "system", "content": self.content("system")})
        for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])):
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                messages.append({"role": "user", "content": self.content("user")})
            if rng.random() < 0.1:
                messages.append({"role": "system", "content": self.content("system")})
            messages.extend(self.turn())
        if messages and messages[-1]["role"] == "assistant" and not self.fault():
            if rng.random() < 0.3:
                messages[-1]["prefix"] = True
            else:
                messages.append({"role": "user", "content": self.content("user")})
        if self.fault():
            rng.shuffle(messages)
        if self.fault() and messages and messages[0]["role"] == "assistant":
            messages[0]["prefix"] = True
        request = {"messages": messages}
        if self.version == "v15":
            if rng.random() < 0.6:
                request["reasoning_effort"] = rng.choice(["none", "high", "high", None])
        if self.fault():
            request["reasoning_effort"] = rng.choice(["high", "medium", "huge"])
        if rng.random() < 0.5:
            request["tools"] = [self.tool() for _ in range(rng.choice([0, 1, 2, 3]))]
        return request

    def tool(self):
        function = {"name": self.name(), "parameters": self.rng.choice(BAD_PARAMETERS if self.fault() else PARAMETERS)}
        if self.rng.random() < 0.8:
            function["description"] = self.text()
        if self.rng.random() < 0.3:
            function["strict"] = self.rng.random() < 0.5
        return {"type": "function", "function": function}


def of_version(tekken, version, folder):
    """A copy of a v15 tekken.json with the version and the control tokens of another one."""
    content = json.loads(pathlib.Path(tekken).read_text(encoding="utf-8"))
    if version != "v15":
        content["config"]["version"] = version
        del content["model_settings_builder"]
        for token in content["special_tokens"][FIRST_MISSING[version]:]:
            token["token_str"] = f"<SPECIAL_{token['rank']}>"
        if version == "v7":
            del content["special_tokens"]
    path = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "tekken.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


class Reference:
    """mistral_common in one process, its tokenizers loaded once."""

    tokenizers = {}
    urls = None

    @classmethod
    def chunk(cls, task):
        """Requests as lines of JSON, and for each its ids as JSON, or what refused it."""
        from mistral_common.protocol.instruct.request import ChatCompletionRequest
        from mistral_common.tokens.tokenizers import image, instruct
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

        version, path, seed, n = task
        logging.disable(logging.WARNING)
        # Most of the time would go into what is not compared: pixels, and the prompt as text.
        image.transform_image = lambda *_: None
        instruct.InstructTokenizerBase.decode = lambda *_, **__: ""
        cls.urls = cls.urls or pictures()
        if path not in cls.tokenizers:
            cls.tokenizers[path] = MistralTokenizer.from_file(path)
        rng, rows = random.Random(f"{version} {seed}"), []
        for _ in range(n):
            request = RandomConversation(rng, version, cls.urls).request()
            line = json.dumps(request, ensure_ascii=rng.random() < 0.5)
            try:
                parsed = ChatCompletionRequest.model_validate(request)
                ids = cls.tokenizers[path].encode_chat_completion(parsed).tokens
                rows.append((line, json.dumps(ids, separators=(",", ":")), None))
            except Exception as error:  # whatever it is, it is a refusal
                rows.append((line, "null", f"{type(error).__name__}: {error}".splitlines()[0]))
        return path, rows


def run(gust, path, lines):
    """Output and errors of gust, which must say something for each line."""
    command = [gust, "tokenize", "--chat", "--strict", "-m", path]
    text = "".join(line + "\n" for line in lines)
    start = time.monotonic()
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, encoding="utf-8")
    found = result.stdout.split("\n")[:-1]
    if len(found) != len(lines):
        sys.exit(f"{len(lines)} lines in, {len(found)} lines out: {result.stderr[-2000:]}")
    return found, result.stderr, time.monotonic() - start


class Check:
    """The counts of one version."""

    def __init__(self, gust, version):
        self.gust, self.version = gust, version
        self.counts, self.refusals = collections.Counter(), collections.Counter()
        self.seconds = 0.0

    def compare(self, path, rows):
        found, errors, seconds = run(self.gust, path, [line for line, _, _ in rows])
        self.seconds += seconds
        for number, ((line, wanted, error), ids) in enumerate(zip(rows, found), 1):
            self.counts["conversations"] += 1
            self.counts["refused"] += error is not None
            self.counts["with images"] += error is None and "image_url" in line
            self.counts["tokens"] += 0 if error else wanted.count(",") + 1
            self.refusals[(error or "").split(":")[0]] += error is not None
            if ids == wanted:
                continue
            self.counts["different"] += 1
            if self.counts["different"] <= 5:
                told = [line for line in errors.splitlines() if f"line {number}:" in line]
                print(f"{self.version}: {line[:3000]}\n  gust           {ids[:600]} {told}\n"
                      f"  mistral_common {error or wanted[:600]}")

    def report(self):
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items() if name != "different")
        print(f"{self.version}: {counts}: {self.counts['different']} different; gust took {self.seconds:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gust", required=True)
    parser.add_argument("--tekken", required=True, action="append", help="v15 vocabulary; may be given again")
    parser.add_argument("-n", action="append", metavar="VERSION=N", help="conversations of a version [all, v15=100000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes of mistral_common")
    args = parser.parse_args()
    wanted = {version: int(n) for version, n in (item.split("=") for item in args.n)} if args.n else DEFAULT
    n_different = 0
    with tempfile.TemporaryDirectory() as folder, multiprocessing.Pool(args.jobs) as pool:
        for version, n in wanted.items():
            paths = [of_version(tekken, version, folder) for tekken in args.tekken]
            sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
            tasks = [(version, paths[i % len(paths)], f"{args.seed} {i}", size) for i, size in enumerate(sizes)]
            check, waiting = Check(args.gust, version), collections.defaultdict(list)
            for path, rows in pool.imap_unordered(Reference.chunk, tasks):
                waiting[path] += rows
                if len(waiting[path]) >= 20 * CHUNK:
                    check.compare(path, waiting.pop(path))
            for path, rows in waiting.items():
                check.compare(path, rows)
            check.report()
            n_different += check.counts["different"]
    sys.exit(1 if n_different else 0)


if __name__ == "__main__":
    main()
