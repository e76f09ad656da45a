#!/usr/bin/env python3
"""Runs the examples of published guides to Mistral Medium 3.5 against `gust serve`, as they stand there.

    scripts/check_seeds.py DIR       DIR holds the guides as text files, 000_….txt to 004_….txt

Each example is cut out of its guide; only the base URL, the key, the pictures' URLs (to a server on this machine)
and the system prompt's file (`hf_hub_download` gives one from here) are exchanged. Indentation that a guide's text
has lost is restored, by the table below. What the toy behind the server cannot be trusted with is arranged outside
of the examples: where they leave calling to the model (`tool_choice="auto"`), a call is required, and `eval` is a
stand-in; replies end after 300 tokens. No version of `mistralai` has both `from mistralai import Mistral` and
`reasoning_effort`, so the name is put there in the one that has the latter. Prints a table; exits with 1 if an example fails.
"""

import argparse
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/clients"))
from harness import Packages, Server, Unusable, binary  # noqa: E402

# guide, what it shows, where it begins (after the example before it), where it ends, what it is
CHAT, COMPLETE, OPENAI = "from mistralai import Mistral", "response = client.chat.complete(", "from openai import OpenAI"
ANSWER = "print(response.choices[0].message.content)"
EXAMPLES = [
    ("001", "chat", CHAT, ANSWER),
    ("001", "curl", "curl https://", "}'"),
    ("001", "system prompt, temperature", CHAT, ANSWER),
    ("001", "streaming", CHAT, 'print(content, end="", flush=True)'),
    ("001", "reasoning_effort none", COMPLETE, 'reasoning_effort="none"\n)'),
    ("001", "reasoning_effort high", COMPLETE, 'reasoning_effort="high"\n)'),
    ("001", "effort and temperature", "# Deterministic classification", "temperature=0.7\n)"),
    ("001", "function calling with follow-up", CHAT, "print(follow_up.choices[0].message.content)"),
    ("001", "image URL", CHAT, ANSWER),
    ("001", "several images", COMPLETE, "]\n}\n]\n)"),
    ("001", "JSON mode", COMPLETE, "print(data)"),
    ("001", "system prompt of several lines", COMPLETE, "}\n]\n)"),
    ("001", "the openai package", OPENAI, ANSWER),
    ("001", "retry on 429", "import time", "else:\nraise"),
    ("002", "curl", "curl https://", "}'"),
    ("003", "the openai package", OPENAI, ANSWER),
    ("003", "function calling", "tools = [", "print(tool_call.function.name, tool_call.function.arguments)"),
    ("003", "reasoning_effort none and high", "# Quick chat reply", '"high"},\n)'),
    ("003", "image URL", "response = client.chat.completions.create(", "temperature=0.3,\n)"),
    ("004", "instruction following, system prompt's file", "from datetime import", "print(assistant_message)"),
    ("004", "tool call with image and follow-up", "import json\nfrom datetime", ANSWER),
    ("004", "vision, reasoning_effort high", "from datetime import", ANSWER),
]

# Beginnings of lines whose indentation is lost in the guides, and how deep they stand.
DEPTHS = {
    "content = chunk.": 1, "if content:": 1, "print(content, end": 2,
    "tool_call = message.tool_calls[0]": 1, "args = json.loads(": 1, "# Execute the tool": 1, "result = eval(": 1,
    "# Send the result back": 1, "follow_up = client.": 1, "print(follow_up.": 1,
    "for attempt in range": 1, "try:": 2, "return client.chat": 3, "except Exception as e:": 2, 'if "429" in': 3,
    "wait = ": 4, 'print(f"Rate limited': 4, "time.sleep(wait)": 4, "else:": 3, "raise": 4,
    "file_path = hf_hub": 1, "with open(file_path": 1, "system_prompt = file.": 2, "today = ": 1, "yesterday = ": 1,
    "model_name = ": 1, "return system_prompt": 1, "return str(eval": 1, "function_name = ": 1, "function_args = ": 1,
    "if function_name ==": 1, "result = my_calculator": 2, "results.append(": 2, "messages.append(\n": 1,
}

