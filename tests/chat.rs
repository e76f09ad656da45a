//! `gust tokenize --chat`, as a user runs it on the built-in model.
//!
//! Ids are compared with mistral_common's in `src/chat/tests.rs`; here it is about lines, files and
//! errors.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

fn gust(folder: &Path, args: &[&str], lines: &str) -> Output {
    let file = folder.join("requests.jsonl");
    fs::write(&file, lines).unwrap();
    Command::new(env!("CARGO_BIN_EXE_gust"))
        .args(["tokenize", "--chat", "-f", file.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap()
}

/// Lines of stdout, lines of stderr, exit code.
fn run(folder: &Path, args: &[&str], lines: &str) -> (Vec<String>, String, Option<i32>) {
    let output = gust(folder, args, lines);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let out = text(output.stdout).lines().map(str::to_owned).collect();
    (out, text(output.stderr), output.status.code())
}

fn user(content: &str) -> String {
    format!(r#"{{"model": "any", "messages": [{{"role": "user", "content": {content}}}]}}"#) + "\n"
}

#[test]
fn one_request_a_line_gives_one_array_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let lines = user(r#""[INST]""#) + &user(r#"[{"type": "text", "text": "[INST]"}]"#);
    let (out, _, code) = run(folder.path(), &["--strict"], &lines);
    assert_eq!((out.len(), code), (2, Some(0)));
    assert_eq!(out[0], out[1]);
    let ids: Vec<u32> = serde_json::from_str(&out[0]).unwrap();
    // <s> [MODEL_SETTINGS] … [INST] … [/INST]
    assert_eq!((&ids[..2], ids.last()), (&[1, 36][..], Some(&4)));
    assert_eq!(ids.iter().filter(|&&id| id == 3).count(), 1);

    let (older, _, _) = run(folder.path(), &["--chat-version", "V13"], &lines);
    assert!(older[0].starts_with("[1,3,"), "{}", older[0]);
}

#[test]
fn pictures_are_data_urls_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("black.png");
    // Two tokens in one row.
    image::RgbImage::new(29, 28).save(&path).unwrap();
    let data = gust::vision::Image::decode(fs::read(&path).unwrap()).unwrap().to_data_url();
    let path = path.to_str().unwrap().replace('\\', "/");
    let picture = |url: &str| {
        let chunk = format!(r#"{{"type": "image_url", "image_url": {{"url": "{url}"}}}}"#);
        user(&format!(r#"[{{"type": "text", "text": "x"}}, {chunk}]"#))
    };
    let (url, local) = (format!("file://{path}"), format!("file://localhost{path}"));
    let urls = ["black.png", &path, &data, &url.replace("black", "bl%61ck"), &local];
    let urls = &urls[..if cfg!(windows) { 3 } else { 5 }];
    let lines: String = urls.iter().map(|url| picture(url)).collect();
    let (out, error, code) = run(folder.path(), &["--strict"], &lines);
    assert_eq!(code, Some(0), "{error}");
    assert!(out[0].contains(",3,10,10,13,"), "{}", out[0]);
    assert!(out.iter().all(|line| *line == out[0]), "{out:?}");

    let lines = ["https://example.org/a.png", "gone.png", "."].map(picture).concat();
    let (out, error, code) = run(folder.path(), &[], &lines);
    assert_eq!((out, code), (vec!["null".to_owned(); 3], Some(1)));
    for told in ["line 1", "https", "line 2: cannot open gone.png", "line 3", ". is a folder"] {
        assert!(error.contains(told), "{told:?} is not in {error}");
    }
}

#[test]
fn a_bad_line_is_null_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let alone = r#"{"messages": [{"role": "assistant", "content": "a"}]}"#;
    let lines = format!("{}{alone}\n{{\n{}", user("\"a\""), user("\"b\""));
    let (out, error, code) = run(folder.path(), &["--strict"], &lines);
    assert_eq!((out.len(), code), (4, Some(1)));
    assert_eq!((&out[1][..], &out[2][..]), ("null", "null"));
    assert!(out[0].starts_with('[') && out[3].starts_with('['));
    for told in ["line 2: messages[0]", "line 3: ", "2 of 4 lines cannot be encoded"] {
        assert!(error.contains(told), "{told:?} is not in {error}");
    }
}

#[test]
fn lines_of_any_bytes_are_read_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("odd.jsonl");
    let mut bytes = "\u{feff}".as_bytes().to_vec();
    for line in [user("\"a\"").trim_end().as_bytes(), b"  ", b"{\xff}", b"{", b""] {
        bytes.extend([line, b"\r\n"].concat());
    }
    bytes.extend(user("\"a\"").trim_end().as_bytes());
    fs::write(&file, bytes).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gust"))
        .args(["tokenize", "--chat", "-f", file.to_str().unwrap()])
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let out: Vec<_> = out.lines().collect();
    assert_eq!((out.len(), output.status.code()), (4, Some(1)), "{error}");
    assert!(out[0].starts_with('[') && out[0] == out[3]);
    assert_eq!(&out[1..3], ["null", "null"]);
    for told in [
        "line 3: not UTF-8: byte 0xff at column 2",
        "line 4: not a chat request: EOF while parsing an object at column 1\n",
        "2 of 4 lines",
    ] {
        assert!(error.contains(told), "{told:?} is not in {error}");
    }
}

#[test]
fn an_error_steers_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("t.jinja");
    fs::write(&template, "{{ raise_exception('\\x1b[31m' ~ 'no') }}{# \u{1b} #}").unwrap();
    let args = ["--chat-template", template.to_str().unwrap()];
    let output = gust(folder.path(), &args, &user("\"a\""));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no") && !error.contains('\x1b'), "{error:?}");
    let output = gust(folder.path(), &["--strict"], &user("[{\"type\": \"\\u001b[31m\"}]"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("x1b") || error.contains("u{1b}"), "{error:?}");
    assert!(!error.contains('\x1b'), "{error:?}");
}

#[cfg(unix)]
#[test]
fn a_pipe_holds_nothing_up_where_a_file_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let pipe = pipe.to_str().unwrap();
    let picture = format!(r#"[{{"type": "image_url", "image_url": {{"url": "{pipe}"}}}}]"#);
    for (args, lines) in [
        (vec![], user(&picture)),
        (vec!["--chat-template", pipe], user("\"a\"")),
        (vec!["-m", pipe], user("\"a\"")),
    ] {
        let output = gust(folder.path(), &args, &lines);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("is not a regular file"), "{error}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn histories_are_mended_unless_strict() {
    let folder = tempfile::tempdir().unwrap();
    let orphan = r#"{"messages": [{"role": "user", "content": "a"},
        {"role": "tool", "tool_call_id": "x", "content": "b"}]}"#;
    let lines = user("\"a\"") + &orphan.replace('\n', "") + "\n";
    let (out, told, code) = run(folder.path(), &[], &lines);
    assert_eq!((out.len(), code), (2, Some(0)), "{told}");
    assert!(out.iter().all(|line| line.starts_with('[')));
    assert!(told.contains("line 2: messages[1]") && !told.contains("line 1"), "{told}");
    let (out, told, code) = run(folder.path(), &["--strict"], &lines);
    assert_eq!((&out[1][..], code), ("null", Some(1)));
    assert!(told.contains("line 2: messages[1]: a tool message cannot follow"), "{told}");
}

#[test]
fn flags_that_do_not_fit_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--json"][..], &["--lines"], &["--count"], &["--chat-version", "v3"]] {
        assert_eq!(gust(folder.path(), args, "").status.code(), Some(2), "{args:?}");
    }
    for args in [&["--strict"][..], &["--chat-version", "v13"], &["--chat-template", "t.jinja"]] {
        let command = |args: &[&str]| {
            let gust = env!("CARGO_BIN_EXE_gust");
            Command::new(gust).args(["tokenize", "-p", "a"]).args(args).output().unwrap()
        };
        assert_eq!(command(args).status.code(), Some(2), "{args:?}");
    }
}

