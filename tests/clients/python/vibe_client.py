"""`mistral-vibe`: the adapters that its agent turns go through, in each of its five ways to speak.

These are its own functions from message history to completion result: request builder, HTTP client, stream
guard, retry policy, stream parser. Only the native agent around them is absent. `VIBE_SOURCE` names the folder
of the unpacked wheel.
"""

import asyncio
import json
import os

import httpx
import vibe_import

vibe_import.install(os.environ["VIBE_SOURCE"])

from mistralai_vibe_local_harness import protocol as p
from mistralai_vibe_local_harness.vibe._credentials import ProviderCredentialSnapshot
from mistralai_vibe_local_harness.vibe._runtime_config import LocalModelRoute, LocalRuntimeAdapterConfig
from mistralai_vibe_local_harness.vibe.adapters import mistral
from mistralai_vibe_local_harness.vibe.adapters._provider_failure import read_provider_failure
from mistralai_vibe_local_harness.vibe.adapters.generic import _execute
from mistralai_vibe_local_harness.vibe.completion_profile import find_known_model

from common import *


class _Adding(httpx.AsyncBaseTransport):
    """Adds fields to bodies: vibe has none for what makes the toy call twice, or never end."""

    fields = {}

    def __init__(self, inner):
        self.inner = inner

    async def handle_async_request(self, request):
        if self.fields and request.method == "POST":
            body = json.dumps(json.loads(await request.aread()) | self.fields)
            headers = [(k, v) for k, v in request.headers.items() if k.lower() != "content-length"]
            request = httpx.Request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)
        return await self.inner.handle_async_request(request)

    async def aclose(self):
        await self.inner.aclose()


for _module in [_execute, mistral]:
    _module.env_proxy_transport = lambda make=_module.env_proxy_transport, **options: _Adding(make(**options))


class _Vibe:
    """One provider of vibe's configuration."""

    def __init__(self, style):
        self.style = style

    def complete(self, messages, *, tools=(), thinking="off", max_tokens=60, base=None, key=None, model=MODEL, on_delta=None):
        base, key = base or BASE, KEY if key is None else key
        config = LocalRuntimeAdapterConfig(
            provider="mistral" if self.style == "mistral" else "llamacpp",
            backend="mistral" if self.style == "mistral" else "generic",
            api_style="openai" if self.style == "mistral" else self.style,
            base_url=base if self.style == "anthropic" else f"{base}/v1",
            max_tokens=max_tokens, timeout_s=TIMEOUT_S, retry_max_elapsed_time_s=0, affinity_id=lambda: "session-1",
        )
        known = find_known_model(MODEL)
        route = LocalModelRoute(model=model, temperature=0.0, thinking=thinking, reasoning=getattr(known, "reasoning", None))
        credential = ProviderCredentialSnapshot(token=key or None, headers={}, revision="test")
        execute = mistral.execute_mistral_completion if self.style == "mistral" else _execute.execute_generic_completion
        return asyncio.run(execute(list(messages), list(tools), config, credential, route, on_delta=on_delta))


def _user(text):
    return p.RustUserMessage(content=[p.RustTextContentBlock(text=text)])


WEATHER_TOOL = p.RustToolDefinition(
    name="get_weather", description="Get the current weather for a city", parameters=WEATHER_PARAMETERS
)


def _text(result):
    return "".join(part.text for part in result.parts if part.type == "text")


def _thoughts(result):
    return "".join(c.text for part in result.parts if part.type == "reasoning" for c in part.content if hasattr(c, "text"))


def _calls(result):
    return [part for part in result.parts if part.type == "tool_call"]


def _back(result):
    """The result as vibe's history holds it."""
    parts = []
    for part in result.parts:
        if part.type == "tool_call":
            value = json.loads(part.arguments_json)
            arguments = p.RustJsonToolArguments(raw=part.arguments_json, value=value)
            part = p.RustModelToolCallPart(id=part.id, name=part.name, arguments=arguments)
        parts.append(part)
    return p.RustAssistantMessage(content=parts)


def _chat(vibe):
    result = vibe.complete([_user("Hello")])
    check_text(_text(result))
    check(result.finish_reason == "stop", result.finish_reason)
    check(result.usage.input_tokens > 0 and result.usage.output_tokens > 0, result.usage)


