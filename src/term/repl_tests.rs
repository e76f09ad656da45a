//! The chat loop, driven by lists of lines and of replies.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::*;
use crate::chat::{ContentChunk, FinishReason, Message, ResponseFormat, ToolChoice};

const PLAIN: StreamStyle = StreamStyle { is_terminal: false, colors: false };

/// What a scripted model does with one question.
enum Reply {
    Says(&'static [&'static str]),
    Thinks(&'static str, &'static str),
    /// Says the text, then Ctrl-C comes.
    Interrupted(&'static str),
    /// Says a text, then calls a tool.
    Calls(&'static str, &'static str),
    Fails(&'static str),
}

struct Session {
    out: String,
    err: String,
    requests: Vec<ChatRequest>,
    temperatures: Vec<Option<f32>>,
    prompts: Vec<String>,
    conversation: Conversation,
    result: anyhow::Result<()>,
}

fn events(reply: &Reply) -> Vec<ReplyEvent> {
    let text = |text: &str| ReplyEvent::Text(text.to_owned());
    let mut events = match reply {
        Reply::Says(texts) => texts.iter().map(|t| text(t)).collect(),
        Reply::Thinks(thought, said) => vec![ReplyEvent::Reasoning((*thought).into()), text(said)],
        Reply::Interrupted("") | Reply::Fails(_) => Vec::new(),
        Reply::Interrupted(said) => vec![text(said), text(" never shown")],
        Reply::Calls(said, name) => vec![
            text(said),
            ReplyEvent::ToolCallStarted { id: "abcdefgh1".into(), name: (*name).into() },
            ReplyEvent::ToolCallArguments("{\"city\": \"Paris\"}".into()),
        ],
    };
    events.retain(|event| *event != ReplyEvent::Text(String::new()));
    let reason = match reply {
        Reply::Interrupted(_) => FinishReason::Cancelled,
        Reply::Calls(..) => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    };
    events.push(ReplyEvent::Finished { reason, malformed: false, stopped_by: None });
    events
}

fn chat(is_interactive: bool, lines: &[&str], replies: Vec<Reply>) -> Session {
    chat_with(is_interactive, Some(PatchConfig::default()), lines, replies)
}

fn chat_with(
    is_interactive: bool,
    patches: Option<PatchConfig>,
    lines: &[&str],
    replies: Vec<Reply>,
) -> Session {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut requests, mut temperatures) = (Vec::new(), Vec::new());
    let mut replies = VecDeque::from(replies);
    let screen = Screen {
        out: &mut out,
        err: &mut err,
        out_style: PLAIN,
        err_style: PLAIN,
        is_interactive,
        show_reasoning: true,
    };
    let generate = |turn: &Turn<'_>, sink: &mut Sink<'_>| {
        requests.push(turn.request.clone());
        temperatures.push(turn.temperature);
        let reply = replies.pop_front().expect("the model is asked as often as scripted");
        if let Reply::Fails(problem) = reply {
            anyhow::bail!("{problem}");
        }
        let events = events(&reply);
        let n_events = events.len();
        for (i, event) in events.into_iter().enumerate() {
            let is_last = i + 1 == n_events;
            if matches!(reply, Reply::Interrupted(_)) && i == 0 {
                turn.interrupt.flag().store(true, Ordering::Relaxed);
            }
            let stopped = i == 1 && matches!(reply, Reply::Interrupted(_));
            if is_last || !stopped {
                let _ = sink(event);
            }
        }
        Ok(Usage { n_prompt: 10, n_generated: 2, ..Usage::default() })
    };
    let model = ModelInfo { name: "test".to_owned(), n_ctx: 100, patches };
    let mut repl = Repl::new(Conversation::default(), model, screen, Interrupt::new(), generate);
    let mut lines = lines.iter();
    let mut prompts = Vec::new();
    let result = repl.run(&mut |prompt| {
        prompts.push(prompt.to_owned());
        Ok(lines.next().map_or(Input::End, |line| match *line {
            "^C" => Input::Interrupt,
            "^D" => Input::End,
            line => Input::Line(line.to_owned()),
        }))
    });
    let conversation = repl.conversation;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Session {
        out: text(out),
        err: text(err),
        requests,
        temperatures,
        prompts,
        conversation,
        result,
    }
}

