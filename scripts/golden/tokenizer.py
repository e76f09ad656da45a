#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/plain.jsonl: texts and their token ids by mistral_common.

The vocabulary is that of the built-in model, the first 3,096 ranks of the true one; each line is an object with `text`
and `ids`. `scripts/check_tokenizer.py` compares with the whole vocabulary, on many more texts.
"""

import argparse
import importlib.util
import json
import logging
import random
from pathlib import Path

N_SPECIAL, N_RANKS = 1000, 3096
N_RANDOM = 300
TEXTS = [
    "", "a", " a", "  a", "\n", "\r\n\r\n \t", "Hello, world!", "HELLO World", "helloWORLD", "HTTPServer2Go", "don't", "3.14e-10",
    "/usr/local/bin/", "foo/\n/bar", "----\n\n", "    def f(x):\n        return x  # c\n", "\tif (a) {\n\t\tb;\n\t}\n", "cafe\u0301", "naïve",
    "東京タワー", "Привет, мир!", "مرحبا بالعالم", "हिन्दी", "👩‍👩‍👧‍👦", "ǅungla", "ʰa", "[INST] hi [/INST]</s>", "<SPECIAL_20>", "\x00\x01",
    "\u0301\u0301A", "A\u0301B", "中A", "AB中CD", "x \u3000 y", "\u2028\n ", "   \n   x", "a\u00a0b", "½Ⅷ٣", "the " * 50, "1" * 40, "\ufffd",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tekken", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    from mistral_common.tokens.tokenizers.base import TokenizerVersion
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    spec = importlib.util.spec_from_file_location("check", Path(__file__).resolve().parents[1] / "check_tokenizer.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)

    file = json.loads(args.tekken.read_text())
    tokenizer = Tekkenizer(
        vocab=file["vocab"][:N_RANKS], special_tokens=file["special_tokens"], pattern=file["config"]["pattern"],
        vocab_size=N_SPECIAL + N_RANKS, num_special_tokens=N_SPECIAL, version=TokenizerVersion.v15,
    )
    rng = random.Random(1)
    texts = TEXTS + [check.random_text(rng) for _ in range(N_RANDOM)]
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "plain.jsonl", "w") as out:
        for text in texts:
            out.write(json.dumps({"text": text, "ids": tokenizer.encode(text, bos=False, eos=False)}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