# Before an example: what guides give once and use later, and what is arranged for the toy.
BEFORE = '''
import sys, types
eval = lambda expression: 42
hub = types.ModuleType("huggingface_hub")
hub.hf_hub_download = lambda repo_id, filename: {prompt_file!r}
sys.modules["huggingface_hub"] = hub
def _calling(create):
    def created(self, *args, **kwargs):
        if kwargs.get("tool_choice") == "auto":
            kwargs["tool_choice"] = "required"
        return create(self, *args, **kwargs)
    return created
import openai, mistralai, mistralai.client
from openai.resources.chat.completions import Completions
from mistralai.client.chat import Chat
mistralai.Mistral = mistralai.client.Mistral
Completions.create = _calling(Completions.create)
Chat.complete = _calling(Chat.complete)
'''
CLIENTS = {
    "001": 'from mistralai import Mistral\nclient = Mistral(api_key="your-api-key")\n',
    "003": 'from openai import OpenAI\nclient = OpenAI(api_key="your-mistral-api-key", base_url="https://api.mistral.ai/v1")\n',
}
# After an example: that it did what it shows, where it does not say so itself.
AFTER = {
    "retry on 429": 'print(chat_with_retry([{"role": "user", "content": "Hello"}], max_retries=5).choices[0].message.content)',
    "function calling with follow-up": "assert message.tool_calls, 'no call'",
    "tool call with image and follow-up": "assert tool_calls, 'no call'",
}
SYSTEM_PROMPT = "You are {name}, a helpful assistant. Today is {today}, yesterday was {yesterday}.\n"


def restored(code):
    """The code with its lines' depths: a statement's first line is looked up, what follows in brackets is free."""
    out, statement, depth = [], "", 0
    for line in code.split("\n"):
        if not statement:
            known = [d for start, d in DEPTHS.items() if (line + "\n").startswith(start)]
            depth = known[0] if known else 0
        # The lines of a text in triple quotes are its own.
        in_text = statement.count('"""') % 2 == 1
        out.append(line if in_text else "    " * depth + line)
        statement += line + "\n"
        if statement.count('"""') % 2 == 0 and _is_closed(statement):
            statement = ""
    return "\n".join(out)


def _is_closed(statement):
    bare = re.sub(r'""".*?"""|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*', "", statement, flags=re.S)
    return sum(bare.count(c) for c in "([{") <= sum(bare.count(c) for c in ")]}")


def cut(folder):
    """Each example's guide, name and code."""
    places, texts = {}, {}
    for guide, name, start, end in EXAMPLES:
        if guide not in texts:
            found = sorted(Path(folder).glob(f"{guide}_*.txt"))
            if not found:
                raise Unusable(f"{folder} has no {guide}_….txt")
            texts[guide] = found[0].read_text()
        begin = texts[guide].find(start, places.get(guide, 0))
        stop = texts[guide].find(end, begin)
        if begin < 0 or stop < 0:
            raise Unusable(f"guide {guide} has no example of {name}, from {start!r} to {end!r}")
        places[guide] = stop + len(end)
        yield guide, name, texts[guide][begin : stop + len(end)]


def adapted(code, base, pictures):
    """The code with this machine's addresses."""
    code = re.sub(r"https://[^\s\"']+\.(?:png|jpg)[^\s\"']*", f"{pictures}/star.png", code)
    code = re.sub(r"https://api\.mistral\.ai|https://openrouter\.ai/api|http://localhost:8000", base, code)
    # This package's default is Mistral's own server.
    return code.replace("Mistral(api_key=", f'Mistral(server_url="{base}", api_key=')


