//! The runner's side without a process.

use std::sync::mpsc::{Sender, channel};

use super::*;
use crate::constraint::{Begun, Language, TextRules};
use crate::engine::{EngineOptions, SamplingParams};
use crate::model::{YarnPolicy, builtin};

fn engine() -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(4096),
        n_threads: Some(1),
        cache_types: [None; 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    Engine::open(builtin(), None, &options, &mut |_, _| {}).unwrap()
}

fn submission(engine: &Engine, id: u64, is_prepared: bool, n_max: usize) -> Request {
    let logit_bias = vec![(engine.tokenizer().eos(), f32::NEG_INFINITY)];
    Request::Submit(Submission {
        id: JobId(id),
        tokens: vec![engine.tokenizer().bos(), 1500],
        images: Vec::new(),
        sampling: SamplingParams { temperature: 0.0, logit_bias, ..SamplingParams::default() },
        is_prepared,
        n_max,
        n_logprobs: None,
        affinity: None,
    })
}

fn steps<W: Write>(
    engine: &Arc<Engine>,
    output: W,
) -> (SyncSender<Result<Taken, FrameError>>, Steps<W>) {
    let (taken, requests) = sync_channel(N_REQUESTS);
    let scheduler = Scheduler::new(engine, 1).with_paused_max(Duration::from_millis(50));
    let reports = Reports(Arc::new(Mutex::new(output)));
    (taken, Steps { scheduler, requests, reports, load: Load::default() })
}

#[test]
fn rules_go_with_their_job_and_of_a_cancelled_one_nothing_is_told() {
    let engine = engine();
    let (taken, mut steps) = steps(&engine, Vec::new());
    let (to_compile, uncompiled) = sync_channel(N_RULES);
    let reader = Reader { rules: Rules::default(), to_compile, taken };
    let reports = Reports(Arc::new(Mutex::new(Vec::new())));
    let text = TextRules::Held(Language::Regex("(yes|no)".to_owned()), "answer".to_owned());
    let rules = ReplyRules {
        may_reason: false,
        reasoning_budget: None,
        text,
        calls: None,
        begun: Begun::Nothing,
        notes: Vec::new(),
    };
    for id in [1, 2] {
        reader.take(Request::Prepare(JobId(id), rules.clone()), &reports).unwrap();
    }
    let (rules, to_compile) = (reader.rules.clone(), reader.to_compile.clone());
    let grammars = Grammars::new(engine.tokenizer());
    let compiler = {
        let reports = reports.clone();
        thread::spawn(move || compile(&grammars, &rules, &uncompiled, &reports))
    };
    while lock(&reader.rules.0).values().any(Option::is_none) {
        thread::sleep(Duration::from_millis(1));
    }
    for request in [submission(&engine, 1, true, 9), submission(&engine, 2, true, 9)] {
        reader.take(request, &reports).unwrap();
    }
    reader.take(Request::Cancel(JobId(1)), &reports).unwrap();
    reader.take(submission(&engine, 3, true, 9), &reports).unwrap();
    let mut events = Vec::new();
    while let Ok(request) = steps.requests.try_recv() {
        steps.take(request.unwrap(), &mut events);
    }
    let [Event::Failed(JobId(3), why)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(why, "what its reply must be like was forgotten");
    assert_eq!(steps.scheduler.load().n_waiting, 1);
    assert!(lock(&reader.rules.0).is_empty());
    drop((reader, to_compile));
    compiler.join().unwrap();
}

/// Each write is a frame of its own.
struct Frames(Sender<Vec<u8>>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // An error is a test that has seen enough.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_paused_job_leaves_its_slot_though_nothing_comes_in() {
    let engine = engine();
    let (output, frames) = channel();
    let (taken, steps) = steps(&engine, Frames(output));
    let ask = |request| taken.send(Ok((request, None))).unwrap();
    ask(submission(&engine, 1, false, 4000));
    let stepping = thread::spawn(move || steps.run());
    let start = Instant::now();
    let mut is_held_up = false;
    for frame in &frames {
        let Some(Report::Step(events, _)) = frame::read(&mut &frame[..]).unwrap() else { panic!() };
        if !is_held_up && events.iter().any(|event| matches!(event, Event::Token(..))) {
            is_held_up = true;
            ask(Request::Pause(JobId(1)));
            ask(submission(&engine, 2, false, 5));
        }
        if events.iter().any(|event| matches!(event, Event::Ended(JobId(2), ..))) {
            break;
        }
    }
    assert!(start.elapsed() < PULSE, "it woke up for another reason");
    drop(taken);
    stepping.join().unwrap().unwrap();
}
