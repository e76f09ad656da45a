"""`langchain-openai` and `langchain-mistralai`: the same cases through LangChain's messages and tools."""

import httpx
import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI

from common import *

DESCRIBED = [HumanMessage([{"type": "text", "text": IMAGE_QUESTION}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}])]


def _openai(base=None, key=None, **fields):
    fields = {"model": MODEL, "temperature": 0, "max_tokens": 60} | fields
    return ChatOpenAI(base_url=f"{base or BASE}/v1", api_key=key or KEY, timeout=TIMEOUT_S, max_retries=0, **fields)


def _mistral(base=None, key=None, dialect=None, **fields):
    fields = {"model": MODEL, "temperature": 0, "max_tokens": 60} | fields
    base, key = f"{base or BASE}/v1", key or KEY
    if dialect:
        headers = {"Authorization": f"Bearer {key}", "x-gust-dialect": dialect}
        fields["client"] = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S)
    return ChatMistralAI(base_url=base, api_key=key, timeout=TIMEOUT_S, max_retries=1, **fields)


def _chat(model):
    answer = model().invoke("Hello")
    check_text(answer.content)
    check(answer.usage_metadata["input_tokens"] > 0 and answer.usage_metadata["output_tokens"] > 0, answer)


def _stream(model):
    whole = None
    n = 0
    for piece in model().stream("Hello"):
        whole = piece if whole is None else whole + piece
        n += 1
    check(n > 2, f"{n} pieces")
    check(whole.text == model().invoke("Hello").text, f"streamed text differs: {whole.content!r}")
    check(whole.response_metadata["finish_reason"] == "stop", whole.response_metadata)
    check(whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0, "no usage")


def _calls(model, question, streamed, fields):
    bound = model(max_tokens=300, **fields).bind_tools([WEATHER], tool_choice="any")
    messages = [HumanMessage(question)]
    if streamed:
        answer = None
        for piece in bound.stream(messages):
            answer = piece if answer is None else answer + piece
    else:
        answer = bound.invoke(messages)
    check(not answer.invalid_tool_calls, answer.invalid_tool_calls)
    for call in answer.tool_calls:
        check_call(call["name"], call["args"], call["id"])
    results = [ToolMessage(WEATHER_RESULT, tool_call_id=call["id"]) for call in answer.tool_calls]
    follow = model().bind_tools([WEATHER], tool_choice="none").invoke([*messages, answer, *results])
    check_text(follow.content)
    return answer.tool_calls


def _tools(model):
    for streamed in [False, True]:
        check(len(_calls(model, WEATHER_QUESTION, streamed, {})) == 1, "one call expected")


def _parallel(model, fields):
    for streamed in [False, True]:
        check_ids([call["id"] for call in _calls(model, TWO_QUESTION, streamed, fields)])


def _openai_thinking():
    # The package drops reasoning_content by design; what it reads is the count, and the Responses API's items.
    answer = _openai(reasoning_effort="high", max_tokens=400).invoke("What is 17+25?")
    check_text(answer.content)
    check(answer.usage_metadata["output_token_details"]["reasoning"] > 0, answer.usage_metadata)
    model = _openai(use_responses_api=True, reasoning={"effort": "high"}, max_tokens=400)
    answer = model.invoke("What is 17+25?")
    check("reasoning" in [block["type"] for block in answer.content_blocks], answer.content_blocks)
    check_text(answer.text)


def _mistral_thinking():
    model = _mistral(dialect="mistral", max_tokens=400, model_kwargs={"reasoning_effort": "high"})
    answer = model.invoke("What is 17+25?")
    check([block["type"] for block in answer.content] == ["thinking", "text"], answer.content)
    whole = None
    for piece in model.stream("What is 17+25?"):
        whole = piece if whole is None else whole + piece
    # The package keeps text that comes as such beside thinking as an item that is no dict, an empty one too.
    kinds = [block["type"] if isinstance(block, dict) else "text" for block in whole.content if block]
    check(kinds == ["thinking", "text"], whole.content)
    check_text(model.invoke([HumanMessage("What is 17+25?"), answer, HumanMessage("Thanks")]).text)


def _image(model):
    answer = model().invoke(DESCRIBED)
    check_text(answer.content)
    check(answer.usage_metadata["input_tokens"] > 30, answer.usage_metadata)


def _schema(model):
    schema = VERDICT | {"title": "verdict", "description": "What a review says"}
    check_verdict(model().with_structured_output(schema, method="json_schema").invoke(VERDICT_QUESTION))


def _abort(model, fields):
    before = metrics()
    stream = model(max_tokens=ENDLESS_TOKENS, **fields).stream("Hello")
    next(stream)
    next(stream)
    stream.close()
    check_abandoned(before)


def _status(status, phrase=""):
    return lambda e: e.response.status_code == status and phrase in str(e)


def clients():
    extra = lambda fields: {"extra_body": fields}
    yield "langchain-openai", {
        "chat": lambda: _chat(_openai), "stream": lambda: _stream(lambda **f: _openai(stream_usage=True, **f)),
        "tools": lambda: _tools(_openai), "parallel": lambda: _parallel(_openai, extra(SEVERAL_CALLS)),
        "thinking": _openai_thinking, "image": lambda: _image(_openai), "schema": lambda: _schema(_openai),
        "overflow": lambda: expect(ContextOverflowError, lambda: _openai().invoke(LONG_TEXT)),
        "model": lambda: expect(openai.BadRequestError, lambda: _openai(model=WRONG_MODEL).invoke("Hello")),
        "key": lambda: expect(openai.AuthenticationError, lambda: _openai(key="wrong").invoke("Hello")),
        "abort": lambda: _abort(_openai, extra(ENDLESS)), "open": lambda: _chat(lambda: _openai(OPEN_BASE, "none")),
    }
    kwargs = lambda fields: {"model_kwargs": fields}
    error = httpx.HTTPStatusError
    yield "langchain-mistralai", {
        "chat": lambda: _chat(_mistral), "stream": lambda: _stream(_mistral), "tools": lambda: _tools(_mistral),
        "parallel": lambda: _parallel(_mistral, kwargs(SEVERAL_CALLS)), "thinking": _mistral_thinking,
        "image": lambda: _image(_mistral), "schema": lambda: _schema(_mistral),
        "overflow": lambda: expect(error, lambda: _mistral().invoke(LONG_TEXT), _status(400, "maximum context length")),
        "model": lambda: expect(error, lambda: _mistral(model=WRONG_MODEL).invoke("Hello"), _status(400, "invalid_model")),
        "key": lambda: expect(error, lambda: _mistral(key="wrong").invoke("Hello"), _status(401)),
        "abort": lambda: _abort(_mistral, kwargs(ENDLESS)), "open": lambda: _chat(lambda: _mistral(OPEN_BASE, "none")),
    }
