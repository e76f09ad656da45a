//! The runner's process: what it answers, what kills it, and what is left of its jobs then.
//!
//! The program itself is started, and killed. Nothing here asserts how long something takes; what must not
//! hang runs under one generous limit.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gust::constraint::{Begun, Language, ReplyRules, TextRules};
use gust::engine::{
    End, Engine, EngineOptions, Generation, ImageSpan, Prompt, Sampler, SamplingParams, Session,
};
use gust::model::{self, YarnPolicy};
use gust::runner::{
    JobEvent, JobStream, NewJob, PATIENCE, PrepareError, Runner, RunnerCommand, State,
    vocabulary_hash,
};
use gust::tokenizer::Tokenizer;
use gust::vision::Image;

const N_CTX: u32 = 4096;

fn engine() -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(N_CTX),
        n_threads: Some(1),
        cache_types: [None; 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    let mmproj = Some(model::builtin_mmproj());
    Engine::open(model::builtin(), mmproj, &options, &mut |_, _| {}).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&model::builtin()).unwrap()
}

fn command(args: &[&str]) -> RunnerCommand {
    let fixed = ["runner", "--slots=4", "--threads=1", "--ctx=4096"];
    RunnerCommand {
        program: env!("CARGO_BIN_EXE_gust").into(),
        args: fixed.iter().chain(args).map(OsString::from).collect(),
        vocabulary: vocabulary_hash(&tokenizer()),
        patience: PATIENCE,
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(240);
    runtime.block_on(async { tokio::time::timeout(limit, work).await.expect("it does not hang") })
}

async fn until(runner: &Runner, is_it: impl Fn(&State) -> bool) -> State {
    runner.watch().wait_for(|state| is_it(state)).await.unwrap().clone()
}

async fn ready(runner: &Runner) {
    until(runner, |state| matches!(state, State::Ready(_))).await;
}

fn prompt(text: &str) -> Prompt {
    let tokenizer = tokenizer();
    let control = |name| tokenizer.control_token(name).unwrap();
    let mut ids = vec![tokenizer.bos(), control("[INST]")];
    tokenizer.encode_into(text, &mut ids);
    ids.push(control("[/INST]"));
    ids[..].into()
}

/// A job that takes the likeliest token, and never the end.
fn job(text: &str, n_max: usize) -> NewJob {
    let logit_bias = vec![(tokenizer().eos(), f32::NEG_INFINITY)];
    let sampling = SamplingParams { temperature: 0.0, logit_bias, ..SamplingParams::default() };
    NewJob { prompt: prompt(text), sampling, n_max, n_logprobs: None, affinity: None }
}

/// The same job without scheduler and process.
fn alone(engine: &Arc<Engine>, job: &NewJob) -> Vec<u32> {
    let mut session = Session::new(engine);
    let mut logits = Vec::new();
    session.sync(&job.prompt, &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let n_vocab = engine.hparams().n_vocab as usize;
    let sampler = Sampler::new(job.sampling.clone(), n_vocab).unwrap();
    Generation::new(&mut session, sampler, logits, job.n_max).map(Result::unwrap).collect()
}

/// All tokens, and the event after the last.
async fn read(mut stream: JobStream) -> (Vec<u32>, JobEvent) {
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            JobEvent::Token(token, _) => tokens.push(token),
            JobEvent::Started(_) | JobEvent::Progress(..) => {}
            last => {
                assert_eq!(stream.next().await, None);
                return (tokens, last);
            }
        }
    }
}

