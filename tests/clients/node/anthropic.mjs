// `@anthropic-ai/sdk`: the Messages API in JavaScript.

import {
  ENDLESS, ENDLESS_TOKENS, IMAGE_BASE64, IMAGE_QUESTION, LONG_TEXT, MODEL, BASE, KEY, OPEN_BASE, SEVERAL_CALLS, SUM,
  TWO_QUESTION, VERDICT, VERDICT_QUESTION, WEATHER_PARAMETERS, WEATHER_QUESTION, WEATHER_RESULT, WRONG_MODEL, assert,
  checkAbandoned, checkCall, checkIds, checkText, checkVerdict, expectError, load, metrics, run,
} from "./common.mjs";

const { default: Anthropic } = await load("@anthropic-ai/sdk");

const client = (baseURL = BASE, apiKey = KEY) => new Anthropic({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const user = (content) => [{ role: "user", content }];
// The package passes on fields that it does not know.
const body = (fields) => ({ model: MODEL, max_tokens: 60, ...(fields.thinking ? {} : { temperature: 0 }), ...fields });
const create = (fields, by = client()) => by.messages.create(body(fields));
const tools = [{ name: "get_weather", description: "Get the current weather for a city", input_schema: WEATHER_PARAMETERS }];

async function calls(question, fields) {
  const stream = client().messages.stream(body({ messages: user(question), tools, max_tokens: 300, ...fields }));
  const answer = await stream.finalMessage();
  assert.equal(answer.stop_reason, "tool_use");
  const made = answer.content.filter((block) => block.type === "tool_use");
  for (const call of made) checkCall(call.name, call.input, call.id);
  const results = made.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: WEATHER_RESULT }));
  const history = [...user(question), { role: "assistant", content: answer.content }, ...user(results)];
  checkText((await create({ messages: history, tools, tool_choice: { type: "none" } })).content[0].text);
  return made;
}

await run("@anthropic-ai/sdk", {
  chat: async () => {
    const answer = await create({ messages: user("Hello") });
    checkText(answer.content[0].text);
    assert.equal(answer.stop_reason, "end_turn");
    assert.ok(answer.usage.input_tokens + (answer.usage.cache_read_input_tokens ?? 0) > 0 && answer.usage.output_tokens > 0);
    const count = await client().messages.countTokens({ model: MODEL, messages: user("Hello") });
    assert.equal(count.input_tokens, answer.usage.input_tokens + (answer.usage.cache_read_input_tokens ?? 0));
  },
  stream: async () => {
    const stream = client().messages.stream(body({ messages: user("Hello") }));
    let text = "";
    stream.on("text", (piece) => (text += piece));
    const answer = await stream.finalMessage();
    checkText(text);
    assert.equal(answer.content[0].text, text);
    assert.equal(answer.stop_reason, "end_turn");
    assert.equal((await create({ messages: user("Hello") })).content[0].text, text);
  },
  tools: async () => {
    for (const tool_choice of [{ type: "any" }, { type: "tool", name: "get_weather" }]) {
      assert.equal((await calls(WEATHER_QUESTION, { tool_choice })).length, 1);
    }
  },
  parallel: async () =>
    checkIds((await calls(TWO_QUESTION, { tool_choice: { type: "any" }, ...SEVERAL_CALLS })).map((call) => call.id)),
  thinking: async () => {
    const fields = { messages: user(SUM), thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 1500 };
    const answer = await create(fields);
    const streamed = await client().messages.stream(body(fields)).finalMessage();
    for (const message of [answer, streamed]) {
      assert.deepEqual(message.content.map((block) => block.type), ["thinking", "text"]);
      checkText(message.content[0].thinking);
    }
    const back = [...user(SUM), { role: "assistant", content: answer.content }, ...user("Thanks")];
    checkText((await create({ messages: back })).content[0].text);
  },
  image: async () => {
    const source = { type: "base64", media_type: "image/png", data: IMAGE_BASE64 };
    const answer = await create({ messages: user([{ type: "image", source }, { type: "text", text: IMAGE_QUESTION }]) });
    checkText(answer.content[0].text);
  },
  schema: async () => {
    const output_config = { format: { type: "json_schema", schema: VERDICT } };
    checkVerdict(JSON.parse((await create({ messages: user(VERDICT_QUESTION), output_config })).content[0].text));
  },
  overflow: () =>
    expectError(
      () => create({ messages: user(LONG_TEXT) }),
      (e) => e instanceof Anthropic.BadRequestError && /prompt is too long/.test(e.message),
    ),
  model: () => expectError(() => create({ model: WRONG_MODEL, messages: user("Hello") }), (e) => [400, 404].includes(e.status)),
  key: () =>
    expectError(
      () => create({ messages: user("Hello") }, client(BASE, "wrong")),
      (e) => e instanceof Anthropic.AuthenticationError,
    ),
  abort: async () => {
    const before = await metrics();
    const stream = client().messages.stream(body({ messages: user("Hello"), max_tokens: ENDLESS_TOKENS, ...ENDLESS }));
    stream.on("text", () => stream.abort());
    await stream.done().catch(() => {});
    await checkAbandoned(before);
  },
  open: async () => checkText((await create({ messages: user("Hello") }, client(OPEN_BASE, "none"))).content[0].text),
});
