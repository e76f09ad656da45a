//! Replies as transcripts: what each writer makes of the same pieces, byte for byte, because clients read
//! streams more narrowly than JSON is defined.

use crate::chat::{FinishReason, ReplyEvent};
use crate::scheduler::{Logprobs, Spent, Start};
use crate::server::Dialect;
use crate::server::http::{ApiError, ErrorKind};
use crate::server::request::{ReplyItem, ScoredToken, Usage};
use crate::tokenizer::Tokenizer;

use super::answer::Answer;
use super::chunks::ChatStream;
use super::dialect::Manner;
use super::message::ChatBody;
use super::text::{TextAnswer, TextWriter};
use super::wire::{FINGERPRINT, Head};

const USAGE: &str = r#""usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4,"image_tokens":1},"completion_tokens_details":{"reasoning_tokens":2},"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":3,"cache_read_input_tokens":4}"#;
const TIMINGS: &str = r#""timings":{"cache_n":4,"prompt_n":3,"prompt_ms":500.0,"prompt_per_token_ms":166.667,"prompt_per_second":6.0,"predicted_n":5,"predicted_ms":2000.0,"predicted_per_token_ms":500.0,"predicted_per_second":2.0}"#;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&crate::model::builtin()).unwrap()
}

fn head(id: &str) -> Head {
    Head { id: id.to_owned(), created: 1_700_000_000, model: "m".to_owned() }
}

fn answer(dialect: Dialect) -> Answer {
    Answer {
        head: head("chatcmpl-1"),
        manner: Manner { dialect, whole_calls: false },
        n: 1,
        has_usage_chunk: false,
        hides_reasoning: false,
        has_details: false,
    }
}

fn usage() -> Usage {
    let spent =
        Spent { n_prefilled: 3, n_generated: 5, waited_s: 0.1, prefill_s: 0.5, decode_s: 2.0 };
    Usage { n_prompt: 7, n_cached: 4, n_image: 1, n_completion: 5, n_reasoning: 2, spent }
}

fn started() -> ReplyItem {
    ReplyItem::Started(Start { n_prompt: 7, n_reused: 4, miss: None })
}

fn piece(choice: usize, event: ReplyEvent) -> ReplyItem {
    ReplyItem::Event { choice, event, tokens: Vec::new() }
}

fn text(text: &str) -> ReplyEvent {
    ReplyEvent::Text(text.to_owned())
}

fn reasoning(text: &str) -> ReplyEvent {
    ReplyEvent::Reasoning(text.to_owned())
}

fn call(id: &str, name: &str) -> ReplyEvent {
    ReplyEvent::ToolCallStarted { id: id.to_owned(), name: name.to_owned() }
}

fn arguments(json: &str) -> ReplyEvent {
    ReplyEvent::ToolCallArguments(json.to_owned())
}

fn finished(reason: FinishReason) -> ReplyEvent {
    ReplyEvent::Finished { reason, malformed: false, stopped_by: None }
}

/// A reply of one choice with everything in it.
fn everything() -> Vec<ReplyItem> {
    let events = [
        reasoning("let"),
        reasoning(" me"),
        text("é\n"),
        call("aaaaaaaa1", "f"),
        arguments("{\"a\":"),
        arguments("1}"),
        call("aaaaaaaa2", "g"),
        arguments("{}"),
        finished(FinishReason::ToolCalls),
    ];
    let events = events.into_iter().map(|event| piece(0, event));
    std::iter::once(started()).chain(events).chain([ReplyItem::Done(usage())]).collect()
}

/// What a stream's events say beside what is the same in all of them.
fn streamed(answer: Answer, items: Vec<ReplyItem>) -> Vec<String> {
    let mut stream = ChatStream::new(answer, tokenizer());
    let mut out = String::new();
    for item in items {
        stream.push(item, &mut out);
    }
    let head = format!(
        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
         \"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":["
    );
    assert!(out.ends_with("\n\n"));
    let events = out.trim_end_matches('\n').split("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").expect("an event is one line of data");
        data.strip_prefix(&head).unwrap_or(data).to_owned()
    });
    events.collect()
}

/// A choice's chunk, but for its end.
fn chunk(delta: &str) -> String {
    format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]}}"#)
}

