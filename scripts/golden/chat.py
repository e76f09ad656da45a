"""Golden data of the chat layer, from mistral_common.

Writes conversations.jsonl (request -> ids or error, for each version of the chat format) and
replies.jsonl (ids -> events) for the given v15 vocabulary. scripts/check_chat.py compares random
conversations, which are too many to commit.
"""

import argparse
import json
import logging
import pathlib
import re
import tempfile

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

CONTROL = re.compile(r"(\[THINK\]|\[/THINK\]|\[TOOL_CALLS\]|\[ARGS\]|</s>)")
VERSIONS = ["v7", "v11", "v13", "v15"]


def of_version(tekken, version, folder):
    """A copy of a v15 tekken.json that mistral_common takes for one of another version."""
    tekken = pathlib.Path(tekken)
    if version == "v15":
        return tekken
    content = json.loads(tekken.read_text(encoding="utf-8"))
    content["config"]["version"] = version
    del content["model_settings_builder"]
    path = pathlib.Path(folder) / f"tekken_{version}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


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
    paths = sorted(fixtures.glob("[0-9]*.json"))
    requests = [json.loads(path.read_text(encoding="utf-8"))["request"] for path in paths]
    rows = [{"name": path.stem, "request": request} for path, request in zip(paths, requests)]
    with tempfile.TemporaryDirectory() as folder:
        for version in VERSIONS:
            tokenizer = MistralTokenizer.from_file(str(of_version(tekken, version, folder)))
            for row, request in zip(rows, requests):
                if version != "v15":
                    # Those models have no such setting.
                    request = request | {"reasoning_effort": None}
                row[version] = encode(tokenizer, request)
    write_lines(out_dir / "conversations.jsonl", rows)

    cases = json.loads((fixtures / "parse_cases.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        case["ids"] = reply_ids(tokenizer, case["raw"])
    write_lines(out_dir / "replies.jsonl", cases)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures", required=True, help="folder of fixtures to be encoded again")
    parser.add_argument("--tekken", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    generate(args.out, args.fixtures, args.tekken)


if __name__ == "__main__":
    main()
