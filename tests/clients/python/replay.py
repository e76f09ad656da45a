"""A long agent session through one client's own serialisers: `replay.py openai|mistralai TURNS EFFORT`.

Each turn is user -> call -> result -> text, everything before it is sent again in full each time, and the
assistant's messages are what the server answered, as the client's own types write them. Prints a line of JSON
for each request; `scripts/check_replay.py` judges them.
"""

import json
import random
import sys

from common import BASE, KEY, MODEL, TIMEOUT_S

CITIES = ["Ottawa", "Paris", "Tokyo", "Berlin", "Rome", "Lima"]
WORDS = (
    "read the file before you change it and keep the style of the code around it run the tests after each change and "
    "tell what failed never guess a name look it up first answer in few words and name the place of each fault"
).split()


def _system_prompt():
    """About 1,500 tokens of rules, the same each time."""
    r = random.Random(5)
    rules = [f"{n}. {' '.join(r.choice(WORDS) for _ in range(14)).capitalize()}." for n in range(1, 61)]
    return "You are a helpful coding assistant.\n" + "\n".join(rules)


def _tool(name, properties, description):
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_PATH = {"type": "string", "enum": ["src/main.rs", "src/lib.rs", "README.md"]}
_YES = {"type": "boolean"}
_LINE = {"type": "integer", "minimum": 1, "maximum": 99}
TOOLS = [
    _tool("get_weather", {"city": {"type": "string", "enum": CITIES}}, "Get the current weather for a city"),
    _tool("read_file", {"path": _PATH, "from": _LINE, "to": _LINE}, "Read some lines of a file"),
    _tool("write_file", {"path": _PATH, "overwrite": _YES}, "Write a file"),
    _tool("list_files", {"hidden": _YES}, "List the files of the folder"),
    _tool("run_tests", {"quick": _YES, "retries": _LINE}, "Run the tests and return what failed"),
    _tool("search", {"path": _PATH, "whole_words": _YES}, "Search a file"),
    _tool("git_status", {"short": _YES}, "Tell what has changed"),
    _tool("git_diff", {"path": _PATH}, "Show how a file has changed"),
]


def _question(turn):
    return f"Step {turn}: what's the weather in {CITIES[turn % len(CITIES)]}?"


def _result(turn):
    return json.dumps({"condition": ["sunny", "rainy", "cloudy"][turn % 3], "temperature": turn - 9, "step": turn})


class _OpenAI:
    def __init__(self, effort):
        import openai

        self.client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, timeout=TIMEOUT_S, max_retries=0)
        self.effort = effort

    def answer(self, messages, choice):
        """The assistant's message and the usage."""
        with self.client.chat.completions.stream(
            model=MODEL, messages=messages, tools=TOOLS, tool_choice="required" if choice else "none", temperature=0,
            max_tokens=300, reasoning_effort=self.effort, stream_options={"include_usage": True},
            extra_headers={"x-session-affinity": "replay"},
        ) as stream:
            for _ in stream:
                pass
            whole = stream.get_final_completion()
        usage = whole.usage
        return whole.choices[0].message, (usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens)

    def calls(self, message):
        return [(call.id, call.function.name) for call in message.tool_calls or []]


class _Mistral:
    def __init__(self, effort):
        from mistralai.client import Mistral, models

        self.models = models
        self.client = Mistral(server_url=BASE, api_key=KEY, timeout_ms=TIMEOUT_S * 1000)
        self.effort = effort

    def answer(self, messages, choice):
        text, thoughts, calls, usage = "", "", {}, None
        with self.client.chat.stream(
            model=MODEL, messages=messages, tools=TOOLS, tool_choice="any" if choice else "none", temperature=0,
            max_tokens=300, reasoning_effort=self.effort, http_headers={"x-affinity": "replay"},
        ) as stream:
            for event in stream:
                usage = event.data.usage or usage
                delta = event.data.choices[0].delta
                for part in delta.content if isinstance(delta.content, list) else []:
                    if part.type == "thinking":
                        thoughts += "".join(inner.text for inner in part.thinking)
                    else:
                        text += part.text
                text += delta.content if isinstance(delta.content, str) else ""
                for piece in delta.tool_calls or []:
                    call = calls.setdefault(piece.index, {"id": piece.id, "name": "", "arguments": ""})
                    call["name"] += piece.function.name
                    call["arguments"] += piece.function.arguments
        m = self.models
        made = [
            m.ToolCall(id=c["id"], function=m.FunctionCall(name=c["name"], arguments=c["arguments"])) for c in calls.values()
        ]
        content = text
        if thoughts:
            content = [m.ThinkChunk(thinking=[m.TextChunk(text=thoughts)])]
            content += [m.TextChunk(text=text)] if text else []
        message = m.AssistantMessage(content=content, tool_calls=made or None)
        cached = usage.model_dump()["prompt_tokens_details"]["cached_tokens"]
        return message, (usage.prompt_tokens, usage.completion_tokens, cached)

    def calls(self, message):
        return [(call.id, call.function.name) for call in message.tool_calls or []]


def main(client, turns, effort):
    agent = {"openai": _OpenAI, "mistralai": _Mistral}[client](effort)
    messages = [{"role": "system", "content": _system_prompt()}]

    def ask(turn, choice):
        message, (prompt, completion, cached) = agent.answer(messages, choice)
        messages.append(message)
        line = {"client": client, "turn": turn, "prompt": prompt, "completion": completion, "cached": cached}
        print(json.dumps(line), flush=True)
        return message

    for turn in range(1, int(turns) + 1):
        messages.append({"role": "user", "content": _question(turn)})
        message = ask(turn, True)
        calls = agent.calls(message)
        assert calls, f"turn {turn}: no call in {message}"
        for call_id, name in calls:
            messages.append({"role": "tool", "tool_call_id": call_id, "name": name, "content": _result(turn)})
        ask(turn, False)


main(*sys.argv[1:])