fn texts(request: &ChatRequest) -> Vec<String> {
    let text = |content: &[ContentChunk]| {
        content
            .iter()
            .map(|chunk| match chunk {
                ContentChunk::Text(text) => text.clone(),
                ContentChunk::Thinking { thinking, closed } => format!("<{thinking}:{closed}>"),
                ContentChunk::Image(image) => format!("<{image:?}>"),
            })
            .collect::<String>()
    };
    request
        .messages
        .iter()
        .map(|message| match message {
            Message::System(content) => format!("S:{}", text(content)),
            Message::User(content) => format!("U:{}", text(content)),
            Message::Assistant(assistant) => {
                let calls = assistant.tool_calls.iter().map(|call| format!("→{}", call.name));
                format!("A:{}{}", text(&assistant.content), calls.collect::<String>())
            }
            Message::Tool(tool) => format!("T:{}", text(&tool.content)),
        })
        .collect()
}

#[test]
fn a_filter_writes_answers_and_nothing_else() {
    let replies = vec![Reply::Thinks("hm", "one"), Reply::Says(&["two", "!\n"])];
    let session = chat(false, &["a", "", "b"], replies);
    assert_eq!(session.out, "one\ntwo!\n");
    assert_eq!(session.err, "hm\n\n");
    assert_eq!(texts(&session.requests[1]), ["U:a", "A:<hm:true>one", "U:b"]);
    assert!(session.result.is_ok());
}

#[test]
fn a_filter_ends_with_the_first_error() {
    let session = chat(false, &["a", "b"], vec![Reply::Fails("the context is full")]);
    assert_eq!(session.result.unwrap_err().to_string(), "the context is full");
    assert_eq!(session.out, "");
}

#[test]
fn an_answer_on_a_terminal_comes_with_its_numbers() {
    let session = chat(true, &["a"], vec![Reply::Thinks("hm", "one")]);
    assert_eq!(session.out, "hm\n\none\n");
    assert!(session.err.contains("context 12 of 100"), "{}", session.err);
}

#[test]
fn an_interrupted_answer_is_kept_as_far_as_it_went() {
    let session = chat(true, &["a", "b"], vec![Reply::Interrupted("part"), Reply::Says(&["x"])]);
    assert_eq!(session.out, "part\nx\n");
    assert!(session.err.contains("stopped"));
    assert_eq!(texts(&session.requests[1]), ["U:a", "A:part", "U:b"]);
}

#[test]
fn a_question_without_an_answer_is_taken_back() {
    let replies = vec![Reply::Interrupted(""), Reply::Fails("no memory"), Reply::Says(&["x"])];
    let session = chat(true, &["a", "b", "c"], replies);
    assert_eq!(texts(&session.requests[2]), ["U:c"]);
    assert!(session.err.contains("error: no memory"), "{}", session.err);
}

#[test]
fn a_tool_call_without_tools_is_dropped() {
    let session = chat(true, &["a"], vec![Reply::Calls("", "f")]);
    assert_eq!(session.conversation.n_messages(), 0);
    assert!(session.err.contains("this chat has none"));
}

#[test]
fn settings_reach_the_model() {
    let lines = ["/system Be brief.", "/think high", "/temp 0.5", "a", "/temp default", "b"];
    let session = chat(true, &lines, vec![Reply::Says(&["x"]), Reply::Says(&["y"])]);
    assert_eq!(texts(&session.requests[0]), ["S:Be brief.", "U:a"]);
    assert_eq!(session.requests[0].reasoning_effort, crate::chat::ReasoningEffort::High);
    assert_eq!(session.temperatures, [Some(0.5), None]);
}

#[test]
fn undo_retry_and_reset() {
    let lines = ["/retry", "/undo", "a", "b", "/undo", "/retry", "/reset", "c"];
    let says = |text| Reply::Says(text);
    let replies = vec![says(&["1"]), says(&["2"]), says(&["3"]), says(&["4"])];
    let session = chat(true, &lines, replies);
    assert_eq!(texts(&session.requests[1]), ["U:a", "A:1", "U:b"]);
    assert_eq!(texts(&session.requests[2]), ["U:a"]);
    assert_eq!(texts(&session.requests[3]), ["U:c"]);
    assert!(session.err.contains("nothing to take back"));
    assert!(session.err.contains("nothing to answer again"));
}

#[test]
fn the_oldest_goes_to_make_room() {
    let lines = ["/drop", "a", "b", "/drop", "c"];
    let session = chat(true, &lines, vec![ONE, TWO, ONE]);
    assert_eq!(texts(&session.requests[2]), ["U:b", "A:2", "U:c"]);
    assert!(session.err.contains("there is nothing to drop"));
    assert!(session.err.contains("dropped: a"));
}

#[test]
fn a_failed_retry_brings_the_old_answer_back() {
    let replies = vec![Reply::Says(&["1"]), Reply::Fails("no"), Reply::Says(&["2"])];
    let session = chat(true, &["a", "/retry", "b"], replies);
    assert_eq!(texts(&session.requests[2]), ["U:a", "A:1", "U:b"]);
}

