"""`anthropic`: the Messages API."""

import anthropic

from common import *

TOOL = {"name": "get_weather", "description": "Get the current weather for a city", "input_schema": WEATHER_PARAMETERS}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def _client(base=None, key=None):
    return anthropic.Anthropic(base_url=base or BASE, api_key=key or KEY, timeout=TIMEOUT_S, max_retries=0)


def _fields(fields):
    fields = {"model": MODEL, "messages": HELLO, "max_tokens": 60} | fields
    # With thinking, Anthropic takes no temperature, and the types follow it.
    return fields if "thinking" in fields else fields | {"extra_body": {"temperature": 0} | fields.get("extra_body", {})}


def _create(**fields):
    return _client().messages.create(**_fields(fields))


def _chat():
    answer = _create(system="You are a helpful assistant.")
    check_text(answer.content[0].text)
    check(answer.stop_reason == "end_turn" and answer.role == "assistant", answer)
    check(answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer.usage)
    count = _client().messages.count_tokens(model=MODEL, messages=HELLO, system="You are a helpful assistant.")
    cached = answer.usage.cache_read_input_tokens or 0
    check(count.input_tokens == answer.usage.input_tokens + cached, f"{count} is not {answer.usage}")
    check(_client().models.retrieve(MODEL).id == MODEL, "another model came")
    check(MODEL in [m.id for m in _client().models.list()], "the model is not listed")


def _stream():
    with _client().messages.stream(**_fields({})) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    check_text(text)
    check(answer.content[0].text == text and answer.stop_reason == "end_turn", answer)
    check(text == _create().content[0].text, "streamed text differs")
    check(answer.usage.output_tokens > 0, answer.usage)


def _calls(question, **fields):
    messages = [{"role": "user", "content": question}]
    with _client().messages.stream(
        **_fields({"messages": messages, "tools": [TOOL], "max_tokens": 300} | fields)
    ) as stream:
        answer = stream.get_final_message()
    check(answer.stop_reason == "tool_use", answer.stop_reason)
    calls = [block for block in answer.content if block.type == "tool_use"]
    for call in calls:
        check_call(call.name, call.input, call.id)
    results = [{"type": "tool_result", "tool_use_id": c.id, "content": WEATHER_RESULT} for c in calls]
    back = [*messages, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    follow = _create(messages=back, tools=[TOOL], tool_choice={"type": "none"})
    check_text(follow.content[0].text)
    return calls


def _tools():
    for choice in [{"type": "any"}, {"type": "tool", "name": "get_weather"}]:
        check(len(_calls(WEATHER_QUESTION, tool_choice=choice)) == 1, "one call expected")


def _parallel():
    calls = _calls(TWO_QUESTION, tool_choice={"type": "any"}, extra_body=SEVERAL_CALLS)
    check_ids([call.id for call in calls])
    single = {"type": "any", "disable_parallel_tool_use": True}
    check(len(_calls(TWO_QUESTION, tool_choice=single, extra_body=SEVERAL_CALLS)) == 1, "parallel use was disabled")


def _thinking():
    fields = {"messages": SUM, "thinking": THINKING, "max_tokens": 1500}
    answer = _create(**fields)
    check([block.type for block in answer.content] == ["thinking", "text"], answer.content)
    check_text(answer.content[0].thinking)
    check(isinstance(answer.content[0].signature, str), "no signature")
    with _client().messages.stream(**fields, model=MODEL) as stream:
        streamed = stream.get_final_message()
    check([block.type for block in streamed.content] == ["thinking", "text"], streamed.content)
    back = [*SUM, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "Thanks"}]
    check_text(_create(messages=back).content[0].text)


def _image():
    source = {"type": "base64", "media_type": "image/png", "data": IMAGE_BASE64}
    content = [{"type": "image", "source": source}, {"type": "text", "text": IMAGE_QUESTION}]
    answer = _create(messages=[{"role": "user", "content": content}])
    check_text(answer.content[0].text)
    check(answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 30, answer.usage)


def _schema():
    form = {"format": {"type": "json_schema", "schema": VERDICT}}
    answer = _create(messages=[{"role": "user", "content": VERDICT_QUESTION}], output_config=form)
    check_verdict(answer.content[0].text)


def _overflow():
    expect(
        anthropic.BadRequestError, lambda: _create(messages=[{"role": "user", "content": LONG_TEXT}]),
        lambda e: "prompt is too long" in e.message and e.body["error"]["type"] == "invalid_request_error",
    )


def _model():
    expect(anthropic.BadRequestError, lambda: _create(model=WRONG_MODEL))
    expect(anthropic.BadRequestError, lambda: _client().models.retrieve(WRONG_MODEL))


def _key():
    wrong = _client(key="wrong")
    expect(anthropic.AuthenticationError, lambda: wrong.messages.create(model=MODEL, messages=HELLO, max_tokens=5))


def _abort():
    before = metrics()
    with _client().messages.stream(**_fields({"max_tokens": ENDLESS_TOKENS, "extra_body": ENDLESS})) as stream:
        next(iter(stream.text_stream))
    check_abandoned(before)


def _open():
    answer = _client(OPEN_BASE, "none").messages.create(model=MODEL, messages=HELLO, max_tokens=20)
    check_text(answer.content[0].text)


def clients():
    yield "anthropic", {
        "chat": _chat, "stream": _stream, "tools": _tools, "parallel": _parallel, "thinking": _thinking, "image": _image,
        "schema": _schema, "overflow": _overflow, "model": _model, "key": _key, "abort": _abort, "open": _open,
    }
