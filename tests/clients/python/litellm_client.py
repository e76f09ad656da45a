"""`litellm` as aider calls it: the provider `openai` with a base of one's own."""

import litellm

from common import *

litellm.drop_params = True  # as aider sets it
litellm.suppress_debug_info = True


def _complete(base=None, key=None, **fields):
    fields = {"model": f"openai/{MODEL}", "messages": HELLO, "temperature": 0, "max_tokens": 60} | fields
    return litellm.completion(
        api_base=f"{base or BASE}/v1", api_key=key or KEY, timeout=TIMEOUT_S, max_retries=0, num_retries=0, **fields
    )


def _whole(fields):
    """A streamed answer, put together by the package."""
    messages = fields.get("messages", HELLO)
    chunks = list(_complete(stream=True, stream_options={"include_usage": True}, **fields))
    return chunks, litellm.stream_chunk_builder(chunks, messages=messages)


def _chat():
    answer = _complete()
    check_text(answer.choices[0].message.content)
    check(answer.choices[0].finish_reason == "stop", answer)
    check(answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage)


def _stream():
    chunks, answer = _whole({})
    check(len(chunks) > 2, f"{len(chunks)} chunks")
    check(answer.choices[0].message.content == _complete().choices[0].message.content, "streamed text differs")
    check(answer.usage.completion_tokens > 0, answer.usage)


def _calls(question, streamed, **fields):
    messages = [{"role": "user", "content": question}]
    fields = {"messages": messages, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 300} | fields
    answer = (_whole(fields)[1] if streamed else _complete(**fields)).choices[0]
    check(answer.finish_reason == "tool_calls", answer.finish_reason)
    calls = answer.message.tool_calls
    for call in calls:
        check_call(call.function.name, call.function.arguments, call.id)
    results = [{"role": "tool", "tool_call_id": c.id, "content": WEATHER_RESULT} for c in calls]
    follow = _complete(messages=[*messages, answer.message.model_dump(), *results], tools=[WEATHER], tool_choice="none")
    check_text(follow.choices[0].message.content)
    return calls


def _tools():
    for streamed in [False, True]:
        check(len(_calls(WEATHER_QUESTION, streamed)) == 1, "one call expected")


def _parallel():
    for streamed in [False, True]:
        check_ids([call.id for call in _calls(TWO_QUESTION, streamed, extra_body=SEVERAL_CALLS)])


def _thinking():
    # aider's --reasoning-effort and --thinking-tokens.
    for extra in [{"reasoning_effort": "high"}, {"reasoning": {"max_tokens": 100}}]:
        fields = {"messages": SUM, "max_tokens": 400, "extra_body": extra}
        check_text(_complete(**fields).choices[0].message.reasoning_content)
        deltas = [chunk.choices[0].delta for chunk in _complete(stream=True, **fields)]
        check_text("".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas))
        check_text("".join(delta.content or "" for delta in deltas))


def _image():
    content = [{"type": "text", "text": IMAGE_QUESTION}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    answer = _complete(messages=[{"role": "user", "content": content}])
    check_text(answer.choices[0].message.content)
    check(answer.usage.prompt_tokens > 30, answer.usage)


def _schema():
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    messages = [{"role": "user", "content": VERDICT_QUESTION}]
    check_verdict(_complete(messages=messages, extra_body={"response_format": form}).choices[0].message.content)


def _overflow():
    long = [{"role": "user", "content": LONG_TEXT}]
    expect(litellm.ContextWindowExceededError, lambda: _complete(messages=long))


def _model():
    # It goes by the code, whatever the status.
    expect(litellm.NotFoundError, lambda: _complete(model=f"openai/{WRONG_MODEL}"))


def _key():
    expect(litellm.AuthenticationError, lambda: _complete(key="wrong"))


def _abort():
    before = metrics()
    stream = _complete(stream=True, max_tokens=ENDLESS_TOKENS, extra_body=ENDLESS)
    next(iter(stream))
    # What it wraps is openai's stream, which it closes only in its asynchronous form.
    stream.completion_stream.close()
    check_abandoned(before)


def _open():
    check_text(_complete(OPEN_BASE, "none", max_tokens=20).choices[0].message.content)


def clients():
    yield "litellm (aider)", {
        "chat": _chat, "stream": _stream, "tools": _tools, "parallel": _parallel, "thinking": _thinking, "image": _image,
        "schema": _schema, "overflow": _overflow, "model": _model, "key": _key, "abort": _abort, "open": _open,
    }