def run_python(python, code, key):
    code = code.replace("your-mistral-api-key", key).replace("your-api-key", key).replace('"EMPTY"', f'"{key}"')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "example.py"
        file.write_text(code)
        found = subprocess.run([python, file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return found.returncode == 0, found.stdout


def run_curl(code, key):
    environment = os.environ | {"MISTRAL_API_KEY": key, "OPENROUTER_API_KEY": key}
    # A guide's text may have lost the line breaks of the shell, never the backslashes before them.
    found = subprocess.run(["bash", "-c", code.replace("curl ", "curl -sS ", 1)], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        return bool(json.loads(found.stdout)["choices"][0]["message"]["content"]), found.stdout
    except (ValueError, KeyError):
        return False, found.stdout


def reasoning_parameter(base, key):
    """OpenRouter's `reasoning` and `reasoning_details`, which guide 000 tells of in words and a table."""

    def post(**fields):
        body = {"model": "mistralai/mistral-medium-3-5", "temperature": 0, "max_tokens": 300} | fields
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "HTTP-Referer": "http://x.example", "X-Title": "x"}
        request = urllib.request.Request(f"{base}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["choices"][0]["message"]

    question = [{"role": "user", "content": "What is 17+25?"}]
    for reasoning in [{"enabled": True}, {"effort": "high"}, {"max_tokens": 60}]:
        message = post(messages=question, reasoning=reasoning)
        if not (message["reasoning_details"][0]["text"] and message["reasoning"] and message["content"]):
            return False, f"{reasoning}: {message}"
    follow = post(messages=[*question, message, {"role": "user", "content": "Thanks"}], reasoning={"enabled": True})
    hidden = [post(messages=question, reasoning={"effort": "high", "exclude": True}),
              post(messages=question, reasoning={"effort": "high"}, include_reasoning=False)]
    is_hidden = not any(h.get("reasoning") or h.get("reasoning_details") for h in hidden)
    return bool(follow["content"]) and is_hidden, f"{follow} {hidden}"


def pictures():
    """The address of a server that has one picture."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=ROOT / "models/tiny/examples")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def busy(server, seconds):
    """Holds the server's only slot for a while."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "logit_bias": {"2": -100}}
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.base}/v1/chat/completions", json.dumps(body).encode(), headers)
    response = urllib.request.urlopen(request, timeout=60)
    response.readline()
    threading.Timer(seconds, response.close).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="the guides")
    parser.add_argument("--gust", help="the program to test; cargo's debug build otherwise")
    parser.add_argument("--cache", default=ROOT / "target/clients", help="where packages are kept")
    parser.add_argument("--only", help="examples with this in their name")
    parser.add_argument("--show", action="store_true", help="what each example prints")
    options = parser.parse_args()
    n_failed = 0
    try:
        program, python = binary(options.gust), Packages(options.cache).python("requirements")
        # Guide 002 is about the model's predecessor and has its name.
        common = ["--ctx", "8192", "--max-tokens", "300", "--alias", "mistral-medium-3.1", "--allow-fetch", "127.0.0.1"]
        with Server(program, *common) as server, Server(program, "--ctx", "8192", "--slots", "1", "--queue", "0") as narrow, \
                tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
            prompt.write(SYSTEM_PROMPT)
            prompt.flush()
            images = pictures()
            print("| guide | example | |\n|---|---|:-:|")
            runs = [("000", "`reasoning` parameter", None), *cut(options.folder)]
            for guide, name, code in runs:
                if options.only and options.only not in name:
                    continue
                at = narrow if name == "retry on 429" else server
                if code is None:
                    good, output = reasoning_parameter(at.base, at.key)
                elif name == "curl":
                    good, output = run_curl(adapted(code, at.base, images), at.key)
                else:
                    if at is narrow:
                        busy(narrow, 5)  # longer than the packages take to be imported
                    # Each guide's own client, for examples that go on from earlier ones.
                    client = "" if re.search(r"client = |def chat", code) and "client = " in code else CLIENTS.get(guide, "")
                    indented = code if guide == "003" else restored(code)
                    text = "\n".join([BEFORE.format(prompt_file=prompt.name), client, indented, AFTER.get(name, "")])
                    good, output = run_python(python, adapted(text, at.base, images), at.key)
                    if name == "retry on 429":
                        good = good and "Rate limited" in output
                n_failed += not good
                print(f"| {guide} | {name} | {'✓' if good else '**✗**'} |", flush=True)
                if not good or options.show:
                    print(textwrap.indent(output[-700:], "    "))
    except Unusable as e:
        sys.exit(f"check_seeds: {e}")
    sys.exit(bool(n_failed))


if __name__ == "__main__":
    main()