#[test]
fn mistakes_keep_the_conversation() {
    let lines =
        ["a", "/nope", "/load /no/such/file", "/temp hot", "^C", "/usr/bin/env", "/quit", "z"];
    let session = chat(true, &lines, vec![Reply::Says(&["1"]), Reply::Says(&["2"])]);
    assert_eq!(texts(&session.requests[1]), ["U:a", "A:1", "U:/usr/bin/env"]);
    for expected in ["no command /nope", "cannot open", "/temp takes", "Ctrl-D"] {
        assert!(session.err.contains(expected), "{expected}: {}", session.err);
    }
}

#[test]
fn save_and_load_through_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let (save, load) = (format!("/save {}", path.display()), format!("/load {}", path.display()));
    let lines = ["a", save.as_str(), "/reset", load.as_str(), "b", "/stats"];
    let session = chat(true, &lines, vec![Reply::Says(&["1"]), Reply::Says(&["2"])]);
    assert_eq!(texts(&session.requests[1]), ["U:a", "A:1", "U:b"]);
    assert!(session.err.contains("2 messages loaded"));
    assert!(session.err.contains("messages: 4"));
}

/// A folder with tools, a schema, a text and pictures.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    put(
        "tools.json",
        br#"[{"function": {"name": "weather", "parameters": {}}},
            {"function": {"name": "echo", "parameters": {}}, "x-command": "cat"}]"#,
    );
    put("schema.json", b"{\"type\": \"object\"}");
    put("notes.txt", b"one ```two```\n");
    put("broken.png", b"\x89PNG\r\n\x1a\n");
    for (name, color) in [("red.png", [255, 0, 0]), ("a b.png", [0, 255, 0])] {
        let image = image::RgbImage::from_pixel(56, 28, image::Rgb(color));
        image.save(folder.path().join(name)).unwrap();
    }
    folder
}

/// Chats with `{d}` in the lines standing for the folder.
fn chat_in(folder: &Path, is_interactive: bool, lines: &[&str], replies: Vec<Reply>) -> Session {
    let place = folder.to_str().unwrap();
    let lines: Vec<String> = lines.iter().map(|line| line.replace("{d}", place)).collect();
    chat(is_interactive, &lines.iter().map(String::as_str).collect::<Vec<_>>(), replies)
}

const ONE: Reply = Reply::Says(&["1"]);
const TWO: Reply = Reply::Says(&["2"]);

#[test]
fn pictures_wait_for_the_next_message() {
    let folder = folder();
    let lines = ["/image {d}/red.png", "/image '{d}/a b.png'", "/image", "what?", "and?"];
    let session = chat_in(folder.path(), true, &lines, vec![ONE, TWO]);
    assert_eq!(session.prompts[..4], ["> ", "[1 image] > ", "[2 images] > ", "[2 images] > "]);
    assert!(session.err.contains("red.png 56×28 → 2 tokens + 1 row end"), "{}", session.err);
    let question = "U:<Image(56x28)><Image(56x28)>what?";
    assert_eq!(texts(&session.requests[1]), [question, "A:1", "U:and?"]);
}

#[test]
fn dropped_pictures_and_mentions_go_with_the_question() {
    let folder = folder();
    let lines = [
        "{d}/a b.png",
        "What is file://{d}/red.png",
        "Sum up @{d}/notes.txt please",
        "and @no/such.txt?",
    ];
    let session = chat_in(folder.path(), true, &lines, vec![ONE, TWO, TWO]);
    assert_eq!(texts(&session.requests[0]), ["U:<Image(56x28)><Image(56x28)>What is"]);
    assert_eq!(
        texts(&session.requests[1])[2],
        "U:Sum up notes.txt please\n\nnotes.txt:\n````\none ```two```\n````"
    );
    assert_eq!(texts(&session.requests[2])[4], "U:and @no/such.txt?");
    assert!(session.err.contains("@no/such.txt? names no file"), "{}", session.err);
}

#[test]
fn lines_of_a_pipe_are_not_searched_for_files() {
    let folder = folder();
    let lines = ["@{d}/notes.txt", "{d}/red.png", "/image {d}/red.png", "x"];
    let session = chat_in(folder.path(), false, &lines, vec![ONE, ONE, ONE]);
    assert!(texts(&session.requests[0])[0].starts_with("U:@"));
    assert!(texts(&session.requests[1])[2].ends_with("/red.png"));
    assert_eq!(texts(&session.requests[2])[4], "U:<Image(56x28)>x");
}

