// `@ai-sdk/openai-compatible` (what OpenCode ships) and `@ai-sdk/mistral`, driven through `ai` as agents do.

import {
  ENDLESS, ENDLESS_TOKENS, IMAGE_BASE64, IMAGE_QUESTION, LONG_TEXT, MODEL, BASE, KEY, OPEN_BASE, SEVERAL_CALLS, SUM,
  TWO_QUESTION, VERDICT, VERDICT_QUESTION, WEATHER_PARAMETERS, WEATHER_QUESTION, WEATHER_RESULT, WRONG_MODEL, adding, assert,
  checkAbandoned, checkCall, checkIds, checkText, checkVerdict, expectError, load, metrics, run,
} from "./common.mjs";

const { generateText, streamText, jsonSchema, tool, Output } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createMistral } = await load("@ai-sdk/mistral");

// OpenCode's own words for a context that is too long.
const OVERFLOW = [/exceeds the available context size/i, /maximum context length is \d+ tokens/i, /context[_ ]length[_ ]exceeded/i];

const tools = { get_weather: tool({ description: "Get the current weather for a city", inputSchema: jsonSchema(WEATHER_PARAMETERS) }) };
const user = (content) => [{ role: "user", content }];

function casesOf(make, effort) {
  const model = ({ base = BASE, key = KEY, extra, name = MODEL } = {}) => make(`${base}/v1`, key, extra && adding(extra))(name);
  const generate = ({ extra, ...fields }) =>
    generateText({ model: model({ extra }), temperature: 0, maxOutputTokens: 60, maxRetries: 0, ...fields });
  const stream = ({ extra, ...fields }) => {
    const failed = [];
    const answer = streamText({
      model: model({ extra }), temperature: 0, maxOutputTokens: 60, maxRetries: 0,
      onError: ({ error }) => failed.push(error), ...fields,
    });
    return { answer, failed };
  };
  const whole = async (fields) => {
    const { answer, failed } = stream(fields);
    const parts = [];
    for await (const part of answer.fullStream) parts.push(part);
    if (failed.length) throw failed[0];
    return { answer, parts };
  };
  const calls = async (question, extra) => {
    const { answer } = await whole({ messages: user(question), tools, toolChoice: "required", maxOutputTokens: 300, extra });
    const made = await answer.toolCalls;
    for (const call of made) checkCall(call.toolName, call.input, call.toolCallId);
    assert.equal(await answer.finishReason, "tool-calls");
    const content = made.map((call) => ({
      type: "tool-result", toolCallId: call.toolCallId, toolName: call.toolName, output: { type: "text", value: WEATHER_RESULT },
    }));
    const history = [...user(question), ...(await answer.response).messages.filter((m) => m.role === "assistant"), { role: "tool", content }];
    checkText((await generate({ messages: history, tools, toolChoice: "none" })).text);
    return made;
  };
  return {
    chat: async () => {
      const answer = await generate({ prompt: "Hello" });
      checkText(answer.text);
      assert.equal(answer.finishReason, "stop");
      assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0, JSON.stringify(answer.usage));
    },
    stream: async () => {
      const { answer, parts } = await whole({ prompt: "Hello" });
      const deltas = parts.filter((part) => part.type === "text-delta");
      assert.ok(deltas.length > 1, `${deltas.length} pieces`);
      assert.equal(await answer.text, (await generate({ prompt: "Hello" })).text);
      assert.equal(await answer.finishReason, "stop");
      assert.ok((await answer.usage).outputTokens > 0, JSON.stringify(await answer.usage));
    },
    tools: async () => {
      assert.equal((await calls(WEATHER_QUESTION)).length, 1);
      const named = await generate({ prompt: WEATHER_QUESTION, tools, toolChoice: { type: "tool", toolName: "get_weather" } });
      checkCall(named.toolCalls[0].toolName, named.toolCalls[0].input, named.toolCalls[0].toolCallId);
    },
    parallel: async () => checkIds((await calls(TWO_QUESTION, SEVERAL_CALLS)).map((call) => call.toolCallId)),
    thinking: async () => {
      const fields = { prompt: SUM, maxOutputTokens: 400, providerOptions: effort };
      const answer = await generate(fields);
      checkText(answer.reasoningText);
      checkText(answer.text);
      const { answer: streamed } = await whole(fields);
      assert.equal(await streamed.reasoningText, answer.reasoningText);
      assert.equal(await streamed.text, answer.text);
      checkText((await generate({ messages: [...user(SUM), ...answer.response.messages, ...user("Thanks")] })).text);
    },
    image: async () => {
      const picture = { type: "file", data: `data:image/png;base64,${IMAGE_BASE64}`, mediaType: "image/png" };
      const answer = await generate({ messages: user([{ type: "text", text: IMAGE_QUESTION }, picture]) });
      checkText(answer.text);
      assert.ok(answer.usage.inputTokens > 30, JSON.stringify(answer.usage));
    },
    schema: async () => {
      const output = Output.object({ schema: jsonSchema(VERDICT), name: "verdict" });
      checkVerdict((await generate({ prompt: VERDICT_QUESTION, output })).output);
    },
    overflow: async () => {
      const test = (e) => e.statusCode === 400 && !e.isRetryable && OVERFLOW.some((words) => words.test(e.message));
      await expectError(() => generate({ prompt: LONG_TEXT }), test);
      await expectError(() => whole({ prompt: LONG_TEXT }), test);
    },
    model: () => expectError(() => generate({ model: model({ name: WRONG_MODEL }), prompt: "Hello" }), (e) => e.statusCode === 400),
    key: () => expectError(() => generate({ model: model({ key: "wrong" }), prompt: "Hello" }), (e) => e.statusCode === 401),
    abort: async () => {
      const before = await metrics();
      const abort = new AbortController();
      const { answer } = stream({ prompt: "Hello", maxOutputTokens: ENDLESS_TOKENS, extra: ENDLESS, abortSignal: abort.signal });
      for await (const part of answer.fullStream) if (part.type === "text-delta") abort.abort();
      await checkAbandoned(before);
    },
    open: async () => checkText((await generate({ model: model({ base: OPEN_BASE, key: "none" }), prompt: "Hello" })).text),
  };
}

const compatible = (baseURL, apiKey, fetch) =>
  createOpenAICompatible({ name: "gust", baseURL, apiKey, fetch, includeUsage: true, supportsStructuredOutputs: true });
const mistral = (baseURL, apiKey, fetch) => createMistral({ baseURL, apiKey, fetch });

await run("@ai-sdk/openai-compatible", casesOf(compatible, { gust: { reasoningEffort: "high" } }));
await run("@ai-sdk/mistral", casesOf(mistral, { mistral: { reasoningEffort: "high" } }));
