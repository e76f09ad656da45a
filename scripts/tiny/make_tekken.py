#!/usr/bin/env python3
"""Makes the tiny checkpoint's tekken.json: 1,000 special tokens and the first 3,096 ranks of tekken.

The ranks come from the tekken that mistral_common carries; the special tokens are those of tekken v15, which no file of
mistral_common has, so the named ones stand here. With --compare the result is compared with another file, as bytes.
`cut` also serves other programs that need a tekken.json with a smaller vocabulary.
"""

import argparse
import json
import sys
from pathlib import Path

N_SPECIAL = 1000
NAMED = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]", 13: "[IMG_END]",
    14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]",
    24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]",
    36: "[MODEL_SETTINGS]", 37: "[/MODEL_SETTINGS]",
}


def own_tekken() -> dict:
    """The tekken.json inside mistral_common."""
    import mistral_common

    return json.loads((Path(mistral_common.__file__).parent / "data/tekken_240911.json").read_bytes())


def cut(tekken: dict, n_vocab: int) -> dict:
    """The same vocabulary with `n_vocab` ids, the special ones included."""
    n_ranks = n_vocab - tekken["config"]["default_num_special_tokens"]
    config = tekken["config"] | {"num_vocab_tokens": n_ranks, "default_vocab_size": n_vocab}
    return tekken | {"config": config, "vocab": tekken["vocab"][:n_ranks]}


def tiny(tekken: dict, n_vocab: int, image_size: int) -> dict:
    """The tiny checkpoint's tekken: cut, v15, with its image settings."""
    small = cut(tekken, n_vocab)
    specials = [{"rank": i, "token_str": NAMED.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(N_SPECIAL)]
    effort = {"type": "enum", "values": ["none", "high"], "accepts_none": True, "default": "none"}
    return {
        "config": small["config"] | {"version": "v15"},
        "vocab": small["vocab"],
        "special_tokens": specials,
        "image": {"image_patch_size": 14, "max_image_size": image_size, "spatial_merge_size": 2},
        "model_settings_builder": {"reasoning_effort": effort},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--source", type=Path, help="tekken.json to take the ranks from [the one inside mistral_common]")
    parser.add_argument("--n-vocab", type=int, default=4096, help="ids in all [%(default)s]")
    parser.add_argument("--image-size", type=int, default=224, help="longest side of a picture in pixels [%(default)s]")
    parser.add_argument("--compare", type=Path, help="tekken.json that must come out the same")
    args = parser.parse_args()
    text = json.dumps(tiny(json.loads(args.source.read_bytes()) if args.source else own_tekken(), args.n_vocab, args.image_size), ensure_ascii=False)
    if args.out:
        args.out.write_text(text)
    if args.compare:
        same = args.compare.read_text() == text
        print("same bytes" if same else "same JSON" if json.loads(text) == json.loads(args.compare.read_bytes()) else "different")
        return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
