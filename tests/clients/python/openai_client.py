"""`openai`: chat completions, and the Responses API through the same package."""

import openai

from common import *


def _client(base=None, key=None):
    return openai.OpenAI(base_url=f"{base or BASE}/v1", api_key=key or KEY, timeout=TIMEOUT_S, max_retries=0)


def _create(**fields):
    fields = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 60} | fields
    return _client().chat.completions.create(**fields)


def _chat():
    answer = _create()
    check_text(answer.choices[0].message.content)
    check(answer.choices[0].finish_reason == "stop", answer.choices[0].finish_reason)
    check(answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage)
    check(answer.usage.prompt_tokens_details.cached_tokens is not None, answer.usage)
    check(MODEL in [m.id for m in _client().models.list()], "the model is not listed")
    check(_client().models.retrieve(MODEL).id == MODEL, "another model came")


def _stream():
    with _client().chat.completions.stream(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=60, stream_options={"include_usage": True}
    ) as stream:
        n = sum(event.type == "content.delta" for event in stream)
        answer = stream.get_final_completion()
    check(n > 1, f"{n} pieces")
    check(answer.choices[0].message.content == _create().choices[0].message.content, "streamed text differs")
    check(answer.usage and answer.usage.completion_tokens > 0, answer.usage)


def _follow(messages, message):
    """The client's own message goes back with a result for each call."""
    results = [{"role": "tool", "tool_call_id": c.id, "content": WEATHER_RESULT} for c in message.tool_calls]
    answer = _create(messages=[*messages, message, *results], tools=[WEATHER], tool_choice="none")
    check_text(answer.choices[0].message.content)


def _tools():
    messages = [{"role": "user", "content": WEATHER_QUESTION}]
    for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
        answer = _create(messages=messages, tools=[WEATHER], tool_choice=choice).choices[0]
        check(answer.finish_reason == "tool_calls", answer.finish_reason)
        call = answer.message.tool_calls[0]
        check_call(call.function.name, call.function.arguments, call.id)
    _follow(messages, answer.message)


