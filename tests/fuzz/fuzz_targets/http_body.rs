//! Any bytes as the body of a request, at any address that takes one; the first byte chooses it.
//!
//! There is no engine, but everything before it: documents, fields, conversations, pictures, prompts, rules.
//! Whatever comes is answered in JSON or events, with the client's fault or the engine's. A status of 500 is a
//! fault of the server's own, such as a panic that it has contained.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let path = match first {
        b'c' => "/v1/chat/completions",
        b't' => "/v1/completions",
        b'f' => "/v1/fim/completions",
        b'm' => "/v1/messages",
        b'n' => "/v1/messages/count_tokens",
        b'r' => "/v1/responses",
        b's' => "/v1/responses/input_tokens",
        b'a' => "/apply-template",
        b'k' => "/tokenize",
        b'd' => "/detokenize",
        _ => return,
    };
    let (status, answer) = gust::answer_to_body(path, body).expect("it takes a body");
    let text = std::str::from_utf8(&answer).expect("answers are text");
    assert!(matches!(status, 200 | 400..=499 | 503), "{path}: {status} {text}");
    assert!(!text.contains("this is a bug"), "{path}: {text}");
});
