// What the cases in JavaScript share; the same questions, schemas and checks as `python/common.py`, which says
// why they are as they are. Modules of packages come from the folder that NODE_PATH_DIR names, because node
// looks for them only beside the importing file.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";

export { assert };

const require = createRequire(process.env.NODE_PATH_DIR + "/package.json");
export const load = (name) => import(pathToFileURL(require.resolve(name)));

export const BASE = process.env.GUST_BASE;
export const KEY = process.env.GUST_KEY;
export const OPEN_BASE = process.env.GUST_OPEN_BASE;
export const MODEL = "mistral-medium-3.5";
export const WRONG_MODEL = "mistral-small-latest";
export const CASES = ["chat", "stream", "tools", "parallel", "thinking", "image", "schema", "overflow", "model", "key", "abort", "open"];

export const SUM = "What is 17+25?";
export const WEATHER_QUESTION = "What's the weather in Ottawa?";
export const TWO_QUESTION = "Weather in Ottawa and in Paris please";
export const VERDICT_QUESTION = "Classify this text as positive or negative: 'Great product, fast shipping'";
export const IMAGE_QUESTION = "Describe this image.";
export const LONG_TEXT = "The river and the castle. ".repeat(1500);
export const IMAGE_BASE64 = readFileSync(new URL("../../../models/tiny/examples/star.png", import.meta.url)).toString("base64");

export const WEATHER_PARAMETERS = {
  type: "object",
  properties: { city: { type: "string", enum: ["Ottawa", "Paris"] } },
  required: ["city"],
  additionalProperties: false,
};
export const WEATHER_RESULT = '{"condition": "sunny", "temperature": 21}';
export const VERDICT = {
  type: "object",
  properties: {
    label: { type: "string", enum: ["positive", "negative"] },
    sure: { type: "boolean" },
    stars: { type: "integer", minimum: 1, maximum: 5 },
  },
  required: ["label", "sure", "stars"],
  additionalProperties: false,
};
export const SEVERAL_CALLS = { logit_bias: { 9: 23 }, frequency_penalty: 2 };
export const ENDLESS = { logit_bias: { 2: -100 } };
export const ENDLESS_TOKENS = 3000;

// A fetch that adds fields to bodies, for what the packages have no fields for.
export const adding = (fields) => (url, options) =>
  fetch(url, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ...fields }) });

export function checkText(text) {
  assert.ok(typeof text === "string" && text.trim(), `expected text, found ${JSON.stringify(text)}`);
}

export function checkCall(name, input, id) {
  assert.equal(name, "get_weather");
  assert.deepEqual(Object.keys(input), ["city"]);
  assert.ok(["Ottawa", "Paris"].includes(input.city), JSON.stringify(input));
  assert.match(id, /^[A-Za-z0-9_-]{1,64}$/);
}

export function checkIds(ids) {
  assert.ok(ids.length >= 2, `expected several calls, found ${ids.length}`);
  assert.equal(new Set(ids.map((id) => id.slice(0, 9))).size, ids.length, `ids repeat: ${ids}`);
}

export function checkVerdict(value) {
  assert.deepEqual(Object.keys(value).sort(), ["label", "stars", "sure"]);
  assert.ok(["positive", "negative"].includes(value.label) && typeof value.sure === "boolean", JSON.stringify(value));
  assert.ok(Number.isInteger(value.stars) && value.stars >= 1 && value.stars <= 5, JSON.stringify(value));
}

export async function expectError(run, test) {
  let answer;
  try {
    answer = await run();
  } catch (e) {
    assert.ok(test(e), `${e.name} is not as expected: ${e.message} ${e.statusCode ?? e.status} ${e.responseBody ?? ""}`);
    return;
  }
  throw new Error(`expected an error, found ${JSON.stringify(answer).slice(0, 200)}`);
}

export async function metrics() {
  const text = await (await fetch(`${BASE}/metrics`, { headers: { Authorization: `Bearer ${KEY}` } })).text();
  const values = {};
  for (const line of text.split("\n")) {
    const found = line.match(/^([a-z_:][a-z0-9_:]*)(?:\{.*\})? ([-+0-9.eE]+)$/);
    if (found) values[found[1]] = (values[found[1]] ?? 0) + Number(found[2]);
  }
  return values;
}

export async function checkAbandoned(before) {
  const deadline = Date.now() + 5000;
  let now;
  while ((now = await metrics()).gust_requests_running > 0) {
    assert.ok(Date.now() < deadline, `${now.gust_requests_running} requests run 5 s after the client left`);
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.ok("gust_requests_running" in now, "/metrics has no gust_requests_running");
  const written = now.gust_generated_tokens_total - before.gust_generated_tokens_total;
  assert.ok(written < ENDLESS_TOKENS - 100, `${written} tokens were written for a client that left`);
}

export async function run(client, cases) {
  const only = (process.env.GUST_CASES ?? "").split(",").filter(Boolean);
  for (const name of CASES) {
    if (only.length && !only.includes(name)) continue;
    const what = cases[name];
    const started = Date.now();
    let [result, detail] = ["pass", ""];
    if (typeof what !== "function") {
      [result, detail] = what ? ["n/a", what] : ["fail", "not written"];
    } else {
      try {
        await what();
      } catch (e) {
        result = "fail";
        const line = (e.stack ?? "").match(/tests\/clients\/node\/(?!common)\w+\.mjs:\d+/)?.[0] ?? "";
        detail = `${e.name}: ${String(e.message).slice(0, 600)} ${e.responseBody ?? ""} ${line}`;
        if (process.env.GUST_TRACE) console.error(e);
      }
    }
    console.log(JSON.stringify({ client, case: name, result, detail, s: (Date.now() - started) / 1000 }));
  }
}
