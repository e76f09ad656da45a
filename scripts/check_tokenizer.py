#!/usr/bin/env python3
"""Compares gust's token ids with mistral_common's on random strings, and decodes them back.

    scripts/check_tokenizer.py --gust target/release/gust --tekken tekken.json [-n 100000]

Strings of all scripts, emoji sequences, combining marks, code, control characters and broken UTF-8
(replaced, as JSON cannot carry it). Needs Python's `mistral_common`. Exit code 0: all equal.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
import unicodedata

SCRIPTS = [
    (0x20, 0x7E), (0xA0, 0x17F), (0x180, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x7BF), (0x900, 0x97F), (0x980, 0x9FF),
    (0xA00, 0xAFF), (0xB00, 0xBFF), (0xC00, 0xCFF), (0xD00, 0xDFF), (0xE00, 0xEFF), (0xF00, 0xFFF),
    (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FF),
    (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1C90, 0x1CBF), (0x1E00, 0x1FFF), (0x2000, 0x206F),
    (0x2070, 0x23FF), (0x2460, 0x27BF), (0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x3100, 0x33FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xA640, 0xA7FF), (0xAC00, 0xD7AF),
    (0xE000, 0xE0FF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFE6F), (0xFF00, 0xFFEF),
    (0x10000, 0x1007F), (0x10330, 0x1034F), (0x10400, 0x1044F), (0x12000, 0x120FF),
    (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF),
]
WORDS = (
    "the of and hello World don't I'll HTTPServer iPhone naïve café straße ÉCOLE Привет мир עברית "
    "العربية हिन्दी ภาษาไทย 日本語 テキスト 中文字符 한국어 Ελληνικά Tiếng Việt [INST] [/INST] <s> </s> [THINK] "
    "[TOOL_CALLS] <SPECIAL_20> def return self.x += 1; #include <stdio.h> fn main() { } => != == // "
    "/* */ ::<T> \"key\": null, 3.14e-10 0xFF /usr/local/bin https://a.b/c?d=e&f=g#h \\n $$ ---- ==== "
    "__init__ lambda x: &&|| <div class=\"a\"> </div> SELECT * FROM t; ,,, ... ??? 。。。 、 「」"
).split(" ")
BLANKS = [" ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0",
          "\u3000", "\u2028", "\u0085", "\x0b", "\x0c", "\u200b", "\ufeff", "\n/", "/\n"]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "👍🏽", "❤️", "1️⃣", "🫠", "\u200d", "\ufe0f"]


def random_char(rng):
    low, high = rng.choice(SCRIPTS)
    return chr(rng.randint(low, high))


def random_part(rng):
    kind = rng.randrange(12)
    if kind < 3:
        return rng.choice(WORDS)
    if kind == 3:
        return rng.choice(BLANKS) * rng.choice((1, 1, 1, 2, 5))
    if kind == 4:
        return rng.choice(EMOJI)
    if kind == 5:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))
    if kind == 6:
        return random_char(rng) + chr(rng.randint(0x300, 0x36F)) * rng.randint(1, 3)
    if kind == 7:
        return chr(rng.randrange(0x20))
    if kind == 8:
        return random_char(rng) * rng.randint(1, 40)
    if kind == 9:
        code = rng.randrange(0x110000)
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"
    if kind == 10:
        whole = "".join(random_char(rng) for _ in range(4)).encode()
        return whole[rng.randrange(3):][: rng.randint(1, 9)].decode(errors="replace")
    return unicodedata.normalize(rng.choice(("NFD", "NFKD")), rng.choice(WORDS))


def random_text(rng):
    glue = rng.choice(("", "", " ", rng.choice(BLANKS)))
    return glue.join(random_part(rng) for _ in range(rng.randint(1, 14)))


def run(gust, command, tekken, lines):
    result = subprocess.run(
        [gust, command, "-m", tekken, "--lines"],
        input="\n".join(lines) + "\n", capture_output=True, text=True, check=False,
    )
    if result.returncode:
        sys.exit(f"gust {command} failed: {result.stderr}")
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gust", required=True)
    parser.add_argument("--tekken", required=True)
    parser.add_argument("-n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    reference = Tekkenizer.from_file(args.tekken)
    rng = random.Random(args.seed)
    texts = [random_text(rng) for _ in range(args.n)]
    got = run(args.gust, "tokenize", args.tekken, map(json.dumps, texts))
    back = run(args.gust, "detokenize", args.tekken, map(json.dumps, got))
    if not len(texts) == len(got) == len(back):
        sys.exit(f"{len(texts)} texts, {len(got)} lines of ids, {len(back)} texts back")
    wrong_ids = wrong_text = 0
    for text, ids, again in zip(texts, got, back):
        wanted = reference.encode(text, bos=False, eos=False)
        if ids != wanted:
            wrong_ids += 1
            if wrong_ids <= 5:
                print(f"{text!r}\n  gust           {ids}\n  mistral_common {wanted}")
        wrong_text += again != text
    n_bytes = sum(len(text.encode()) for text in texts)
    print(f"{args.n} strings, {n_bytes} bytes, {sum(map(len, got))} tokens: "
          f"{wrong_ids} with other ids, {wrong_text} not decoded to themselves")
    sys.exit(1 if wrong_ids or wrong_text else 0)


if __name__ == "__main__":
    main()