def _parallel():
    messages = [{"role": "user", "content": TWO_QUESTION}]
    with _client().chat.completions.stream(
        model=MODEL, messages=messages, temperature=0, max_tokens=300, tools=[WEATHER], tool_choice="required",
        parallel_tool_calls=True, extra_body=SEVERAL_CALLS,
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion().choices[0]
    for call in answer.message.tool_calls:
        check_call(call.function.name, call.function.arguments, call.id)
    check_ids([call.id for call in answer.message.tool_calls])
    check(answer.finish_reason == "tool_calls", answer.finish_reason)
    _follow(messages, answer.message)
    single = _create(
        messages=messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, extra_body=SEVERAL_CALLS
    )
    check(len(single.choices[0].message.tool_calls) == 1, "parallel_tool_calls false, and several came")


def _thinking():
    fields = {"messages": SUM, "reasoning_effort": "high", "max_tokens": 400}
    answer = _create(**fields, extra_body={"reasoning": {"max_tokens": 100}})
    message = answer.choices[0].message
    check_text(message.reasoning_content)
    check_text(message.content)
    check(answer.usage.completion_tokens_details.reasoning_tokens > 0, answer.usage)
    pieces = [c.choices[0].delta for c in _create(**fields, stream=True) if c.choices]
    check_text("".join(getattr(d, "reasoning_content", None) or "" for d in pieces))
    back = [*SUM, message, {"role": "user", "content": "Thanks"}]
    check_text(_create(messages=back).choices[0].message.content)


def _image():
    content = [{"type": "text", "text": IMAGE_QUESTION}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    answer = _create(messages=[{"role": "user", "content": content}])
    check_text(answer.choices[0].message.content)
    check(answer.usage.prompt_tokens > 30, answer.usage)


def _schema():
    schema = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    messages = [{"role": "user", "content": VERDICT_QUESTION}]
    check_verdict(_create(messages=messages, response_format=schema).choices[0].message.content)


def _overflow():
    long = [{"role": "user", "content": LONG_TEXT}]
    for stream in [False, True]:
        expect(
            openai.BadRequestError, lambda: _create(messages=long, stream=stream),
            lambda e: e.code == "context_length_exceeded" and "maximum context length" in e.message,
        )


def _model():
    expect(openai.BadRequestError, lambda: _create(model=WRONG_MODEL), lambda e: e.code == "model_not_found")


def _key():
    expect(openai.AuthenticationError, lambda: _client(key="wrong").models.list(), lambda e: e.code == "invalid_api_key")


def _abort():
    before = metrics()
    stream = _create(stream=True, max_tokens=ENDLESS_TOKENS, extra_body=ENDLESS)
    next(iter(stream))
    stream.close()
    check_abandoned(before)


def _open():
    answer = _client(OPEN_BASE, "none").chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
    check_text(answer.choices[0].message.content)


RESPONSES_WEATHER = {"type": "function", **WEATHER["function"], "strict": True}


def _respond(**fields):
    fields = {"model": MODEL, "input": "Hello", "temperature": 0, "max_output_tokens": 60, "store": False} | fields
    return _client().responses.create(**fields)


def _responses_chat():
    answer = _respond()
    check_text(answer.output_text)
    check(answer.status == "completed" and answer.usage.output_tokens > 0, answer)


def _responses_stream():
    with _client().responses.stream(model=MODEL, input="Hello", temperature=0, max_output_tokens=60) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    check([e.sequence_number for e in events] == sorted({e.sequence_number for e in events}), "sequence numbers")
    check_text(answer.output_text)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    check(text == answer.output_text, "the deltas are not the text")


def _responses_calls(question, **fields):
    with _client().responses.stream(
        model=MODEL, input=question, temperature=0, max_output_tokens=300, tools=[RESPONSES_WEATHER],
        tool_choice="required", **fields,
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_response()
    calls = [item for item in answer.output if item.type == "function_call"]
    for call in calls:
        check_call(call.name, call.arguments, call.call_id)
    results = [{"type": "function_call_output", "call_id": c.call_id, "output": WEATHER_RESULT} for c in calls]
    # The client's parsed items have a field of its own, which its users drop as well.
    items = [item.model_dump(exclude={"parsed_arguments"}, exclude_none=True) for item in answer.output]
    follow = _respond(
        input=[{"role": "user", "content": question}, *items, *results], tools=[RESPONSES_WEATHER], tool_choice="none"
    )
    check_text(follow.output_text)
    return calls


def _responses_tools():
    check(len(_responses_calls(WEATHER_QUESTION)) == 1, "one call expected")


def _responses_parallel():
    calls = _responses_calls(TWO_QUESTION, parallel_tool_calls=True, extra_body=SEVERAL_CALLS)
    check_ids([call.call_id for call in calls])


def _responses_thinking():
    answer = _respond(input="What is 17+25?", reasoning={"effort": "high"}, max_output_tokens=400)
    thoughts = [item for item in answer.output if item.type == "reasoning"]
    check(thoughts, f"no reasoning among {[item.type for item in answer.output]}")
    check_text("".join(part.text for part in [*(thoughts[0].content or []), *thoughts[0].summary]))
    check(answer.usage.output_tokens_details.reasoning_tokens > 0, answer.usage)
    back = [{"role": "user", "content": "What is 17+25?"}, *answer.output, {"role": "user", "content": "Thanks"}]
    check_text(_respond(input=back).output_text)


def _responses_image():
    content = [{"type": "input_text", "text": IMAGE_QUESTION}, {"type": "input_image", "image_url": IMAGE_URL}]
    answer = _respond(input=[{"role": "user", "content": content}])
    check_text(answer.output_text)
    check(answer.usage.input_tokens > 30, answer.usage)


def _responses_schema():
    form = {"format": {"type": "json_schema", "name": "verdict", "schema": VERDICT, "strict": True}}
    check_verdict(_respond(input=VERDICT_QUESTION, text=form).output_text)


def _responses_overflow():
    expect(openai.BadRequestError, lambda: _respond(input=LONG_TEXT), lambda e: e.code == "context_length_exceeded")


def _responses_model():
    expect(openai.BadRequestError, lambda: _respond(model=WRONG_MODEL), lambda e: e.code == "model_not_found")


def _responses_key():
    wrong = _client(key="wrong")
    expect(openai.AuthenticationError, lambda: wrong.responses.create(model=MODEL, input="Hello"))


def _responses_abort():
    before = metrics()
    stream = _respond(stream=True, max_output_tokens=ENDLESS_TOKENS, extra_body=ENDLESS)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    check_abandoned(before)


def _responses_open():
    answer = _client(OPEN_BASE, "none").responses.create(model=MODEL, input="Hello", max_output_tokens=20)
    check_text(answer.output_text)


def clients():
    yield "openai", {
        "chat": _chat, "stream": _stream, "tools": _tools, "parallel": _parallel, "thinking": _thinking, "image": _image,
        "schema": _schema, "overflow": _overflow, "model": _model, "key": _key, "abort": _abort, "open": _open,
    }
    yield "openai, responses", {
        "chat": _responses_chat, "stream": _responses_stream, "tools": _responses_tools, "parallel": _responses_parallel,
        "thinking": _responses_thinking, "image": _responses_image, "schema": _responses_schema,
        "overflow": _responses_overflow, "model": _responses_model, "key": _responses_key, "abort": _responses_abort,
        "open": _responses_open,
    }
