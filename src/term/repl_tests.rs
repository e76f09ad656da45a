//! The chat loop, driven by lists of lines and of replies.

use std::collections::VecDeque;

use super::*;
use crate::chat::{ContentChunk, Message};

const PLAIN: StreamStyle = StreamStyle { is_terminal: false, colors: false };

/// What a scripted model does with one question.
enum Reply {
    Says(&'static [&'static str]),
    Thinks(&'static str, &'static str),
    /// Says the text, then Ctrl-C comes.
    Interrupted(&'static str),
    Calls(&'static str),
    Fails(&'static str),
}

struct Session {
    out: String,
    err: String,
    requests: Vec<ChatRequest>,
    temperatures: Vec<Option<f32>>,
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
        Reply::Calls(name) => {
            vec![ReplyEvent::ToolCallStarted { id: "abcdefgh1".into(), name: (*name).into() }]
        }
    };
    let reason = match reply {
        Reply::Interrupted(_) => FinishReason::Cancelled,
        _ => FinishReason::Stop,
    };
    events.push(ReplyEvent::Finished { reason, malformed: false });
    events
}

fn chat(is_interactive: bool, lines: &[&str], replies: Vec<Reply>) -> Session {
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
                turn.interrupt.flag().store(true, std::sync::atomic::Ordering::Relaxed);
            }
            let stopped = i == 1 && matches!(reply, Reply::Interrupted(_));
            if is_last || !stopped {
                let _ = sink(event);
            }
        }
        Ok(Usage { n_prompt: 10, n_generated: 2, ..Usage::default() })
    };
    let model = ModelInfo { name: "test".to_owned(), n_ctx: 100 };
    let mut repl = Repl::new(Conversation::default(), model, screen, Interrupt::new(), generate);
    let mut lines = lines.iter();
    let result = repl.run(|| {
        Ok(lines.next().map_or(Input::End, |line| match *line {
            "^C" => Input::Interrupt,
            line => Input::Line(line.to_owned()),
        }))
    });
    let conversation = repl.conversation;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Session { out: text(out), err: text(err), requests, temperatures, conversation, result }
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
            Message::Assistant(assistant) => format!("A:{}", text(&assistant.content)),
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
    let session = chat(true, &["a"], vec![Reply::Calls("f")]);
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
