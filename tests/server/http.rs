//! Sockets, heads, hosts, keys and limits: what is refused, how, and that nothing else suffers.

use serde_json::json;

use crate::util::http::{Answer, Server};

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const JSON: (&str, &str) = ("content-type", "application/json");

#[track_caller]
pub(super) fn check_error(answer: &Answer, status: u16, code: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["object"], "error");
    assert_eq!(body["raw_status_code"], status);
    assert_eq!(body["code"].as_str(), code, "{body}");
    assert_eq!(body["error"]["code"], body["code"]);
    assert_eq!(body["error"]["message"], body["message"]);
    assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 24));
}

#[test]
fn hosts_and_pages_that_are_not_ours_are_refused() {
    let server = Server::start(&["--allow-host", "gust.lan", "--allow-origin", "https://ui.lan"]);
    let own = format!("http://{}", server.address);
    for (headers, expected) in [
        (vec![("host", "gust.lan")], 200),
        (vec![("host", "localhost")], 200),
        (vec![("host", "evil.com")], 403),
        (vec![("host", "localhost"), ("host", "localhost")], 400),
        (vec![("origin", own.as_str())], 200),
        (vec![("origin", "https://ui.lan")], 200),
        (vec![("origin", "http://evil.com")], 403),
        (vec![("origin", "null")], 403),
    ] {
        let answer = server.ask("GET", "/health", &headers, "");
        assert_eq!(answer.status, expected, "{headers:?}");
        let is_page = headers.contains(&("origin", "https://ui.lan"));
        let told = answer.header("access-control-allow-origin");
        assert_eq!(told, is_page.then_some("https://ui.lan"));
        if expected != 200 {
            check_error(&answer, expected, None);
        }
    }
    let asked = [("access-control-request-method", "POST"), ("origin", "https://ui.lan")];
    let preflight = server.ask("OPTIONS", CHAT, &asked, "");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"));
    let foreign = [("access-control-request-method", "POST"), ("origin", "https://evil.com")];
    assert_eq!(server.ask("OPTIONS", CHAT, &foreign, "").status, 403);
}

