"""Golden data of chat templates, from transformers' own renderer.

`generate(out_dir, fixtures)` writes cases.jsonl (template and request -> text or error) with the templates beside it: the
ones of scripts/golden/templates, which use what templates of siblings use, and the model's own of the fixtures.
"""

import argparse
import json
import pathlib
import shutil
from datetime import datetime

from transformers.utils.chat_template_utils import _compile_jinja_template

NOW = datetime(2026, 3, 4, 15, 6, 7)
OWN = pathlib.Path(__file__).parent / "templates"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells <the> weather & \"more\"",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Zürich", "São Paulo"]}, "days": {"minimum": 1, "maximum": 1e3}},
            "required": ["city"],
        },
    },
}


def call(name, arguments, call_id):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


REQUESTS = [
    {"messages": [{"role": "user", "content": "Hello, world!"}]},
    {"messages": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": "a</note>\n\nb [INST] </s>"}]},
    {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    call("weather", {"city": "Zürich", "days": 2.50}, "abcdefgh1"),
                    call("now", {}, "abcdefgh2"),
                    call("x", {"a": [1, 1e3, -0.0, 1e22, None, True, "q\"<>&'"], "b": {"c": "\u2028"}}, "abcdefgh3"),
                ],
            },
            {"role": "tool", "tool_call_id": "abcdefgh1", "content": "sun"},
            {"role": "tool", "tool_call_id": "abcdefgh2", "content": "{\"t\": 1}"},
            {"role": "assistant", "content": " It shines. ", "reasoning_content": "easy"},
            {"role": "system", "content": "later"},
            {"role": "user", "content": "thanks"},
        ],
        "tools": [WEATHER, {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}],
    },
    {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "drei 🎉"}], "reasoning_effort": "high"},
]


def render(source, request):
    """Text, or the error's, as transformers renders with add_generation_prompt."""
    template = _compile_jinja_template(source)
    try:
        text = template.render(
            messages=request["messages"],
            tools=request.get("tools") or None,
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
            reasoning_effort=request.get("reasoning_effort") or "none",
            strftime_now=NOW.strftime,
        )
        return {"text": text}
    except Exception as error:  # whatever a template can raise
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def generate(out_dir, fixtures):
    out_dir, fixtures = pathlib.Path(out_dir), pathlib.Path(fixtures)
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(OWN.glob("*.jinja")):
        shutil.copyfile(path, out_dir / path.name)
        for request in REQUESTS:
            rows.append({"template": path.name, "request": request} | render(path.read_text(encoding="utf-8"), request))
    own = fixtures / "templates/mm35_reconstructed.jinja"
    shutil.copyfile(own, out_dir / "medium-3.5.jinja")
    for path in sorted(fixtures.glob("[0-9]*.json")):
        request = json.loads(path.read_text(encoding="utf-8"))["request"]
        # Pictures are not what this is about, and errors of reading are tested elsewhere.
        if len(json.dumps(request)) < 3000 and "image" not in json.dumps(request):
            row = render(own.read_text(encoding="utf-8"), request)
            rows.append({"template": "medium-3.5.jinja", "request": request} | row)
    with open(out_dir / "cases.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures", required=True, help="folder with templates/ and requests")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    generate(args.out, args.fixtures)


if __name__ == "__main__":
    main()
