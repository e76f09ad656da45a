//! OpenAI's Responses, as the built-in model answers them.

use serde_json::{Value, json};

use crate::util::http::{Server, kinds};

const RESPONSES: &str = "/v1/responses";
const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

fn ask(input: Value, more: Value) -> Value {
    let mut body = json!({"model": "mistral-medium-3.5", "input": input, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn weather(input: Value, more: Value) -> Value {
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = json!({
        "type": "function", "name": "get_weather", "parameters": schema,
        "description": "Get the current weather for a city",
    });
    let mut body = ask(input, json!({"tools": [tool]}));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A stream's events, numbered without a gap and framed by the response's own; with what it is in the end.
#[track_caller]
fn streamed(server: &Server, mut body: Value) -> (Vec<Value>, Value) {
    body["stream"] = json!(true);
    let events = server.post(RESPONSES, &body).events();
    for (k, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], k);
    }
    assert_eq!(kinds(&events)[..2], ["response.created", "response.in_progress"]);
    let last = events.last().unwrap();
    assert_eq!(
        last["type"].as_str(),
        last["response"]["status"].as_str().map(|s| format!("response.{s}")).as_deref()
    );
    let end = last["response"].clone();
    (events, end)
}

fn joined(events: &[Value], kind: &str) -> String {
    let deltas = events.iter().filter(|event| event["type"] == kind);
    deltas.map(|event| event["delta"].as_str().unwrap()).collect()
}

#[test]
fn an_answer_is_an_object_or_events_of_the_same_items() {
    let server = Server::start(&[]);
    let body = server.post(RESPONSES, &ask(json!(FRANCE), json!({"metadata": {"a": "b"}}))).json();
    assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")));
    assert!(body["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(body["metadata"], json!({"a": "b"}));
    assert_eq!((&body["error"], &body["incomplete_details"]), (&Value::Null, &Value::Null));
    let [message] = body["output"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(message["content"][0]["text"], PARIS);
    let n = |name: &str| body["usage"][name].as_u64().unwrap();
    assert_eq!(n("total_tokens"), n("input_tokens") + n("output_tokens"));

    let (events, end) =
        streamed(&server, ask(json!([{"role": "user", "content": FRANCE}]), json!({})));
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    assert_eq!(joined(&events, "response.output_text.delta"), PARIS);
    assert_eq!(end["output"][0]["content"], message["content"]);
    assert_eq!(end["usage"]["output_tokens"], body["usage"]["output_tokens"]);
}

#[test]
fn a_reply_that_is_cut_off_is_incomplete() {
    let server = Server::start(&[]);
    let (_, end) = streamed(&server, ask(json!(FRANCE), json!({"max_output_tokens": 2})));
    assert_eq!(end["status"], "incomplete");
    assert_eq!(end["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(end["output"][0]["status"], "incomplete");
}

#[test]
fn a_call_is_an_item_and_its_output_goes_back_as_one() {
    let server = Server::start(&[]);
    let question = json!({"role": "user", "content": "Weather in Ottawa please"});
    let choice = json!({"tool_choice": {"type": "function", "name": "get_weather"}});
    let (events, end) = streamed(&server, weather(json!([question]), choice));
    let call = &end["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("get_weather")));
    let arguments = call["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"city": "Ottawa"}));
    assert_eq!(joined(&events, "response.function_call_arguments.delta"), arguments);
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done");
    assert_eq!(done.unwrap()["arguments"], arguments);

    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "4 °C"});
    let input = json!([question, call, output]);
    let answer = server.post(RESPONSES, &weather(input, json!({"tool_choice": "none"}))).json();
    assert_eq!(answer["status"], "completed", "{answer}");
    assert_eq!(answer["output"][0]["type"], "message");
}

#[test]
fn reasoning_is_an_item_and_can_be_sent_back() {
    let server = Server::start(&[]);
    let question = json!({"role": "user", "content": "What is 17+25?"});
    let more = json!({
        "reasoning": {"effort": "high"}, "include": ["reasoning.encrypted_content"], "store": false,
    });
    let (events, end) = streamed(&server, ask(json!([question]), more.clone()));
    let [thought, message] = end["output"].as_array().unwrap().as_slice() else { panic!("{end}") };
    assert_eq!((&thought["type"], &message["type"]), (&json!("reasoning"), &json!("message")));
    assert!(thought["encrypted_content"].is_string());
    let told = joined(&events, "response.reasoning_summary_text.delta");
    assert_eq!(json!(told), thought["summary"][0]["text"]);
    assert!(end["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);

    let thanks = json!({"role": "user", "content": "Thanks"});
    let mut back = ask(json!([question, thought, message, thanks]), more);
    let n = server.post("/v1/responses/input_tokens", &back).json();
    assert_eq!(n["object"], "response.input_tokens");
    back["max_output_tokens"] = json!(2);
    let answer = server.post(RESPONSES, &back).json();
    assert_eq!(answer["usage"]["input_tokens"], n["input_tokens"], "{answer}");
    // The reply that the model wrote is what it is given back.
    assert!(answer["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 20);
}

#[test]
fn faults_name_their_field() {
    let server = Server::start(&[]);
    for (more, param, code) in [
        (json!({"model": "gpt-5"}), "model", Some("model_not_found")),
        (
            json!({"previous_response_id": "resp_1"}),
            "previous_response_id",
            Some("unsupported_parameter"),
        ),
        (json!({"background": true}), "background", Some("unsupported_parameter")),
        (json!({"input": 5}), "input", None),
        (json!({"input": []}), "input", None),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0]", None),
        (json!({"text": "json"}), "text", None),
        (json!({"text": {"format": "json"}}), "text.format", None),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type", None),
        (json!({"reasoning": "high"}), "reasoning", None),
        (json!({"max_output_tokens": 0}), "max_output_tokens", None),
        (json!({"top_logprobs": 21}), "top_logprobs", None),
        (json!({"include": "x"}), "include", None),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name", None),
    ] {
        let answer = server.post(RESPONSES, &ask(json!(FRANCE), more.clone()));
        assert_eq!(answer.status, 400, "{more}: {answer:?}");
        let error = answer.json()["error"].clone();
        assert_eq!((&error["param"], error["code"].as_str()), (&json!(param), code), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}