#[test]
fn without_a_key_there_is_health_and_nothing_else() {
    let server = Server::start(&["--api-key", "sesame", "--allow-origin", "*"]);
    assert_eq!(server.get("/health").status, 200);
    let long = "x".repeat(8 << 10);
    for (method, path) in [
        ("GET", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("OPTIONS", "/v1/models"),
        ("POST", CHAT),
        ("GET", "/metrics"),
        ("GET", "/props"),
        ("POST", "/tokenize"),
        ("GET", "/nowhere"),
        ("GET", "//v1/models"),
        ("GET", "/v1/%6dodels"),
        ("GET", "/health/../v1/models"),
        ("GET", "/v1/models?api_key=sesame&key=sesame"),
    ] {
        for header in [
            vec![],
            vec![("authorization", "Bearer wrong")],
            vec![("x-api-key", "sesam")],
            vec![("authorization", long.as_str())],
        ] {
            let answer = server.ask(method, path, &header, "");
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            if method != "HEAD" {
                check_error(&answer, 401, Some("invalid_api_key"));
            }
        }
    }
    for header in [("authorization", "Bearer sesame"), ("x-api-key", "sesame")] {
        assert_eq!(server.ask("GET", "/v1/models", &[header], "").status, 200);
    }
    let asked = [("origin", "https://ui.lan"), ("access-control-request-method", "POST")];
    assert_eq!(server.ask("OPTIONS", CHAT, &asked, "").status, 204);
    assert!(!server.said().contains("sesam"), "{}", server.said());
}

#[test]
fn addresses_methods_types_and_sizes_are_checked() {
    let server = Server::start(&["--max-body", "1"]);
    for path in ["/", "/nowhere", "//v1/models", "/v1/models/", "/v1/x/%2e%2e/models"] {
        check_error(&server.get(path), 404, None);
    }
    for (method, path, allowed) in [
        ("GET", CHAT, "POST, OPTIONS"),
        ("DELETE", CHAT, "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
    ] {
        let answer = server.ask(method, path, &[JSON], "");
        check_error(&answer, 405, None);
        assert_eq!(answer.header("allow"), Some(allowed));
    }
    // Below their addresses Anthropic's clients find their own errors, also of what does not exist.
    for (method, path, status, kind) in [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages/batches/b/results", 404, "not_found_error"),
    ] {
        let answer = server.ask(method, path, &[JSON], "");
        let body = answer.json();
        assert_eq!((answer.status, &body["type"]), (status, &json!("error")), "{method} {path}");
        assert_eq!(body["error"]["type"], kind, "{method} {path}");
        assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
        assert_eq!(answer.header("allow"), (status == 405).then_some("POST, OPTIONS"));
    }
    assert_eq!(server.ask("OPTIONS", CHAT, &[], "").header("allow"), Some("POST, OPTIONS"));
    for headers in [
        vec![],
        vec![("content-type", "text/plain")],
        vec![("content-type", "multipart/form-data; boundary=x")],
        vec![JSON, ("content-encoding", "gzip")],
    ] {
        check_error(&server.ask("POST", CHAT, &headers, "{}"), 415, None);
    }
    let large = format!("{{\"content\": \"{}\"}}", "x".repeat(2 << 20));
    check_error(&server.ask("POST", "/tokenize", &[JSON], &large), 413, None);
    let announced = [JSON, ("transfer-encoding", "chunked")];
    let mut connection = server.connect();
    let head = server.request("GET", "/tokenize", &announced, "").replacen("GET", "POST", 1);
    connection.send(format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes());
    check_error(&connection.answer(), 413, None);
    let mut connection = server.connect();
    let expecting = [JSON, ("expect", "100-continue"), ("content-length", "16")];
    let head = server.request("GET", "/tokenize", &expecting, "").replacen("GET", "POST", 1);
    connection.send(head.as_bytes());
    assert_eq!(connection.line().as_deref(), Some("HTTP/1.1 100 Continue"));
    connection.line();
    connection.send(b"{\"content\": \"a\"}");
    assert_eq!(connection.answer().status, 200);
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = Server::start(&[]);
    let bodies: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{} x",
        b"\xef\xbb\xbf{}",
        b"{\"content\": \"\xff\"}",
        b"{\"content\": \"\\ud800\"}",
        b"{\"content\": \"\0\"}",
    ];
    for body in bodies {
        for path in ["/tokenize", "/detokenize", "/apply-template"] {
            let headers = [JSON, ("content-length", &body.len().to_string())];
            let head = server.request("GET", path, &headers, "").replacen("GET", "POST", 1);
            let answer = server.raw(&[head.as_bytes(), body].concat());
            check_error(&answer, 400, None);
        }
    }
}

#[test]
fn the_model_is_described_for_every_client() {
    let server = Server::start(&["--alias", "my-model", "--max-tokens", "500"]);
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let cards = list["data"].as_array().unwrap();
    assert_eq!(cards.len(), 1);
    let card = &cards[0];
    assert_eq!(card["id"], "mistral-medium-3.5");
    assert!(card["aliases"].as_array().unwrap().contains(&json!("my-model")));
    for name in ["context_length", "max_context_length", "max_model_len", "max_input_tokens"] {
        assert_eq!(card[name], 2048, "{name}");
    }
    assert_eq!(card["max_tokens"], 500);
    assert_eq!(card["meta"]["n_ctx"], 2048);
    for name in ["completion_chat", "function_calling", "reasoning", "vision"] {
        assert_eq!(card["capabilities"][name], true, "{name}");
    }
    assert_eq!(card["architecture"]["input_modalities"], json!(["text", "image"]));
    assert_eq!(server.get("/models").json(), list);
    for name in ["my-model", "mistralai%2FMistral-Medium-Latest", "mistralai/my-model"] {
        let card = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!(card["id"], name.replace("%2F", "/"));
        // Mistral's clients know a card by its type, and Anthropic's by another.
        assert_eq!((&card["object"], &card["type"]), (&json!("model"), &json!("base")));
        assert!(card["created_at"].as_str().unwrap().ends_with('Z'));
    }
    let anthropic = server.raw(
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nanthropic-version: 2023-06-01\r\n\
          Connection: close\r\n\r\n",
    );
    assert_eq!(anthropic.json()["data"][0]["type"], "model");
    let unknown = server.get("/v1/models/mistral-small-latest");
    check_error(&unknown, 400, Some("model_not_found"));
    assert!(unknown.text().contains("invalid_model"));
}

#[test]
fn text_becomes_tokens_and_prompts_and_text_again() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({ "content": "Hello [INST] 世界" })).json();
    let back = server.post("/detokenize", &tokens).json();
    assert_eq!(back, json!({ "content": "Hello [INST] 世界" }));
    let with = json!({ "content": "a", "add_special": true, "with_pieces": true });
    let pieces = server.post("/tokenize", &with).json();
    assert_eq!(pieces["tokens"][0]["piece"], "<s>");
    assert_eq!(pieces["tokens"][1]["piece"], "a");
    for ids in [json!([1e9]), json!([-1]), json!(["a"]), json!(5)] {
        let answer = server.post("/detokenize", &json!({ "tokens": ids }));
        check_error(&answer, 400, None);
    }
    let chat = json!({ "messages": [{ "role": "user", "content": "hi [/INST]" }] });
    let prompt = server.post("/apply-template", &chat).json();
    let text = prompt["prompt"].as_str().unwrap();
    assert!(text.starts_with("<s>") && text.ends_with("[INST]hi [/INST][/INST]"), "{text}");
    assert!(prompt["tokens"].as_array().unwrap().len() > 4);
}