#[test]
fn pictures_come_back_with_their_question() {
    let folder = folder();
    let lines = ["/image {d}/red.png", "a", "b", "/undo", "c", "/image clear", "d"];
    let replies = vec![Reply::Fails("no"), ONE, TWO, TWO];
    let session = chat_in(folder.path(), true, &lines, replies);
    let err = &session.err;
    assert!(err.contains("question is taken back; its image waits"), "{err}");
    assert!(err.contains("taken back: b; its image waits for the next question"), "{err}");
    assert_eq!(texts(&session.requests[1]), ["U:<Image(56x28)>b"]);
    assert_eq!(texts(&session.requests[2]), ["U:<Image(56x28)>c"]);
    assert_eq!(texts(&session.requests[3])[2], "U:d");
}

#[test]
fn faulty_pictures_are_told_and_the_chat_goes_on() {
    let folder = folder();
    let lines = [
        "/image {d}/none.png",
        "/image {d}",
        "/image {d}/broken.png",
        "/image {d}/notes.txt",
        "{d}/broken.png look",
        "a",
    ];
    let session = chat_in(folder.path(), true, &lines, vec![ONE]);
    assert_eq!(texts(&session.requests[0]), ["U:a"]);
    for expected in ["cannot open", "is a folder", "broken.png", "not a picture", "not asked"] {
        assert!(session.err.contains(expected), "{expected}: {}", session.err);
    }
    let image = format!("/image {}/red.png", folder.path().display());
    let session = chat_with(true, None, &[&image, "a"], vec![ONE]);
    assert!(session.err.contains("--mmproj FILE"), "{}", session.err);
    assert_eq!(texts(&session.requests[0]), ["U:a"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_picture() {
    let folder = folder();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("fifo.png")).status();
    if made.is_ok_and(|status| status.success()) {
        let session = chat_in(folder.path(), true, &["/image {d}/fifo.png", "a"], vec![ONE]);
        assert!(session.err.contains("not a regular file"), "{}", session.err);
    }
}

#[test]
fn results_are_typed_and_the_answer_follows() {
    let folder = folder();
    let lines = ["/tools {d}/tools.json", "Rain?", "sunny\nand warm", "b"];
    let replies = vec![Reply::Calls("Let me see.", "weather"), ONE, TWO];
    let session = chat_in(folder.path(), true, &lines, replies);
    assert_eq!(session.requests[0].tools.len(), 2);
    assert_eq!(
        texts(&session.requests[2]),
        ["U:Rain?", "A:Let me see.→weather", "T:sunny\nand warm", "A:1", "U:b"]
    );
    assert!(session.out.contains("→ weather {\"city\": \"Paris\"}\n"), "{}", session.out);
    assert_eq!(session.prompts[2], "result> ");
}

#[test]
fn results_come_from_files_and_commands() {
    let folder = folder();
    let lines = [
        "/tools {d}/tools.json",
        "a",
        "/undo",
        "!exit 3",
        "@{d}/none.txt and",
        "b",
        "@{d}/notes.txt",
        "c",
        "!echo \"$GUST_ARGUMENTS\"",
        "d",
        "{d}/red.png",
    ];
    let call = || Reply::Calls("", "weather");
    let replies = vec![call(), ONE, call(), ONE, call(), ONE, call(), ONE];
    let session = chat_in(folder.path(), true, &lines, replies);
    let last = texts(&session.requests[7]);
    let results: Vec<_> = last.iter().filter(|text| text.starts_with("T:")).collect();
    assert_eq!(results.len(), 4);
    assert!(results[0].ends_with("none.txt and"));
    assert_eq!(
        results[1..],
        ["T:one ```two```\n", "T:{\"city\": \"Paris\"}\n", "T:<Image(56x28)>"]
    );
    for expected in ["the command failed", "commands wait"] {
        assert!(session.err.contains(expected), "{expected}: {}", session.err);
    }
}

#[test]
fn a_command_of_the_file_runs_only_when_the_user_says_so() {
    let folder = folder();
    let lines = ["/tools {d}/tools.json", "a", "", "typed", "b", "y", "c", "a", "d"];
    let call = || Reply::Calls("", "echo");
    let replies = vec![call(), ONE, call(), ONE, call(), ONE, call(), ONE];
    let session = chat_in(folder.path(), true, &lines, replies);
    assert!(session.err.contains("echo would run: cat"), "{}", session.err);
    assert_eq!(session.prompts.iter().filter(|p| p.starts_with("run it?")).count(), 3);
    let last = texts(&session.requests[7]);
    let results: Vec<_> = last.iter().filter(|text| text.starts_with("T:")).collect();
    let echoed = "T:{\"city\": \"Paris\"}";
    assert_eq!(results, ["T:typed", echoed, echoed, echoed]);
}

#[test]
fn a_cancelled_call_leaves_a_valid_conversation() {
    let folder = folder();
    for cancel in ["^C", "", "^D"] {
        let lines = ["/tools {d}/tools.json", "a", cancel, "b", cancel, "c"];
        let replies = vec![Reply::Calls("", "weather"), Reply::Calls("Hm.", "weather"), ONE];
        let session = chat_in(folder.path(), true, &lines, replies);
        assert_eq!(texts(&session.requests[2]), ["U:b", "A:Hm.", "U:c"]);
        assert!(session.err.contains("question is taken back"), "{}", session.err);
    }
}

#[test]
fn a_stop_between_rounds_takes_the_question_back() {
    let folder = folder();
    let lines = ["/tools {d}/tools.json", "a", "x", "b", "x", "c"];
    let call = || Reply::Calls("", "weather");
    let replies = vec![
        call(),
        Reply::Interrupted(""),
        call(),
        Reply::Interrupted("part"),
        Reply::Says(&["1"]),
    ];
    let session = chat_in(folder.path(), true, &lines, replies);
    assert_eq!(texts(&session.requests[4]), ["U:b", "A:→weather", "T:x", "A:part", "U:c"]);
}

#[test]
fn rounds_without_end_end() {
    let folder = folder();
    let mut replies: Vec<Reply> = (0..33).map(|_| Reply::Calls("", "echo")).collect();
    replies.push(ONE);
    let lines = ["/tools {d}/tools.json", "a", "a", "b"];
    let session = chat_in(folder.path(), true, &lines, replies);
    assert_eq!(session.requests[31].tool_choice, ToolChoice::Auto);
    assert_eq!(session.requests[32].tool_choice, ToolChoice::None);
    assert_eq!(texts(&session.requests[33]), ["U:b"]);
}

#[test]
fn a_pipe_gets_calls_as_lines() {
    let folder = folder();
    let lines = ["/tools {d}/tools.json", "a", "b"];
    let session = chat_in(folder.path(), false, &lines, vec![Reply::Calls("", "weather"), ONE]);
    let call = "{\"id\":\"abcdefgh1\",\"name\":\"weather\",\"arguments\":{\"city\": \"Paris\"}}";
    assert_eq!(session.out, format!("{call}\n1\n"));
    assert!(session.err.contains("cannot be given in a pipe"), "{}", session.err);
    assert_eq!(texts(&session.requests[1]), ["U:b"]);
}

#[test]
fn tools_and_formats_are_set_shown_and_removed() {
    let folder = folder();
    let lines = [
        "/tools",
        "/tools {d}/schema.json",
        "/tools {d}/tools.json",
        "/schema {d}/notes.txt",
        "/schema {d}/schema.json",
        "/budget 9",
        "/think hide",
        "a",
        "/tools off",
        "/schema json",
        "b",
        "/schema off",
        "c",
    ];
    let replies = vec![Reply::Thinks("hm", "1"), ONE, ONE];
    let session = chat_in(folder.path(), true, &lines, replies);
    for expected in ["no tools", "as they were", "echo · runs `cat`", "is not JSON", "9 tokens"] {
        assert!(session.err.contains(expected), "{expected}: {}", session.err);
    }
    assert!(!session.out.contains("hm"));
    let formats: Vec<_> = session.requests.iter().map(|r| r.response_format.clone()).collect();
    let schema = ResponseFormat::JsonSchema("{\"type\": \"object\"}".to_owned());
    assert_eq!(formats, [schema, ResponseFormat::JsonObject, ResponseFormat::Text]);
    assert_eq!(session.requests[1].tools.len(), 0);
}

#[test]
fn saved_rounds_and_pictures_load_again() {
    let folder = folder();
    let lines = [
        "/tools {d}/tools.json",
        "{d}/red.png what?",
        "wet",
        "/save {d}/talk.json",
        "/reset",
        "/tools off",
        "/load {d}/talk.json",
        "b",
    ];
    let replies = vec![Reply::Calls("", "weather"), ONE, TWO];
    let session = chat_in(folder.path(), true, &lines, replies);
    assert_eq!(
        texts(&session.requests[2]),
        ["U:<Image(56x28)>what?", "A:→weather", "T:wet", "A:1", "U:b"],
        "{}",
        session.err
    );
    assert_eq!(session.requests[2].tools.len(), 2);
}
