//! Where requests begin and end, as far as anybody could disagree about it, and how long they may take.

use std::time::{Duration, Instant};

use super::http::{JSON, check_error};
use crate::util::http::Server;

const BODY: &str = "{\"content\": \"a\"}";
/// Answers that need no waiting come within this, also on a machine that is busy.
const SOON: Duration = Duration::from_secs(5);

/// The head of a request to `/tokenize`, but for what says where it ends.
fn post(server: &Server) -> String {
    format!("POST /tokenize HTTP/1.1\r\nhost: {}\r\n{}: {}\r\n", server.address, JSON.0, JSON.1)
}

fn get(server: &Server) -> String {
    format!("GET /health HTTP/1.1\r\nhost: {}\r\n", server.address)
}

#[track_caller]
fn check_refused(server: &Server, request: &str, status: u16) {
    let start = Instant::now();
    let mut connection = server.connect();
    connection.send(request.as_bytes());
    let answer = connection.answer();
    let shown: String = request.chars().take(200).collect();
    assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
    check_error(&answer, status, None);
    assert!(connection.is_closed(), "{shown:?}");
    assert!(start.elapsed() < SOON, "{shown:?}");
}

#[test]
fn heads_that_are_no_http_are_refused() {
    let server = Server::start(&[]);
    let (get, post) = (get(&server), post(&server));
    let host = server.address;
    let many: String = (0..65).map(|k| format!("x-{k}: 1\r\n")).collect();
    let long = |n: usize| "x".repeat(n);
    for (request, status) in [
        (format!("{get}{many}\r\n"), 431),
        (format!("{get}x: {}\r\n\r\n", long(16 << 10)), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: {host}\r\n\r\n", long(8 << 10)), 414),
        (format!("GET /{} HTTP/1.1\r\nhost: {host}\r\n\r\n", long(32 << 10)), 414),
        (format!("{get}x: 1\r\n folded\r\n\r\n"), 400),
        (format!("{get}bad name: 1\r\n\r\n"), 400),
        (format!("{get}x: 1\n\r\n"), 400),
        (get.replace("\r\n", "\n") + "\n", 400),
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /health\r\n\r\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        // What a client of https begins with.
        (format!("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03{}", long(500)), 400),
        (format!("{post}content-length: -1\r\n\r\n"), 400),
        (format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"), 400),
        (format!("{post}content-length: 16\r\ncontent-length: 16\r\n\r\n{BODY}"), 400),
        (format!("{post}content-length: 1000000000000000000\r\n\r\n"), 413),
        (format!("{post}transfer-encoding: gzip\r\n\r\n"), 400),
        (format!("{post}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400),
    ] {
        check_refused(&server, &request, status);
    }
    // A length beside chunks is one that a proxy may have believed.
    let (length, chunked) = ("content-length: 6\r\n", "transfer-encoding: chunked\r\n");
    for both in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        check_refused(&server, &format!("{post}{both}\r\n0\r\n\r\n{get}\r\n"), 400);
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn chunks_are_read_and_those_that_are_none_are_refused() {
    let server = Server::start(&["--max-body", "1"]);
    let head = format!("{}transfer-encoding: chunked\r\n\r\n", post(&server));
    let more = "y".repeat(300 << 10);
    for (body, status) in [
        (format!("-2\r\nxx{more}"), 400),
        ("ffffffffffffffff\r\nxx".to_owned(), 413),
        ("fffffffffffffffff\r\nxx".to_owned(), 400),
        (format!("10\r\n{BODY}xx{more}"), 400),
        (format!("10\r\n{BODY}\r\n0\r\nx: 1\r\n\r\n"), 400),
        (format!("1;{more}"), 400),
        (
            "400\r\n".to_owned()
                + &more[..0x400]
                + &format!("\r\n400\r\n{}", &more[..0x400]).repeat(2000),
            413,
        ),
    ] {
        check_refused(&server, &format!("{head}{body}"), status);
    }
    let good = format!("{head}6\r\n{}\r\nA;x=y\r\n{}\r\n0\r\n\r\n", &BODY[..6], &BODY[6..]);
    let mut connection = server.connect();
    connection.send(good.repeat(10).as_bytes());
    for _ in 0..10 {
        assert_eq!(connection.answer().status, 200);
    }
    // Whoever comes before a fault gets his answer.
    connection.send(format!("{good}{}x: 1\n\r\n{good}", get(&server)).as_bytes());
    assert_eq!(connection.answer().status, 200);
    check_error(&connection.answer(), 400, None);
    assert!(connection.is_closed());
}

#[test]
fn whoever_dawdles_is_not_waited_for() {
    let server = Server::start(&[]);
    let (get, post) = (get(&server), post(&server));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            let mut connections: Vec<_> = (0..50).map(|_| server.connect()).collect();
            connections.iter_mut().for_each(|connection| connection.send(get.as_bytes()));
            for connection in &mut connections {
                assert!(connection.is_closed());
            }
            let seconds = start.elapsed().as_secs_f32();
            assert!((9.0..10.0 + SOON.as_secs_f32()).contains(&seconds), "{seconds}");
        });
        for body in ["content-length: 16\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n1"] {
            let (server, request) = (&server, format!("{post}{body}"));
            scope.spawn(move || {
                let start = Instant::now();
                let mut connection = server.connect();
                connection.send(request.as_bytes());
                check_error(&connection.answer(), 408, None);
                assert!(connection.is_closed());
                let seconds = start.elapsed().as_secs_f32();
                assert!((29.0..30.0 + SOON.as_secs_f32()).contains(&seconds), "{seconds}");
            });
        }
        // Nobody else has to wait meanwhile.
        for _ in 0..20 {
            let start = Instant::now();
            assert_eq!(server.ask("POST", "/tokenize", &[JSON], BODY).status, 200);
            assert!(start.elapsed() < SOON);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}