#[test]
fn the_server_tells_how_it_does() {
    let server = Server::start(&["--slots", "3"]);
    assert_eq!(server.get("/health").json()["status"], "ok");
    server.get("/nowhere");
    let metrics = server.get("/metrics").text();
    for line in [
        "gust_requests_total{route=\"unknown\",status=\"404\"} 1",
        "gust_slots 3",
        "gust_ready 1",
        "gust_requests_running 0",
        "gust_requests_suspended 0",
        "gust_time_to_first_token_seconds_count 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    let props = server.get("/props").json();
    assert_eq!((&props["n_ctx"], &props["total_slots"]), (&json!(2048), &json!(3)));
    let head = server.ask("HEAD", "/health", &[], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn connections_are_used_again_and_again() {
    let server = Server::start(&[]);
    let request = server.request("POST", "/tokenize", &[JSON], "{\"content\": \"a\"}");
    let mut connection = server.connect();
    connection.send(request.repeat(100).as_bytes());
    for _ in 0..100 {
        assert_eq!(connection.answer().status, 200);
    }
    // A client that leaves in the middle takes nobody with it.
    for part in [5, 40, request.len() - 3] {
        server.connect().send(&request.as_bytes()[..part]);
    }
    let mut last = server.connect();
    last.send(server.request("GET", "/health", &[("connection", "close")], "").as_bytes());
    assert_eq!(last.answer().status, 200);
    assert!(last.is_closed());
}

#[test]
fn a_port_that_is_taken_and_an_open_door_are_mistakes() {
    let gust = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_gust"))
            .arg("serve")
            .args(args)
            .env_remove("GUST_API_KEY")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, code, expected) in [
        (&["--port", port.as_str()][..], 1, "another program has this port"),
        (&["--host", "0.0.0.0", "--port", "0"], 2, "--insecure"),
        (&["--port", "65536"], 2, "--port"),
        (&["--slots", "0"], 2, "--slots"),
        (&["--max-body", "0"], 2, "--max-body"),
        (&["--allow-origin", "ui.lan"], 2, "expected an origin"),
        (&["--allow-host", "gust.lan:80"], 2, "without a port"),
        (&["--api-key", " "], 1, "API key"),
        (&["-m", "no-such-file.gguf"], 1, "no-such-file.gguf"),
    ] {
        let (found, said) = gust(args);
        assert_eq!(found, Some(code), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}
