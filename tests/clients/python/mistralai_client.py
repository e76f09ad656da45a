"""`mistralai`: its answers are pydantic models, so a missing field fails where it is read."""

import json

import httpx2
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from common import *


class _Adding(httpx2.HTTPTransport):
    """Adds fields to bodies: the package has none for what makes the toy call twice, or never end."""

    def __init__(self, fields):
        super().__init__()
        self.fields = fields

    def handle_request(self, request):
        body = json.dumps(json.loads(request.read()) | self.fields)
        headers = [(k, v) for k, v in request.headers.items() if k.lower() != "content-length"]
        request = httpx2.Request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)
        return super().handle_request(request)


def _client(base=None, key=None, adding=None):
    client = httpx2.Client(transport=_Adding(adding), timeout=TIMEOUT_S) if adding else None
    return Mistral(server_url=base or BASE, api_key=key or KEY, timeout_ms=TIMEOUT_S * 1000, client=client)


def _fields(fields):
    return {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 60} | fields


def _complete(**fields):
    return _client().chat.complete(**_fields(fields))


def _streamed(adding=None, **fields):
    """All chunks' data of a streamed answer."""
    with _client(adding=adding).chat.stream(**_fields(fields)) as stream:
        return [event.data for event in stream]


def _words(content):
    """The text and the thinking of a content that is text or chunks."""
    if isinstance(content, str):
        return content, ""
    text = "".join(c.text for c in content or [] if c.type == "text")
    thoughts = [t.text for c in content or [] if c.type == "thinking" for t in c.thinking]
    return text, "".join(thoughts)


def _chat():
    answer = _complete()
    check_text(answer.choices[0].message.content)
    check(answer.choices[0].finish_reason == "stop" and answer.object == "chat.completion", answer)
    check(answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage)
    check(MODEL in [m.id for m in _client().models.list().data], "the model is not listed")
    card = _client().models.retrieve(model_id=MODEL)
    check(card.capabilities.function_calling and card.capabilities.vision and card.max_context_length == 4096, card)
    fim = _client().fim.complete(model=MODEL, prompt="The capital of", suffix=" Paris.", max_tokens=8, temperature=0)
    check(fim.choices[0].finish_reason in ("stop", "length"), fim)


def _stream():
    chunks = _streamed()
    check(len(chunks) > 2, f"{len(chunks)} chunks")
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    check(text == _complete().choices[0].message.content, f"streamed text differs: {text!r}")
    check(chunks[-1].choices[0].finish_reason == "stop", chunks[-1])
    check(chunks[-1].usage and chunks[-1].usage.completion_tokens > 0, "no usage in the last chunk")


def _follow(messages, message):
    results = [
        {"role": "tool", "name": c.function.name, "tool_call_id": c.id, "content": WEATHER_RESULT}
        for c in message.tool_calls
    ]
    answer = _complete(messages=[*messages, message, *results], tools=[WEATHER], tool_choice="none")
    check_text(answer.choices[0].message.content)


def _tools():
    messages = [{"role": "user", "content": WEATHER_QUESTION}]
    for choice in ["any", {"type": "function", "function": {"name": "get_weather"}}]:
        answer = _complete(messages=messages, tools=[WEATHER], tool_choice=choice).choices[0]
        check(answer.finish_reason == "tool_calls", answer.finish_reason)
        call = answer.message.tool_calls[0]
        check_call(call.function.name, call.function.arguments, call.id)
    _follow(messages, answer.message)


def _parallel():
    messages = [{"role": "user", "content": TWO_QUESTION}]
    fields = {"messages": messages, "tools": [WEATHER], "tool_choice": "any", "max_tokens": 300}
    # As vibe puts a streamed call together: ids may repeat, names and arguments are joined.
    calls = {}
    for chunk in _streamed(adding=SEVERAL_CALLS, parallel_tool_calls=True, **fields):
        for delta in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            if delta.id and delta.id != "null":
                call["id"] = delta.id
            call["name"] += delta.function.name
            call["arguments"] += delta.function.arguments
    for call in calls.values():
        check_call(call["name"], call["arguments"], call["id"])
    check_ids([call["id"] for call in calls.values()])
    answer = _client(adding=SEVERAL_CALLS).chat.complete(**_fields(fields | {"parallel_tool_calls": True}))
    check_ids([call.id for call in answer.choices[0].message.tool_calls])
    _follow(messages, answer.choices[0].message)


def _thinking():
    fields = {"messages": SUM, "reasoning_effort": "high", "max_tokens": 400}
    message = _complete(**fields).choices[0].message
    text, thoughts = _words(message.content)
    check_text(text)
    check_text(thoughts)
    pieces = [_words(c.choices[0].delta.content) for c in _streamed(**fields)]
    check("".join(p[1] for p in pieces) == thoughts, "streamed thinking differs")
    check("".join(p[0] for p in pieces) == text, "streamed text differs")
    check_text(_words(_complete(messages=[*SUM, message, {"role": "user", "content": "Thanks"}]).choices[0].message.content)[0])
    check_text(_words(_complete(messages=SUM, prompt_mode="reasoning", max_tokens=400).choices[0].message.content)[1])


def _image():
    for url in [IMAGE_URL, {"url": IMAGE_URL}]:
        content = [{"type": "text", "text": IMAGE_QUESTION}, {"type": "image_url", "image_url": url}]
        answer = _complete(messages=[{"role": "user", "content": content}])
        check_text(answer.choices[0].message.content)
        check(answer.usage.prompt_tokens > 30, answer.usage)


def _schema():
    schema = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    messages = [{"role": "user", "content": VERDICT_QUESTION}]
    check_verdict(_complete(messages=messages, response_format=schema).choices[0].message.content)


def _overflow():
    long = [{"role": "user", "content": LONG_TEXT}]
    for call in [_complete, _streamed]:
        expect(
            SDKError, lambda: call(messages=long), lambda e: e.status_code == 400 and "maximum context length" in e.body
        )


def _model():
    expect(
        SDKError, lambda: _complete(model=WRONG_MODEL), lambda e: e.status_code == 400 and "invalid_model" in e.body
    )


def _key():
    expect(SDKError, lambda: _client(key="wrong").models.list(), lambda e: e.status_code == 401)


def _abort():
    before = metrics()
    with _client(adding=ENDLESS).chat.stream(**_fields({"max_tokens": ENDLESS_TOKENS})) as stream:
        next(iter(stream))
    check_abandoned(before)


def _open():
    answer = _client(OPEN_BASE, "none").chat.complete(**_fields({"max_tokens": 20}))
    check_text(answer.choices[0].message.content)


def clients():
    yield "mistralai", {
        "chat": _chat, "stream": _stream, "tools": _tools, "parallel": _parallel, "thinking": _thinking, "image": _image,
        "schema": _schema, "overflow": _overflow, "model": _model, "key": _key, "abort": _abort, "open": _open,
    }