fn last_chunk(reason: &str) -> String {
    format!(r#"{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]"#)
}

#[test]
fn openai_has_reasoning_beside_the_content_and_usage_in_a_chunk_of_its_own() {
    let answer = Answer { has_usage_chunk: true, ..answer(Dialect::OpenAi) };
    let expected = [
        chunk(r#"{"role":"assistant","content":""}"#),
        chunk(r#"{"reasoning_content":"let","reasoning":"let"}"#),
        chunk(r#"{"reasoning_content":" me","reasoning":" me"}"#),
        chunk(r#"{"content":"é\n"}"#),
        chunk(
            r#"{"tool_calls":[{"index":0,"id":"aaaaaaaa1","type":"function","function":{"name":"f","arguments":""}}]}"#,
        ),
        chunk(r#"{"tool_calls":[{"index":0,"function":{"name":"","arguments":"{\"a\":"}}]}"#),
        chunk(r#"{"tool_calls":[{"index":0,"function":{"name":"","arguments":"1}"}}]}"#),
        chunk(
            r#"{"tool_calls":[{"index":1,"id":"aaaaaaaa2","type":"function","function":{"name":"g","arguments":""}}]}"#,
        ),
        chunk(r#"{"tool_calls":[{"index":1,"function":{"name":"","arguments":"{}"}}]}"#),
        last_chunk("tool_calls") + "}",
        format!("],{USAGE},{TIMINGS}}}"),
        "[DONE]".to_owned(),
    ];
    assert_eq!(streamed(answer, everything()), expected);
}

#[test]
fn mistral_has_reasoning_in_the_content_and_usage_in_the_last_chunk() {
    let expected = [
        chunk(r#"{"role":"assistant","content":""}"#),
        chunk(r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"let"}]}]}"#),
        chunk(r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":" me"}]}]}"#),
        chunk(r#"{"content":"é\n"}"#),
        chunk(
            r#"{"tool_calls":[{"index":0,"id":"aaaaaaaa1","type":"function","function":{"name":"f","arguments":""}}]}"#,
        ),
        chunk(
            r#"{"tool_calls":[{"index":0,"id":"aaaaaaaa1","function":{"name":"","arguments":"{\"a\":"}}]}"#,
        ),
        chunk(
            r#"{"tool_calls":[{"index":0,"id":"aaaaaaaa1","function":{"name":"","arguments":"1}"}}]}"#,
        ),
        chunk(
            r#"{"tool_calls":[{"index":1,"id":"aaaaaaaa2","type":"function","function":{"name":"g","arguments":""}}]}"#,
        ),
        chunk(
            r#"{"tool_calls":[{"index":1,"id":"aaaaaaaa2","function":{"name":"","arguments":"{}"}}]}"#,
        ),
        last_chunk("tool_calls") + &format!(",{USAGE},{TIMINGS}}}"),
        "[DONE]".to_owned(),
    ];
    assert_eq!(streamed(answer(Dialect::Mistral), everything()), expected);
}

#[test]
fn calls_come_whole_where_pieces_would_be_taken_for_calls() {
    let mut answer = answer(Dialect::OpenAi);
    answer.manner.whole_calls = true;
    let events = streamed(answer, everything());
    let call = |index: usize, name: &str, arguments: &str| {
        chunk(&format!(
            r#"{{"tool_calls":[{{"index":{index},"id":"aaaaaaaa{}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}]}}"#,
            index + 1
        ))
    };
    assert_eq!(events[4..6], [call(0, "f", r#"{\"a\":1}"#), call(1, "g", "{}")]);
    assert_eq!(events.len(), 8);
}

#[test]
fn reasoning_is_kept_back_or_detailed_as_asked() {
    let hidden = Answer { hides_reasoning: true, ..answer(Dialect::Mistral) };
    assert_eq!(streamed(hidden, everything())[1], chunk(r#"{"content":"é\n"}"#));
    let detailed = Answer { has_details: true, ..answer(Dialect::OpenAi) };
    assert_eq!(
        streamed(detailed, everything())[1],
        chunk(
            r#"{"reasoning_content":"let","reasoning":"let","reasoning_details":[{"type":"reasoning.text","text":"let","signature":null,"id":null,"format":"unknown","index":0}]}"#
        )
    );
}

#[test]
fn each_of_several_choices_ends_once_and_the_last_has_the_usage() {
    let items = vec![
        started(),
        piece(1, text("b")),
        piece(0, text("a")),
        piece(1, finished(FinishReason::Length)),
        piece(0, finished(FinishReason::Stop)),
        ReplyItem::Done(usage()),
    ];
    let events = streamed(Answer { n: 2, ..answer(Dialect::OpenAi) }, items);
    let at = |index: usize, event: &str| event.starts_with(&format!("{{\"index\":{index},"));
    assert!(at(1, &events[0]) && at(1, &events[1]) && at(0, &events[2]) && at(0, &events[3]));
    assert_eq!(
        events[4..],
        [
            r#"{"index":1,"delta":{},"logprobs":null,"finish_reason":"length"}]}"#.to_owned(),
            last_chunk("stop") + &format!(",{USAGE},{TIMINGS}}}"),
            "[DONE]".to_owned(),
        ]
    );
}

#[test]
fn a_failure_is_one_event_and_the_last() {
    let error = ApiError::new(ErrorKind::Unavailable { retry_after_s: 2 }, "the engine stopped");
    let items = vec![piece(0, text("a")), ReplyItem::Failed(error, usage())];
    let events = streamed(answer(Dialect::OpenAi), items);
    let failure: serde_json::Value = serde_json::from_str(&events[2]).unwrap();
    assert_eq!(failure["object"], "error");
    assert_eq!(failure["message"], "the engine stopped");
    assert_eq!(failure["error"]["message"], "the engine stopped");
    assert_eq!(failure["error"]["code"], "service_unavailable");
    assert_eq!(failure["usage"]["prompt_tokens"], 7);
    assert_eq!(events.len(), 3);
}

/// The first token of `text`, and one that is likelier.
fn scored(tokenizer: &Tokenizer, text: &str) -> ScoredToken {
    let id = tokenizer.encode(text)[0];
    let other = tokenizer.encode("a")[0];
    let top = vec![(other, -0.25), (id, -1.5)];
    ScoredToken { id, logprobs: Logprobs { chosen: -1.5, top } }
}

#[test]
fn probabilities_go_with_the_text_they_belong_to() {
    let tokenizer = tokenizer();
    // A byte that is no character by itself.
    let half = ScoredToken {
        id: *tokenizer.encode("\u{1F9FF}").first().unwrap(),
        logprobs: Logprobs { chosen: f32::NEG_INFINITY, top: Vec::new() },
    };
    let bytes = tokenizer.token_bytes(half.id).to_vec();
    assert!(std::str::from_utf8(&bytes).is_err());
    let tokens = vec![scored(&tokenizer, "b")];
    let items = vec![
        ReplyItem::Event { choice: 0, event: text("b"), tokens },
        ReplyItem::Event { choice: 0, event: finished(FinishReason::Stop), tokens: vec![half] },
        ReplyItem::Done(usage()),
    ];
    let events = streamed(answer(Dialect::OpenAi), items);
    assert_eq!(
        events[1],
        r#"{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b","logprob":-1.5,"bytes":[98],"top_logprobs":[{"token":"a","logprob":-0.25,"bytes":[97]},{"token":"b","logprob":-1.5,"bytes":[98]}]}],"refusal":null},"finish_reason":null}]}"#
    );
    let last = format!("{{\"choices\":[{}", events[2]);
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    let half = &last["choices"][0]["logprobs"]["content"][0];
    assert_eq!(half["bytes"], serde_json::json!(bytes));
    assert_eq!(half["logprob"], -9999.0);
    assert!(half["token"].as_str().unwrap().contains('\u{FFFD}'));
}

/// A body's choices.
fn body(answer: Answer, items: Vec<ReplyItem>) -> String {
    let mut body = ChatBody::new(answer);
    for item in items {
        if let ReplyItem::Event { choice, event, tokens } = item {
            body.push(choice, &event, tokens);
        }
    }
    let body = body.finish(&usage(), &tokenizer());
    let head = format!(
        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\
         \"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":["
    );
    let tail = format!("],{USAGE},{TIMINGS}}}");
    body.strip_prefix(&head).and_then(|body| body.strip_suffix(&tail)).unwrap().to_owned()
}

#[test]
fn a_body_has_the_message_as_its_dialect_writes_it() {
    const CALLS: &str = r#""tool_calls":[{"index":0,"id":"aaaaaaaa1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"index":1,"id":"aaaaaaaa2","type":"function","function":{"name":"g","arguments":"{}"}}],"refusal":null},"logprobs":null,"finish_reason":"tool_calls"}"#;
    assert_eq!(
        body(answer(Dialect::OpenAi), everything()),
        r#"{"index":0,"message":{"role":"assistant","content":"é\n","reasoning_content":"let me","reasoning":"let me","#
            .to_owned()
            + CALLS
    );
    assert_eq!(
        body(answer(Dialect::Mistral), everything()),
        r#"{"index":0,"message":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"let me"}],"closed":true},{"type":"text","text":"é\n"}],"#
            .to_owned()
            + CALLS
    );
}

#[test]
fn content_without_words_is_null_for_calls_and_empty_otherwise() {
    let calls =
        || vec![piece(0, call("aaaaaaaa1", "f")), piece(0, finished(FinishReason::ToolCalls))];
    let nothing = || vec![piece(0, finished(FinishReason::Length))];
    for (dialect, items, content) in [
        (Dialect::OpenAi, calls(), "null"),
        (Dialect::Mistral, calls(), "\"\""),
        (Dialect::OpenAi, nothing(), "\"\""),
        (Dialect::Mistral, nothing(), "\"\""),
    ] {
        let body = body(answer(dialect), items);
        assert!(body.contains(&format!("\"content\":{content},")), "{body}");
    }
}

fn text_writer(echoes: &[&str], n: usize, tokenizer: &Tokenizer) -> TextWriter {
    let answer = TextAnswer {
        head: head("cmpl-1"),
        echoes: echoes.iter().map(|&echo| echo.to_owned()).collect(),
        n,
        has_usage_chunk: false,
    };
    TextWriter::new(answer, tokenizer.clone())
}

#[test]
fn text_comes_with_its_prompt_where_that_is_asked_for() {
    let tokenizer = tokenizer();
    let items = || {
        let tokens = vec![scored(&tokenizer, "b")];
        [
            ReplyItem::Event { choice: 0, event: text("b"), tokens },
            piece(0, finished(FinishReason::Stop)),
            ReplyItem::Done(usage()),
        ]
    };
    let head = format!(
        "{{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\
         \"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":["
    );
    const LOGPROBS: &str = r#""logprobs":{"tokens":["b"],"token_logprobs":[-1.5],"top_logprobs":[{"a":-0.25,"b":-1.5}],"text_offset":[2]}"#;
    let mut writer = text_writer(&["é "], 1, &tokenizer);
    let mut out = String::new();
    items().into_iter().for_each(|item| writer.push(0, item, &mut out));
    let expected = format!(
        "data: {head}{{\"index\":0,\"text\":\"é b\",{LOGPROBS},\"finish_reason\":null}}]}}\n\n\
         data: {head}{{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}}],{USAGE},{TIMINGS}}}\n\n\
         data: [DONE]\n\n"
    );
    assert_eq!(out, expected);

    let mut writer = text_writer(&["é "], 1, &tokenizer);
    let done: Vec<bool> = items().into_iter().map(|item| writer.take(0, item).unwrap()).collect();
    assert_eq!(done, [false, false, true]);
    let expected = format!(
        "{head}{{\"index\":0,\"text\":\"é b\",{LOGPROBS},\"finish_reason\":\"stop\"}}],{USAGE},{TIMINGS}}}"
    );
    assert_eq!(writer.finish(), expected);
}

#[test]
fn prompts_have_their_choices_in_order_and_are_complete_together() {
    let tokenizer = tokenizer();
    let mut writer = text_writer(&["", ""], 2, &tokenizer);
    for (prompt, choice, word) in [(1, 1, "d"), (0, 0, "a"), (1, 0, "c"), (0, 1, "b")] {
        writer.take(prompt, piece(choice, text(word))).unwrap();
        writer.take(prompt, piece(choice, finished(FinishReason::Stop))).unwrap();
    }
    assert!(!writer.take(1, ReplyItem::Done(usage())).unwrap());
    assert!(writer.take(0, ReplyItem::Done(usage())).unwrap());
    let body: serde_json::Value = serde_json::from_str(&writer.finish()).unwrap();
    let choices = body["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a", "b", "c", "d"]);
    assert_eq!(choices[3]["index"], 3);
    assert_eq!(body["usage"]["prompt_tokens"], 14);
}
