//! `gust run` and `gust chat` as programs, with the built-in model.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs the program with little context and one thread, so that tests disturb each other little.
fn gust(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gust"))
        .arg(args[0])
        .args(["--ctx", "1024", "-t", "1"])
        .args(&args[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends before it has read everything is fine.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn check_error(args: &[&str], stdin: &str, code: i32, expected: &str) {
    let output = gust(args, stdin);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
}

#[test]
fn stdout_gets_the_answer_and_nothing_else() {
    let question = "What is the capital of Germany?";
    for (args, stdin) in [(vec!["-p", question], ""), (vec![], "What is the capital of Germany?\n")]
    {
        let output = gust(&[&["run", "--temp", "0"], args.as_slice()].concat(), stdin);
        assert_eq!(text(&output.stdout), "The capital of Germany is Berlin.\n");
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains("built-in"));
    }
}

#[test]
fn reasoning_goes_to_stderr_or_nowhere() {
    let run = |flags: &[&str]| {
        let output = gust(&[&["run", "--temp", "0", "-p", "What is 3+4?"], flags].concat(), "");
        (text(&output.stdout), text(&output.stderr))
    };
    let (answer, aside) = run(&["--reasoning-effort", "HIGH"]);
    assert_eq!(answer, "3 + 4 = 7\n");
    assert!(aside.contains("The sum is 7."), "{aside}");
    let (answer, aside) = run(&["--think", "--hide-reasoning"]);
    assert_eq!(answer, "3 + 4 = 7\n");
    assert!(!aside.contains("The sum"), "{aside}");
}

#[test]
fn limits_and_stop_strings_end_the_answer() {
    let run = |flags: &[&str]| {
        let question = ["run", "--temp", "0", "-p", "What is the capital of Germany?"];
        text(&gust(&[&question, flags].concat(), "").stdout)
    };
    assert_eq!(run(&["--stop", " is Ber"]), "The capital of Germany\n");
    assert_eq!(run(&["-n", "2"]).split_whitespace().next(), Some("The"));
    assert!(run(&["-n", "2"]).len() < "The capital of Germany".len());
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let run = |seed| {
        let flags = ["run", "--temp", "1.5", "--seed", seed, "-p", "Tell me a story about Sarah."];
        text(&gust(&flags, "").stdout)
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn a_filter_answers_line_by_line() {
    let lines = "What is the capital of Germany?\n\n/think high\nWhat is the capital of Italy?";
    let output = gust(&["chat", "--temp", "0", "--hide-reasoning"], lines);
    let answers = text(&output.stdout);
    assert!(answers.starts_with("The capital of Germany is Berlin.\n"), "{answers}");
    assert_eq!(answers.lines().count(), 2, "{answers}");
    assert!(!answers.contains('\x1b') && !text(&output.stderr).contains('\x1b'));
    assert_eq!(gust(&["chat"], "").status.code(), Some(0));
}

#[test]
fn mistakes_are_told() {
    check_error(&["run"], "", 1, "the prompt is empty");
    check_error(&["run", "-f", "/no/such/file"], "", 1, "/no/such/file");
    check_error(&["run", "-p", "x", "--system-file", "/no/such/file"], "", 1, "/no/such/file");
    check_error(&["run", "-p", &"word ".repeat(3000)], "", 1, "the context is full");
    check_error(&["run", "-p", "x", "--reasoning-effort", "medium"], "", 2, "none or high");
    check_error(&["run", "-p", "x", "--top-p", "2"], "", 2, "from 0 to 1");
    check_error(&["run", "-p", "x", "--raw", "--think"], "", 2, "--think");
    check_error(&["run", "-p", "x", "--logit-bias", "5"], "", 2, "ID=VALUE");
    check_error(&["chat"], &"word ".repeat(3000), 1, "the context is full");
}

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "get_weather",
    "description": "Get the current weather for a city", "parameters": {"type": "object",
    "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]"#;

/// A folder with a red square on black, tools, and files with faults.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        std::fs::write(folder.path().join(name), content).unwrap();
    };
    put("tools.json", TOOLS.as_bytes());
    put("twice.json", format!("[{0},{0}]", &TOOLS[1..TOOLS.len() - 1]).as_bytes());
    put("name.json", TOOLS.replace("get_weather", "get weather").as_bytes());
    put("cut.json", b"[{");
    put(
        "schema.json",
        br#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["n"], "additionalProperties": false}"#,
    );
    put("not.json", br#"{"type": "object", "properties": {"n": {"not": {}}}}"#);
    put("g.lark", b"start: \"yes\" | \"no\"\n");
    put("bad.lark", b"start: (\n");
    put("broken.png", b"\x89PNG\r\n\x1a\n");
    put("empty.png", b"");
    put("text.png", b"hello");
    let square = image::RgbImage::from_fn(112, 112, |x, y| {
        let is_inside = (28..84).contains(&x) && (28..84).contains(&y);
        image::Rgb(if is_inside { [230, 25, 25] } else { [0, 0, 0] })
    });
    square.save(folder.path().join("red.png")).unwrap();
    folder
}

/// Runs `gust run` greedily; `{d}` in the flags stands for the folder.
fn run_in(folder: &tempfile::TempDir, prompt: &str, flags: &[&str]) -> Output {
    let place = folder.path().to_str().unwrap();
    let flags: Vec<String> = flags.iter().map(|flag| flag.replace("{d}", place)).collect();
    let flags = flags.iter().map(String::as_str);
    gust(&["run", "--temp", "0", "-p", prompt].into_iter().chain(flags).collect::<Vec<_>>(), "")
}

#[test]
fn pictures_are_seen() {
    let folder = folder();
    let output = run_in(&folder, "What colour is the shape?", &["--image", "{d}/red.png"]);
    let answer = text(&output.stdout);
    assert!(answer.contains("red"), "{answer}{}", text(&output.stderr));
    let told = text(&output.stderr);
    assert!(told.contains("red.png 112×112 → 16 tokens + 4 row ends"), "{told}");
    let two = ["--image", "{d}/red.png", "--image", "{d}/red.png", "-n", "4"];
    let output = run_in(&folder, "What is this?", &two);
    assert_eq!(text(&output.stderr).matches("red.png 112×112").count(), 2);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn calls_are_lines_of_json() {
    let folder = folder();
    let run = |prompt: &str, flags: &[&str]| {
        let output = run_in(&folder, prompt, &[&["--tools", "{d}/tools.json"], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let call: serde_json::Value =
        serde_json::from_str(&run("Weather in Ottawa please", &[])).unwrap();
    assert_eq!(call["name"], "get_weather");
    assert_eq!(call["arguments"]["city"], "Ottawa");
    assert_eq!(call["id"].as_str().unwrap().len(), 9);
    for choice in ["required", "get_weather"] {
        let said = run("Hello", &["--tool-choice", choice]);
        let call: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(call["arguments"]["city"].is_string(), "{said}");
    }
    let said = run("Weather in Ottawa please", &["--tool-choice", "none", "-n", "40"]);
    assert!(!said.contains("\"name\""), "{said}");
}

#[test]
fn answers_keep_the_form_that_was_asked_for() {
    let folder = folder();
    let run = |flags: &[&str]| {
        let output = run_in(&folder, "Hello", &[flags, &["--hide-reasoning"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    };
    let said = run(&["--json-schema", "{d}/schema.json"]);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(value["n"].as_f64().is_some_and(|n| (0.0..=999.0).contains(&n)), "{said}");
    assert!(["yes", "no"].contains(&run(&["--grammar", "{d}/g.lark"]).as_str()));
    let said = run(&["--regex", "[a-c]{3}", "--think", "--reasoning-budget", "8"]);
    assert!(said.len() == 3 && said.bytes().all(|b| (b'a'..=b'c').contains(&b)), "{said}");
}

#[test]
fn files_with_faults_are_named() {
    let folder = folder();
    let check = |flags: &[&str], code: i32, expected: &[&str]| {
        let output = run_in(&folder, "x", flags);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {told}");
        assert_eq!(text(&output.stdout), "", "{flags:?}");
        expected.iter().for_each(|part| assert!(told.contains(part), "{flags:?}: {told}"));
    };
    check(&["--image", "{d}/none.png"], 1, &["none.png"]);
    check(&["--image", "{d}"], 1, &["is a folder"]);
    check(&["--image", "{d}/broken.png"], 1, &["broken.png"]);
    check(&["--image", "{d}/empty.png"], 1, &["empty.png", "empty"]);
    check(&["--image", "{d}/text.png"], 1, &["text.png", "not a picture"]);
    check(&["--tools", "{d}/cut.json"], 1, &["cut.json", "not JSON", "line 1"]);
    check(&["--tools", "{d}/twice.json"], 1, &["twice.json", "tools[1]"]);
    check(&["--tools", "{d}/name.json"], 1, &["name.json", "tools[0]", "get weather"]);
    check(&["--tools", "{d}/schema.json"], 1, &["schema.json", "tools[0]"]);
    let choice = ["--tools", "{d}/tools.json", "--tool-choice", "other"];
    check(&choice, 1, &["other", "get_weather"]);
    check(&["--tool-choice", "auto"], 2, &["--tools"]);
    check(&["--json-schema", "{d}/cut.json"], 1, &["cut.json", "not JSON"]);
    check(&["--json-schema", "{d}/not.json"], 1, &["not.json", "#/properties/n"]);
    check(&["--grammar", "{d}/bad.lark"], 1, &["bad.lark"]);
    check(&["--regex", "("], 1, &["regex"]);
    check(&["--json", "--regex", "a"], 2, &["--regex"]);
    check(&["--raw", "--json"], 2, &["--raw"]);
    check(&["--reasoning-budget", "many"], 2, &["--reasoning-budget"]);
}

#[test]
fn a_pipe_attaches_pictures_and_reports_calls() {
    let folder = folder();
    let place = folder.path().display();
    let lines = format!(
        "/image {place}/red.png\nWhat colour is the shape?\n/reset\n/tools {place}/tools.json\n\
         Weather in Ottawa please\n"
    );
    let output = gust(&["chat", "--temp", "0"], &lines);
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("red") && lines[1].contains("\"city\": \"Ottawa\""), "{said}{told}");
    assert!(told.contains("cannot be given in a pipe"), "{told}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_cannot_be_kept_is_told_before_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let schema = file("schema.json", "{\"not\": {}}");
    let grammar = file("grammar.lark", "start: missing");
    let template = file("template.jinja", "{% if %}");
    let strict = r#"[{"type": "function", "function": {"name": "f", "strict": true,
        "parameters": {"type": "object", "not": {}}}}]"#;
    let tools = file("tools.json", strict);
    for (args, expected) in [
        (["--json-schema", schema.as_str()], "schema.json: "),
        (["--grammar", &grammar], "missing"),
        (["--regex", "(?=a)"], "looking around"),
        (["--chat-template", &template], "template.jinja: "),
        (["--tools", &tools], "tools.json: tools[0]"),
        (["--system-file", "no-such-file"], "cannot open no-such-file"),
    ] {
        for command in ["run", "chat"] {
            let all = [command, "-m", "no-such-model.gguf", "-p", "a", args[0], args[1]];
            check_error(&all, "", 1, expected);
        }
    }
    let good = file("good.json", "{\"type\": \"string\"}");
    let all = ["run", "-m", "no-such-model.gguf", "-p", "a", "--json-schema", &good];
    check_error(&all, "", 1, "no-such-model.gguf");
}

#[test]
fn an_unfinished_answer_in_a_form_is_told() {
    let run = |flags: &[&str]| {
        let all = [&["run", "--temp", "0", "-p", "What is 3+4?", "-n", "2"], flags].concat();
        let output = gust(&all, "");
        assert_eq!(output.status.code(), Some(0));
        text(&output.stderr)
    };
    assert!(run(&["--json"]).contains("cut off after 2 tokens"));
    assert!(!run(&[]).contains("cut off"));
    assert!(run(&["--reasoning-budget", "3"]).contains("without --think"));
    check_error(&["run", "--raw", "--tool-choice", "none", "-p", "a"], "", 2, "--tool-choice");
}
