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
