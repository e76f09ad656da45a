//! Before a server can answer, when its clients leave, and when it is told to end.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::http::{CHAT, JSON, check_error};
use crate::util::http::{Connection, PATIENCE, Server};

/// What takes milliseconds takes no longer than this on a machine that is busy.
const SOON: Duration = Duration::from_secs(3);

/// Asks for more than anybody wants to wait for.
fn ask_much(server: &Server, stream: bool) -> Connection {
    let body = json!({
        "prompt": "one", "max_tokens": 2000, "logit_bias": {"2": -100}, "stream": stream,
    });
    let mut connection = server.connect();
    let request = server.request("POST", "/v1/completions", &[JSON], &body.to_string());
    connection.send(request.as_bytes());
    wait(server, 1);
    connection
}

/// Waits until so many replies are written.
#[track_caller]
fn wait(server: &Server, n_running: usize) {
    let start = Instant::now();
    let line = format!("gust_requests_running {n_running}");
    while !server.get("/metrics").text().lines().any(|found| found == line) {
        assert!(start.elapsed() < SOON, "not {line}: {}", server.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_loads_says_so() {
    // Loading takes an instant, which may be over before the first request comes; if it always is, there is
    // nothing to be seen.
    for _ in 0..20 {
        let server = Server::loading(&[]);
        let ask = |method, path, body| server.request(method, path, &[JSON], body);
        let mut connection = server.connect();
        let chat = ask("POST", CHAT, "{}");
        connection.send(format!("{}{chat}", ask("GET", "/health", "")).as_bytes());
        let (health, chat) = (connection.answer(), connection.answer());
        if chat.status != 503 {
            continue;
        }
        assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("loading")));
        check_error(&chat, 503, Some("model_loading"));
        for answer in [health, chat] {
            assert_eq!(answer.header("retry-after"), Some("2"));
        }
        return;
    }
}

#[test]
fn wrong_flags_for_devices_are_wrong_usage_and_what_fails_is_not() {
    for (flags, code, text) in [
        (&["--device", "X"][..], 2, "error: --device: no device is called X; "),
        (
            &["--override-tensor", "ffn=Y"],
            2,
            "error: --override-tensor: no device called Y is in use; ",
        ),
        (
            &["--flash-attn", "off", "--cache-type-v", "q8_0"],
            1,
            "error: the engine cannot be started: built-in tiny model: a cache of type q8_0 needs",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_gust"))
            .args(["serve", "--port", "0"])
            .args(flags)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert_eq!((said.matches("error:").count(), said.matches(text).count()), (1, 1), "{said}");
        assert!(said.ends_with('\n') && !said.ends_with("\n\n"), "{said:?}");
    }
}

#[test]
fn whoever_leaves_frees_the_slot() {
    let server = Server::start(&["--slots", "1"]);
    for stream in [false, true] {
        drop(ask_much(&server, stream));
        wait(&server, 0);
        // A client that says that it will send no more is taken for one that left.
        let mut half = ask_much(&server, stream);
        half.half_close();
        wait(&server, 0);
        let answer = half.answer();
        assert_eq!(answer.status, if stream { 200 } else { 0 }, "{answer:?}");
        assert!(half.is_closed());
    }
    // Bytes that nobody has read make the end a reset.
    let mut reset = ask_much(&server, true);
    reset.line();
    std::thread::sleep(Duration::from_millis(200));
    drop(reset);
    wait(&server, 0);
    assert_eq!(server.said().matches("the client went away").count(), 5, "{}", server.said());
}

#[test]
fn a_signal_ends_a_server_that_does_nothing() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        // A client that keeps its connection does not keep the server.
        let mut idle = server.connect();
        idle.send(server.request("GET", "/health", &[], "").as_bytes());
        assert_eq!(idle.answer().status, 200);
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(0), "{}", server.said());
        assert!(start.elapsed() < SOON);
    }
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let mut server = Server::start(&["--drain", "60"]);
    let mut stream = ask_much(&server, true);
    server.signal("TERM");
    let start = Instant::now();
    while !server.said().contains("once more stops at once") {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The reply goes on, and nothing new is taken.
    std::thread::sleep(Duration::from_millis(500));
    let refused = server.post(CHAT, &json!({"messages": [{"role": "user", "content": "hi"}]}));
    check_error(&refused, 503, Some("service_unavailable"));
    assert!(refused.header("retry-after").is_some());
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(1), "{}", server.said());
    assert!(start.elapsed() < SOON);
    assert!(server.said().contains("stopped at once"), "{}", server.said());
    assert_eq!(stream.answer().status, 200);
}