/// As a coding agent talks to Anthropic's API: nothing of it has to be altered.
#[test]
fn a_history_of_anthropics_needs_no_mending() {
    const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";
    let cache = json!({"type": "ephemeral"});
    let request = json!({
        "model": "any", "max_tokens": 32000, "stream": true, "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "system": [
            {"type": "text", "text": "You are an agent.", "cache_control": cache},
            {"type": "text", "text": "Be concise.", "cache_control": cache},
        ],
        "tools": [{"name": "Read", "description": "Reads a file", "cache_control": cache,
            "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>\nx\n</system-reminder>"},
                {"type": "text", "text": "Look at shot.png", "cache_control": cache},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "I should read it.", "signature": "EqQBCg=="},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_01A", "name": "Read", "input": {"path": "shot.png"}},
                {"type": "tool_use", "id": "toolu_01B", "name": "Read", "input": {"path": "a"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01A", "content": [
                    {"type": "image", "source":
                        {"type": "base64", "media_type": "image/png", "data": PNG}},
                ]},
                {"type": "tool_result", "tool_use_id": "toolu_01B", "content": "a", "is_error": false,
                    "cache_control": cache},
            ]},
            {"role": "assistant", "content": [{"type": "text", "text": "A pixel."}]},
            {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
        ],
    });
    let folder = tempfile::tempdir().unwrap();
    let (out, notes, code) = run(folder.path(), &[], &request.to_string());
    assert_eq!((notes.as_str(), code), ("", Some(0)));
    let ids: Vec<u32> = serde_json::from_str(&out[0]).unwrap();
    let tokenizer = gust::tokenizer::Tokenizer::from_gguf(&gust::model::builtin()).unwrap();
    let n = |name| {
        let control = tokenizer.control_token(name).unwrap();
        ids.iter().filter(|&&id| id == control).count()
    };
    let names = ["[SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[INST]", "[THINK]", "[TOOL_CALLS]"];
    assert_eq!(names.map(n), [1, 1, 2, 1, 2]);
    assert_eq!(["[TOOL_RESULTS]", "[IMG]", "[IMG_END]"].map(n), [2, 1, 1]);
}