def _stream(vibe):
    pieces = []

    async def on_delta(delta):
        pieces.append(delta.text)

    result = vibe.complete([_user("Hello")], on_delta=on_delta)
    check(len(pieces) > 1 and "".join(pieces) == _text(result), f"{pieces} is not {_text(result)!r}")


def _follow(vibe, question, result):
    results = [
        p.RustToolMessage(
            tool_call_id=c.id, name=c.name, outcome="success", content=[p.RustTextContentBlock(text=WEATHER_RESULT)]
        )
        for c in _calls(result)
    ]
    follow = vibe.complete([_user(question), _back(result), *results], tools=[WEATHER_TOOL])
    check(_text(follow).strip() or _calls(follow), "no answer to the results")


def _tools(vibe):
    # vibe sends no tool_choice: the toy calls by itself.
    result = vibe.complete([_user(WEATHER_QUESTION)], tools=[WEATHER_TOOL])
    check(result.finish_reason == "tool_call" and len(_calls(result)) == 1, result)
    for call in _calls(result):
        check_call(call.name, call.arguments_json, call.id)
    _follow(vibe, WEATHER_QUESTION, result)


def _with(fields, run):
    _Adding.fields = fields
    try:
        return run()
    finally:
        _Adding.fields = {}


def _parallel(vibe):
    result = _with(SEVERAL_CALLS, lambda: vibe.complete([_user(TWO_QUESTION)], tools=[WEATHER_TOOL], max_tokens=300))
    check(result.finish_reason == "tool_call", result)
    for call in _calls(result):
        check_call(call.name, call.arguments_json, call.id)
    check_ids([call.id for call in _calls(result)])
    _follow(vibe, TWO_QUESTION, result)


def _thinking(vibe):
    result = vibe.complete([_user("What is 17+25?")], thinking="high", max_tokens=1500)
    check_text(_thoughts(result))
    check_text(_text(result))
    back = [_user("What is 17+25?"), _back(result), _user("Thanks")]
    check_text(_text(vibe.complete(back, thinking="high", max_tokens=1500)))


def _image(vibe):
    picture = p.RustImageContentBlock(data=IMAGE_BASE64, mime_type="image/png")
    result = vibe.complete([p.RustUserMessage(content=[p.RustTextContentBlock(text=IMAGE_QUESTION), picture])])
    check_text(_text(result))
    check(result.usage.input_tokens > 30, result.usage)


def _failure(run):
    try:
        result = run()
    except Exception as e:
        return read_provider_failure(e)
    raise AssertionError(f"expected a failure, found {result}")


def _overflow(vibe):
    failure = _failure(lambda: vibe.complete([_user(LONG_TEXT)]))
    check(failure.context_overflow and not failure.retryable, failure)


def _model(vibe):
    failure = _failure(lambda: vibe.complete([_user("Hello")], model=WRONG_MODEL))
    check(failure.response and failure.response.status in (400, 404) and not failure.retryable, failure)
    check("invalid_model" in failure.message, failure)


def _key(vibe):
    failure = _failure(lambda: vibe.complete([_user("Hello")], key="wrong"))
    check(failure.response and failure.response.status == 401 and not failure.retryable, failure)


class _Left(Exception):
    """Raised where the user interrupts."""


def _abort(vibe):
    before = metrics()

    async def on_delta(delta):
        raise _Left

    run = lambda: vibe.complete([_user("Hello")], max_tokens=ENDLESS_TOKENS, on_delta=on_delta)
    _with(ENDLESS, lambda: expect(_Left, run))
    check_abandoned(before)


def _open(vibe):
    # Its provider llamacpp has no key; the backend mistral always has one.
    check_text(_text(vibe.complete([_user("Hello")], base=OPEN_BASE, key="none" if vibe.style == "mistral" else "")))


def clients():
    for style in ["openai", "reasoning", "anthropic", "openai-responses", "mistral"]:
        cases = {
            "chat": _chat, "stream": _stream, "tools": _tools, "parallel": _parallel, "thinking": _thinking,
            "image": _image, "overflow": _overflow, "model": _model, "key": _key, "abort": _abort, "open": _open,
        }
        bound = {case: (lambda run=run, vibe=_Vibe(style): run(vibe)) for case, run in cases.items()}
        name = "vibe, backend mistral" if style == "mistral" else f"vibe, {style}"
        yield name, bound | {"schema": "none of its adapters sends a response format"}
