"""What the clients' cases share: the server's address, prompts, schemas, and how results are told.

The model behind the server is a toy, so prompts are some that it was trained on, schemas are bounded, and
what is checked is the form of an answer, never its wisdom.
"""

import base64
import json
import os
import re
import sys
import time
import traceback
import urllib.request
from pathlib import Path

# The keyed server, its key, and one that asks for no key.
BASE = os.environ.get("GUST_BASE", "")
KEY = os.environ.get("GUST_KEY", "")
OPEN_BASE = os.environ.get("GUST_OPEN_BASE", "")
MODEL = "mistral-medium-3.5"
WRONG_MODEL = "mistral-small-latest"
TIMEOUT_S = 60

CASES = ["chat", "stream", "tools", "parallel", "thinking", "image", "schema", "overflow", "model", "key", "abort", "open"]

HELLO = [{"role": "user", "content": "Hello"}]
SUM = [{"role": "user", "content": "What is 17+25?"}]
WEATHER_QUESTION = "What's the weather in Ottawa?"
TWO_QUESTION = "Weather in Ottawa and in Paris please"
# More tokens than the servers' context, which `scripts/check_clients.py` sets to 4,096.
LONG_TEXT = "The river and the castle. " * 1500

ROOT = Path(__file__).resolve().parents[3]
IMAGE_BASE64 = base64.b64encode((ROOT / "models/tiny/examples/star.png").read_bytes()).decode()
IMAGE_URL = f"data:image/png;base64,{IMAGE_BASE64}"
IMAGE_QUESTION = "Describe this image."

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Ottawa", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": WEATHER_PARAMETERS,
    },
}
WEATHER_RESULT = '{"condition": "sunny", "temperature": 21}'

VERDICT = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["positive", "negative"]},
        "sure": {"type": "boolean"},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["label", "sure", "stars"],
    "additionalProperties": False,
}
VERDICT_QUESTION = "Classify this text as positive or negative: 'Great product, fast shipping'"

# The toy never calls twice by itself: ids 9 and 2 are [TOOL_CALLS] and </s>. The bias makes another call
# likelier than the end, and the penalty, which grows with each call, ends the row after a few.
SEVERAL_CALLS = {"logit_bias": {"9": 23}, "frequency_penalty": 2}
# No end: a reply that is still being written when its client leaves.
ENDLESS = {"logit_bias": {"2": -100}}
ENDLESS_TOKENS = 3000


class NotExpressible(Exception):
    """The client has no way to say what the case asks."""


def check(condition, what):
    """Fails the case with `what` where it does not hold."""
    if not condition:
        raise AssertionError(what)


def check_text(text):
    """A whole answer in words."""
    check(isinstance(text, str) and text.strip(), f"expected text, found {text!r}")


def check_call(name, arguments, call_id=None):
    """A call of the weather tool, whose arguments keep its schema. They may come as text or parsed."""
    check(name == "get_weather", f"called {name!r}")
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    check(set(arguments) == {"city"} and arguments["city"] in ("Ottawa", "Paris"), f"arguments {arguments!r}")
    if call_id is not None:
        check(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", call_id), f"call id {call_id!r}")


def check_ids(ids):
    """Ids of parallel calls: several, and each its own, also in the nine characters that some clients keep."""
    check(len(ids) >= 2, f"expected several calls, found {len(ids)}")
    check(len({i[:9] for i in ids}) == len(ids), f"ids repeat: {ids}")


def check_verdict(text):
    """A text that is JSON of the schema."""
    value = json.loads(text) if isinstance(text, str) else text
    check(set(value) == {"label", "sure", "stars"}, f"keys of {value!r}")
    check(value["label"] in ("positive", "negative") and isinstance(value["sure"], bool), f"values of {value!r}")
    check(isinstance(value["stars"], int) and 1 <= value["stars"] <= 5, f"stars of {value!r}")


def expect(error, call, test=lambda e: True):
    """`call` raises `error`, for which `test` holds; gives the exception."""
    try:
        answer = call()
    except error as e:
        check(test(e), f"{type(e).__name__} is not as expected: {e}")
        return e
    raise AssertionError(f"expected {error}, found an answer: {str(answer)[:200]}")


def metrics():
    """The keyed server's numbers by name, those of labelled series summed."""
    request = urllib.request.Request(f"{BASE}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read().decode()
    values = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"([a-z_:][a-z0-9_:]*)(?:\{.*\})? ([-+0-9.eE]+)", line):
            values[found[1]] = values.get(found[1], 0.0) + float(found[2])
    return values


RUNNING = "gust_requests_running"
GENERATED = "gust_generated_tokens_total"


def check_abandoned(before):
    """No request runs soon after a client left, and the reply was not written to its end."""
    deadline = time.monotonic() + 5
    while (now := metrics())[RUNNING] > 0:
        check(time.monotonic() < deadline, f"{now[RUNNING]:.0f} requests run 5 s after the client left")
        time.sleep(0.05)
    n_written = now[GENERATED] - before[GENERATED]
    check(n_written < ENDLESS_TOKENS - 100, f"{n_written:.0f} tokens were written for a client that left")


def run(client, cases):
    """Runs a client's cases, a dict from case to function or to the reason why there is none; a line for each."""
    unknown = set(cases) - set(CASES)
    assert not unknown, f"{client}: unknown cases {unknown}"
    only = set(filter(None, os.environ.get("GUST_CASES", "").split(",")))
    for case in CASES:
        if only and case not in only:
            continue
        what = cases.get(case)
        started = time.monotonic()
        result, detail = "pass", ""
        if what is None or isinstance(what, str):
            result, detail = ("n/a", what) if what else ("fail", "not written")
        else:
            try:
                what()
            except NotExpressible as e:
                result, detail = "n/a", str(e)
            except BaseException as e:  # a client may raise anything, also what is no Exception
                if isinstance(e, KeyboardInterrupt):
                    raise
                where = traceback.extract_tb(e.__traceback__)
                ours = [f for f in where if "tests/clients" in f.filename.replace("\\", "/")] or where
                detail = f"{type(e).__name__}: {str(e)[:600]} (line {ours[-1].lineno})"
                result = "fail"
                if os.environ.get("GUST_TRACE"):
                    traceback.print_exc()
        line = {"client": client, "case": case, "result": result, "detail": detail, "s": round(time.monotonic() - started, 2)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