fn kill(runner: &Runner, signal: &str) {
    let pid = runner.pid().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

/// Kills the process; more than once, for Rust's own handler takes a first SIGSEGV that is nobody's fault.
async fn kill_surely(runner: &Runner, signal: &str) {
    let pid = runner.pid().unwrap();
    while runner.pid() == Some(pid) {
        Command::new("kill")
            .args([signal, &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn greedy_text_is_the_engines_own() {
    let engine = engine();
    let mut jobs: Vec<NewJob> =
        ["Hi", "Capital of Japan?", "Who are you?", "Thanks", "Tell me a story about Tom."]
            .map(|text| job(text, 32))
            .into();
    let patches = engine.patch_config().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read(folder.join("models/tiny/examples/star.png")).unwrap();
    let image = Arc::new(Image::decode(file).unwrap());
    let grid = patches.grid(image.width(), image.height());
    let control = |name| engine.tokenizer().control_token(name).unwrap();
    let mut job = job("What is this?", 16);
    let mut rows = Vec::new();
    for row in 1..=grid.rows {
        rows.extend((0..grid.cols).map(|_| control("[IMG]")));
        rows.push(control(if row == grid.rows { "[IMG_END]" } else { "[IMG_BREAK]" }));
    }
    job.prompt.tokens.splice(2..2, rows);
    job.prompt.images.push(ImageSpan { start: 2, grid, image });
    jobs.push(job);
    run(async {
        let runner = Runner::start(command(&[]));
        ready(&runner).await;
        let mut streams = Vec::new();
        for job in &jobs {
            streams.push(runner.submit(job.clone(), None).await.unwrap());
        }
        for (stream, job) in streams.into_iter().zip(&jobs) {
            let (tokens, last) = read(stream).await;
            assert_eq!(tokens, alone(&engine, job));
            assert!(matches!(last, JobEvent::Ended(End::MaxTokens, _)), "{last:?}");
        }
        runner.stop().await;
        assert_eq!((runner.state(), runner.pid()), (State::Stopped, None));
        let refused = runner.submit(jobs[0].clone(), None).await.unwrap_err();
        assert_eq!(refused.to_string(), "the server is ending");
    });
}

#[test]
fn a_process_that_is_killed_loses_its_jobs_and_is_started_again() {
    let engine = engine();
    run(async {
        let runner = Runner::start(command(&[]));
        let cases = [("-KILL", "SIGKILL"), ("-ABRT", "SIGABRT"), ("-SEGV", "SIGSEGV")];
        for (n, (signal, name)) in (1..).zip(cases) {
            ready(&runner).await;
            let mut streams = Vec::new();
            for text in ["Hi", "Thanks", "Who are you?"] {
                let mut stream = runner.submit(job(text, 4000), None).await.unwrap();
                while !matches!(stream.next().await, Some(JobEvent::Token(..))) {}
                streams.push(stream);
            }
            kill_surely(&runner, signal).await;
            for stream in streams {
                let (_, last) = read(stream).await;
                let JobEvent::Lost(why) = last else { panic!("{last:?}") };
                assert!(why.starts_with("the engine stopped (signal: "), "{why}");
                assert!(why.contains(name), "{why}");
            }
            until(&runner, |state| matches!(state, State::Ready(_)) && runner.n_restarts() == n)
                .await;
            let job = job("Capital of Japan?", 24);
            let (tokens, _) = read(runner.submit(job.clone(), None).await.unwrap()).await;
            assert_eq!(tokens, alone(&engine, &job));
        }
        runner.stop().await;
    });
}

#[test]
fn a_process_that_says_nothing_is_ended() {
    run(async {
        let command = RunnerCommand { patience: Duration::from_secs(2), ..command(&[]) };
        let runner = Runner::start(command);
        ready(&runner).await;
        let mut stream = runner.submit(job("Hi", 4000), None).await.unwrap();
        while !matches!(stream.next().await, Some(JobEvent::Token(..))) {}
        kill(&runner, "-STOP");
        let (_, last) = read(stream).await;
        assert_eq!(last, JobEvent::Lost("the engine stopped: it had said nothing for 2 s".into()));
        runner.stop().await;
    });
}

#[test]
fn a_slow_reader_holds_up_nobody_and_misses_nothing() {
    let engine = engine();
    run(async {
        let runner = Runner::start(command(&[]));
        ready(&runner).await;
        let [slow, quick] = [job("Hi", 700), job("Thanks", 400)];
        let unread = runner.submit(slow.clone(), None).await.unwrap();
        let (tokens, last) = read(runner.submit(quick.clone(), None).await.unwrap()).await;
        assert_eq!(tokens, alone(&engine, &quick));
        assert!(matches!(last, JobEvent::Ended(..)), "{last:?}");
        // It has a slot still: without the pause it would be as far as the other, and farther.
        while runner.load().n_running > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(runner.load().n_running, 1);
        let (tokens, last) = read(unread).await;
        assert_eq!(tokens, alone(&engine, &slow));
        assert!(matches!(last, JobEvent::Ended(End::MaxTokens, _)), "{last:?}");
        runner.stop().await;
    });
}

#[test]
fn a_stream_that_is_dropped_gives_its_slot_back() {
    run(async {
        let runner = Runner::start(command(&[]));
        ready(&runner).await;
        let mut stream = runner.submit(job("Hi", 4000), None).await.unwrap();
        while !matches!(stream.next().await, Some(JobEvent::Token(..))) {}
        drop(stream);
        while runner.load().n_running > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        runner.stop().await;
    });
}

fn rules(text: TextRules) -> ReplyRules {
    ReplyRules {
        may_reason: false,
        reasoning_budget: None,
        text,
        calls: None,
        begun: Begun::Nothing,
        notes: vec!["a note".to_owned()],
    }
}

#[test]
fn rules_hold_a_reply_and_faults_name_their_field() {
    run(async {
        let runner = Runner::start(command(&[]));
        ready(&runner).await;
        let schema = |text: &str| {
            let field = "response_format.json_schema.schema".to_owned();
            rules(TextRules::Held(Language::JsonSchema(text.to_owned()), field))
        };
        let fault = runner.prepare(schema(r#"{"type": "strin"}"#)).await.unwrap_err();
        let PrepareError::Rules { field, message } = fault else { panic!("{fault:?}") };
        assert_eq!(field, "response_format.json_schema.schema");
        assert!(message.contains("strin"), "{message}");

        let prepared = runner.prepare(schema(r#"{"enum": ["yes", "no"]}"#)).await.unwrap();
        assert_eq!(prepared.notes, ["a note"]);
        let mut job = job("Is it?", 32);
        job.sampling.logit_bias.clear();
        let (tokens, last) = read(runner.submit(job.clone(), Some(prepared)).await.unwrap()).await;
        assert!(matches!(last, JobEvent::Ended(End::Eos, _)), "{last:?}");
        let text = tokenizer().decode(&tokens);
        assert!(text == br#""yes""# || text == br#""no""#, "{}", String::from_utf8_lossy(&text));

        // What one process has prepared is not there in the next.
        let prepared = runner.prepare(schema(r#"{"enum": ["yes"]}"#)).await.unwrap();
        kill(&runner, "-KILL");
        until(&runner, |state| matches!(state, State::Ready(_)) && runner.n_restarts() == 1).await;
        assert!(runner.submit(job, Some(prepared)).await.is_err());
        runner.stop().await;
    });
}

#[test]
fn a_model_that_cannot_be_opened_fails_and_says_so() {
    run(async {
        let runner = Runner::start(command(&["--model=there-is-no-such.gguf"]));
        let State::Failed(why) = until(&runner, |state| matches!(state, State::Failed(_))).await
        else {
            unreachable!()
        };
        assert!(why.contains("there-is-no-such.gguf"), "{why}");
        assert!(runner.submit(job("Hi", 1), None).await.is_err());
        runner.stop().await;

        let other = RunnerCommand { vocabulary: [0; 32], ..command(&[]) };
        let runner = Runner::start(other);
        let State::Failed(why) = until(&runner, |state| matches!(state, State::Failed(_))).await
        else {
            unreachable!()
        };
        assert!(why.contains("another vocabulary"), "{why}");
        runner.stop().await;

        let runner = Runner::start(command(&["--front=another"]));
        let State::Failed(why) = until(&runner, |state| matches!(state, State::Failed(_))).await
        else {
            unreachable!()
        };
        assert!(why.starts_with("the program was replaced while it ran: another"), "{why}");
        runner.stop().await;
    });
}

#[test]
fn a_model_file_that_is_cut_while_in_use_ends_its_jobs_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tiny-Q8_0.gguf");
    fs::copy(tiny, &path).unwrap();
    run(async {
        let model = format!("--model={}", path.display());
        let runner = Runner::start(command(&[&model, "--no-repack"]));
        ready(&runner).await;
        let mut stream = runner.submit(job("Hi", 4000), None).await.unwrap();
        while !matches!(stream.next().await, Some(JobEvent::Token(..))) {}
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let (_, last) = read(stream).await;
        let JobEvent::Lost(why) = last else { panic!("{last:?}") };
        assert!(why.contains("SIGBUS") && why.contains("a model file was cut short"), "{why}");
        let State::Failed(why) = until(&runner, |state| matches!(state, State::Failed(_))).await
        else {
            unreachable!()
        };
        assert!(why.contains("cut.gguf"), "{why}");
        runner.stop().await;
    });
}

/// The program as a runner, with nobody to look after it.
fn process() -> Child {
    Command::new(env!("CARGO_BIN_EXE_gust"))
        .args(command(&[]).args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the first frame, writes `input`, and closes stdin.
fn answer_to(input: &[u8]) -> (Option<i32>, String) {
    let mut child = process();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_end_of_its_input_ends_the_process() {
    let (code, stderr) = answer_to(&[]);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn frames_that_are_torn_or_noise_end_the_process_with_an_error() {
    let cases: [(&[u8], &str); 4] = [
        (&[9, 0, 0], "a frame ends in its midst"),
        (&[9, 0, 0, 0, 0, 1], "a frame ends in its midst"),
        (&[1, 0, 0, 0, 7, 1], "a frame of kind 7"),
        (&[1, 0, 0, 0, 0, 99], "a frame's content is not what it should be"),
    ];
    for (input, expected) in cases {
        let (code, stderr) = answer_to(input);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
