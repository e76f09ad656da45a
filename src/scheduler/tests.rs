//! The scheduler on the built-in model, step by step: what is told, what is reused, who has to give way.

mod pauses;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::constraint::{Begun, Grammars, Language, ReplyRules, TextRules};
use crate::engine::{EngineOptions, Generation, ImageSpan, Prompt, Sampler, Session};
use crate::gguf::Gguf;
use crate::model::{YarnPolicy, builtin, builtin_mmproj};
use crate::vision::Image;

fn open(gguf: Gguf, mmproj: Option<Gguf>, n_ctx: u32) -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        n_threads: Some(1),
        cache_types: [None; 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    Engine::open(gguf, mmproj, &options, &mut |_, _| {}).unwrap()
}

fn tiny(n_ctx: u32) -> Arc<Engine> {
    open(builtin(), None, n_ctx)
}

/// A question in the tiny model's own chat format.
fn question(engine: &Engine, text: &str) -> Vec<TokenId> {
    let tokenizer = engine.tokenizer();
    let control = |name| tokenizer.control_token(name).unwrap();
    let mut ids = vec![tokenizer.bos(), control("[MODEL_SETTINGS]")];
    tokenizer.encode_into("{\"reasoning_effort\": \"none\"}", &mut ids);
    ids.extend([control("[/MODEL_SETTINGS]"), control("[INST]")]);
    tokenizer.encode_into(text, &mut ids);
    ids.push(control("[/INST]"));
    ids
}

fn questions(engine: &Engine) -> Vec<Vec<TokenId>> {
    ["Hi", "Capital of Japan?", "Thanks", "What is the capital of Germany?", "How are you?"]
        .iter()
        .chain(&["Tell me a story about Tom.", "Who are you?", "Capital of Italy?"])
        .map(|text| question(engine, text))
        .collect()
}

/// Tokens that are no text at all, and differ by `seed`.
fn noise(seed: u32, n: usize) -> Vec<TokenId> {
    let token = |i: u32| 1000 + (i * 7 + i * i * seed + seed * 31) % 2000;
    std::iter::once(1).chain((1..n as u32).map(token)).collect()
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..Default::default() }
}

/// Greedy, and never at its end by itself.
fn endless(engine: &Engine) -> SamplingParams {
    let logit_bias = vec![(engine.tokenizer().eos(), f32::NEG_INFINITY)];
    SamplingParams { logit_bias, ..greedy() }
}

fn job(id: u64, tokens: &[TokenId], sampling: SamplingParams, n_max: usize) -> Job {
    Job {
        id: JobId(id),
        tokens: tokens.to_vec(),
        images: Vec::new(),
        sampling,
        constraint: None,
        n_max,
        n_logprobs: None,
        affinity: None,
    }
}

/// What `engine` says alone, without any scheduler.
fn alone(
    engine: &Arc<Engine>,
    prompt: &Prompt,
    sampling: SamplingParams,
    n: usize,
) -> Vec<TokenId> {
    let mut session = Session::new(engine);
    let mut logits = Vec::new();
    session.sync(prompt, &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let sampler = Sampler::new(sampling, logits.len()).unwrap();
    Generation::new(&mut session, sampler, logits, n).map(Result::unwrap).collect()
}

/// Checks that each token is the best after those before it, but for ties: a text that is computed again
/// in other parts has other roundings.
#[track_caller]
fn is_likeliest(engine: &Arc<Engine>, prompt: &[TokenId], said: &[TokenId]) {
    let mut session = Session::new(engine);
    let mut logits = Vec::new();
    session.sync(&prompt.into(), &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    for &token in said {
        logits[engine.tokenizer().eos() as usize] = f32::NEG_INFINITY;
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(logits[token as usize] > best - 0.5, "{token} in {said:?}");
        session.step(token, &mut logits).unwrap();
    }
}

/// All that was told of one job.
#[derive(Debug, Default)]
struct Told {
    start: Option<Start>,
    n_done: usize,
    tokens: Vec<TokenId>,
    logprobs: Vec<Logprobs>,
    pictures: Vec<ImageHash>,
    ended: Option<(End, Spent)>,
    failed: Option<String>,
}

impl Told {
    fn is_over(&self) -> bool {
        self.ended.is_some() || self.failed.is_some()
    }
}

/// A scheduler, and what it told so far; every event is checked.
struct Stage {
    scheduler: Scheduler,
    told: BTreeMap<u64, Told>,
    n_steps: usize,
}

impl Stage {
    fn new(engine: &Arc<Engine>, n_slots: usize) -> Self {
        Stage { scheduler: Scheduler::new(engine, n_slots), told: BTreeMap::new(), n_steps: 0 }
    }

    fn step(&mut self) {
        let mut events = Vec::new();
        self.scheduler.step(&mut events);
        self.n_steps += 1;
        for event in events {
            let (Event::Started(id, _)
            | Event::Progress(id, ..)
            | Event::NeedsPicture(id, _)
            | Event::Token(id, _, _)
            | Event::Ended(id, _, _)
            | Event::Failed(id, _)) = &event;
            let told = self.told.entry(id.0).or_default();
            assert!(!told.is_over(), "{event:?} after the last event");
            assert!(
                told.start.is_some() || matches!(event, Event::Started(..) | Event::Failed(..))
            );
            match event {
                Event::Started(_, start) => assert!(told.start.replace(start).is_none()),
                Event::Progress(_, n, spent) => {
                    assert!(n > told.n_done && told.tokens.is_empty());
                    assert!(spent.n_prefilled > 0 && spent.prefill_s > 0.0);
                    told.n_done = n;
                }
                Event::NeedsPicture(_, hash) => told.pictures.push(hash),
                Event::Token(_, token, logprobs) => {
                    told.tokens.push(token);
                    told.logprobs.extend(logprobs);
                }
                Event::Ended(_, end, spent) => {
                    assert_eq!(spent.n_generated, told.tokens.len());
                    told.ended = Some((end, spent));
                }
                Event::Failed(_, problem) => told.failed = Some(problem),
            }
        }
    }

    /// Steps until there is nothing to do.
    fn run(&mut self) {
        for _ in 0..20_000 {
            if self.scheduler.is_idle() {
                return;
            }
            self.step();
        }
        panic!("never idle: {:?}", self.scheduler.load());
    }

    /// Runs a job to its end.
    fn answer(&mut self, job: Job) -> &Told {
        let id = job.id.0;
        self.scheduler.submit(job);
        self.run();
        &self.told[&id]
    }

    fn n_reused(&self, id: u64) -> usize {
        self.told[&id].start.as_ref().unwrap().n_reused
    }

    /// Cells are held by what is kept, and by nothing else.
    #[track_caller]
    fn holds_only_what_is_kept(&self) {
        let kept = (0..self.scheduler.kept.len()).map(|at| self.scheduler.kept.session(at));
        let load = self.scheduler.load();
        assert_eq!((load.n_running, load.n_suspended, load.n_waiting), (0, 0, 0));
        assert_eq!(Session::n_cells(kept.map(|it| (it, it.len()))), load.n_cells_used);
    }
}

#[test]
fn sixteen_jobs_together_say_what_each_says_alone() {
    let engine = tiny(4096);
    let questions = questions(&engine);
    let jobs: Vec<(Vec<TokenId>, usize)> =
        (0..16).map(|i| (questions[i % 8].clone(), 5 + i * 3)).collect();
    let sampling = |i: usize| if i < 8 { greedy() } else { endless(&engine) };
    for n_slots in [16, 3] {
        let mut stage = Stage::new(&engine, n_slots);
        for (i, (prompt, n_max)) in jobs.iter().enumerate() {
            stage.scheduler.submit(job(i as u64, prompt, sampling(i), *n_max));
            (0..i % 3).for_each(|_| stage.step());
            assert!(stage.scheduler.load().n_running <= n_slots);
        }
        stage.run();
        for (i, (prompt, n_max)) in jobs.iter().enumerate() {
            let expected = alone(&engine, &prompt[..].into(), sampling(i), *n_max);
            let told = &stage.told[&(i as u64)];
            assert_eq!(told.tokens, expected, "job {i} of {n_slots} slots");
            let is_eos = expected.last() == Some(&engine.tokenizer().eos());
            let end = if is_eos { End::Eos } else { End::MaxTokens };
            assert_eq!(told.ended.unwrap().0, end);
            assert_eq!(told.n_done, prompt.len());
        }
        stage.holds_only_what_is_kept();
    }
}

#[test]
fn every_reply_gets_a_token_in_each_step_while_a_prompt_is_read() {
    let engine = tiny(4096);
    let mut stage = Stage::new(&engine, 4);
    stage.scheduler.submit(job(0, &questions(&engine)[0], endless(&engine), 200));
    stage.step();
    stage.scheduler.submit(job(1, &noise(3, 2000), greedy(), 1));
    stage.step();
    assert!(!stage.told[&1].is_over(), "a long prompt is read in parts");
    stage.run();
    let n_together = stage.told[&0].tokens.len();
    assert_eq!((n_together, stage.n_steps), (200, 200));
}

#[test]
fn the_next_turn_goes_on_from_the_last() {
    let engine = tiny(4096);
    let mut stage = Stage::new(&engine, 2);
    let first = noise(1, 300);
    let told = stage.answer(job(0, &first, endless(&engine), 20));
    let mut second = [&first[..], &told.tokens].concat();
    // The last token of a reply is not computed.
    let n_kept = second.len() - 1;
    second.extend(noise(2, 30));
    stage.answer(job(1, &second, greedy(), 4));
    assert_eq!((stage.n_reused(1), stage.scheduler.load().n_kept), (n_kept, 1));
    assert_eq!(stage.told[&1].start.as_ref().unwrap().miss, None);
    assert_eq!(stage.told[&1].ended.unwrap().1.n_prefilled, second.len() - n_kept);
    assert_eq!(stage.told[&1].tokens, alone(&engine, &second[..].into(), greedy(), 4));
    // A side request parts in the middle, and leaves the conversation whole.
    let mut side = second[..100].to_vec();
    side.extend([7, 8, 9]);
    stage.answer(job(2, &side, greedy(), 4));
    let miss = Miss { at: 100, kept: second[100], asked: 7 };
    let start = Start { n_prompt: 103, n_reused: 100, miss: Some(miss) };
    assert_eq!(stage.told[&2].start, Some(start));
    assert_eq!(stage.scheduler.load().n_kept, 2);
    stage.answer(job(3, &second, greedy(), 4));
    assert_eq!(stage.n_reused(3), second.len() - 1);
    stage.holds_only_what_is_kept();
}

#[test]
fn a_prompt_that_was_broken_off_is_resumed() {
    let engine = tiny(4096);
    let mut stage = Stage::new(&engine, 1);
    let prompt = noise(1, 1200);
    stage.scheduler.submit(job(0, &prompt, greedy(), 4));
    stage.step();
    assert_eq!(stage.told[&0].n_done, 512);
    stage.scheduler.cancel(JobId(0));
    assert!(stage.scheduler.is_idle());
    stage.holds_only_what_is_kept();
    let told = stage.answer(job(1, &prompt, greedy(), 4));
    assert_eq!(told.start, Some(Start { n_prompt: 1200, n_reused: 512, miss: None }));
    assert_eq!(told.tokens, alone(&engine, &prompt[..].into(), greedy(), 4));
    assert!(!stage.told[&0].is_over());
}

#[test]
fn a_common_prefix_is_computed_once() {
    let engine = tiny(4096);
    let mut stage = Stage::new(&engine, 8);
    let prefix = noise(5, 1000);
    let prompts: Vec<Vec<TokenId>> =
        (0..6).map(|i| [&prefix[..], &noise(i, 10)[1..]].concat()).collect();
    for (prompt, id) in prompts.iter().zip(0..) {
        stage.scheduler.submit(job(id, prompt, endless(&engine), 8));
    }
    stage.run();
    let spent = stage.told.values().map(|told| told.ended.unwrap().1.n_prefilled);
    assert!(spent.sum::<usize>() <= 1000 + 6 * 10);
    for (prompt, id) in prompts.iter().zip(0..) {
        let expected = alone(&engine, &prompt[..].into(), endless(&engine), 8);
        assert_eq!(stage.told[&id].tokens, expected);
    }
    stage.holds_only_what_is_kept();
}

#[test]
fn followers_go_their_own_way_when_their_leader_leaves_or_stands() {
    let engine = tiny(4096);
    let prompt = noise(5, 1500);
    for is_paused in [false, true] {
        let mut stage = Stage::new(&engine, 8);
        stage.scheduler.submit(job(0, &prompt, greedy(), 4));
        stage.scheduler.submit(job(1, &prompt, greedy(), 4));
        stage.step();
        assert_eq!(stage.scheduler.load().n_waiting, 1);
        match is_paused {
            true => stage.scheduler.pause(JobId(0), true),
            false => stage.scheduler.cancel(JobId(0)),
        }
        stage.run();
        assert_eq!(stage.n_reused(1), 512);
        assert!(stage.told[&1].is_over() && !stage.told[&0].is_over());
    }
}

#[test]
fn jobs_that_are_pushed_out_go_on_as_if_nothing_had_been() {
    let engine = tiny(160);
    let questions = questions(&engine);
    let mut stage = Stage::new(&engine, 8);
    for (prompt, id) in questions.iter().zip(0..) {
        stage.scheduler.submit(job(id, prompt, endless(&engine), 90));
    }
    let mut n_pushed_out = 0;
    while !stage.scheduler.is_idle() {
        stage.step();
        n_pushed_out = n_pushed_out.max(stage.scheduler.load().n_suspended);
        assert!(stage.n_steps < 5000);
    }
    assert!(n_pushed_out > 1, "{n_pushed_out}");
    let roomy = tiny(4096);
    for (prompt, id) in questions.iter().zip(0..) {
        is_likeliest(&roomy, prompt, &stage.told[&id].tokens);
    }
    stage.holds_only_what_is_kept();
}

#[test]
fn a_full_context_ends_its_job_only() {
    let engine = tiny(128);
    let mut stage = Stage::new(&engine, 4);
    let (long, short) = (noise(1, 100), questions(&engine)[0].clone());
    stage.scheduler.submit(job(0, &long, endless(&engine), 1000));
    stage.scheduler.submit(job(1, &short, endless(&engine), 30));
    stage.scheduler.submit(job(2, &noise(2, 128), endless(&engine), 30));
    stage.run();
    let end = |id: u64| (stage.told[&id].ended.unwrap().0, stage.told[&id].tokens.len());
    assert_eq!(end(0), (End::ContextFull, 28));
    assert_eq!(end(1), (End::MaxTokens, 30));
    assert_eq!(end(2), (End::ContextFull, 1));
    stage.holds_only_what_is_kept();
}

#[test]
fn jobs_that_cannot_run_fail_at_once_and_alone() {
    let engine = tiny(64);
    let good = questions(&engine)[0].clone();
    let mark = |start, cols| ImageMark {
        start,
        grid: crate::vision::Grid { cols, rows: 1 },
        hash: ImageHash([1; 32]),
    };
    let with = |change: &dyn Fn(&mut Job)| {
        let mut job = job(0, &good, greedy(), 3);
        change(&mut job);
        job
    };
    for (broken, expected) in [
        (with(&|job| job.tokens.clear()), "the prompt has no tokens"),
        (with(&|job| job.n_max = 0), "a reply of 0 tokens"),
        (with(&|job| job.tokens = noise(1, 65)), "the context is full: 65 tokens, 64 fit"),
        (with(&|job| job.tokens.push(1 << 20)), "token id 1048576 is not below"),
        (with(&|job| job.sampling.top_p = 2.0), "top_p is 2"),
        (with(&|job| job.images = vec![mark(3, 1)]), "this model cannot see pictures"),
    ] {
        let mut stage = Stage::new(&engine, 2);
        stage.scheduler.submit(broken);
        assert_eq!(stage.answer(job(1, &good, greedy(), 3)).failed, None);
        let problem = stage.told[&0].failed.clone().unwrap();
        assert!(problem.starts_with(expected), "{problem}");
    }
    let mut stage = Stage::new(&engine, 2);
    stage.scheduler.submit(with(&|job| job.tokens.clear()));
    stage.scheduler.cancel(JobId(0));
    stage.run();
    assert!(stage.told.is_empty());
}

#[test]
fn side_jobs_do_not_push_out_a_conversation() {
    let engine = tiny(768);
    let mut stage = Stage::new(&engine, 4);
    let main = noise(1, 300);
    stage.answer(Job { affinity: Some(1), ..job(0, &main, endless(&engine), 20) });
    let said = stage.told[&0].tokens.clone();
    for i in 1..40u32 {
        let affinity = [None, Some(1)][i as usize % 2];
        let side = job(u64::from(i), &noise(i + 1, 80), endless(&engine), 20);
        stage.scheduler.submit(Job { affinity, ..side });
        if i % 3 == 0 {
            stage.run();
        }
    }
    stage.run();
    let next = [&main[..], &said, &noise(50, 20)].concat();
    stage.answer(Job { affinity: Some(1), ..job(100, &next, greedy(), 4) });
    assert_eq!(stage.n_reused(100), 319);
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    let engine = tiny(256);
    let prompt = questions(&engine)[1].clone();
    let mut stage = Stage::new(&engine, 1);
    // What sampling does to the logits must not be seen.
    let sampling = SamplingParams { repetition_penalty: 3.0, ..endless(&engine) };
    let job = Job { n_logprobs: Some(5), ..job(0, &prompt, sampling, 6) };
    let told = stage.answer(job);
    assert_eq!(told.logprobs.len(), 6);
    let mut session = Session::new(&engine);
    let mut logits = Vec::new();
    session.sync(&prompt[..].into(), &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    for (&token, found) in told.tokens.iter().zip(&told.logprobs) {
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let direct = |id: TokenId| (f64::from(logits[id as usize]) - sum.ln()) as f32;
        assert!((found.chosen - direct(token)).abs() < 1e-3);
        assert!(found.top.len() == 5 && found.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(found.top.iter().all(|&(id, logprob)| (logprob - direct(id)).abs() < 1e-3));
        session.step(token, &mut logits).unwrap();
    }
}

#[test]
fn a_reply_keeps_its_constraint() {
    let engine = tiny(512);
    let grammars = Grammars::new(engine.tokenizer());
    let rules = ReplyRules {
        may_reason: false,
        reasoning_budget: None,
        text: TextRules::Held(Language::Regex("(yes|no){3}".to_owned()), "answer".to_owned()),
        calls: None,
        begun: Begun::Nothing,
        notes: Vec::new(),
    };
    let mut stage = Stage::new(&engine, 4);
    let prompt = questions(&engine)[0].clone();
    stage.scheduler.submit(job(1, &prompt, greedy(), 30));
    let constraint = Some(Constraint::new(&grammars, rules).unwrap());
    let told = stage.answer(Job { constraint, ..job(0, &prompt, greedy(), 30) });
    let (&eos, said) = told.tokens.split_last().unwrap();
    assert_eq!((eos, told.ended.unwrap().0), (engine.tokenizer().eos(), End::Eos));
    let text: Vec<u8> =
        said.iter().flat_map(|&id| engine.tokenizer().token_bytes(id).to_vec()).collect();
    let text = String::from_utf8(text).unwrap();
    assert!(text.replace("yes", "").replace("no", "").is_empty() && text.len() >= 6, "{text:?}");
    let free = alone(&engine, &prompt[..].into(), greedy(), 30);
    assert_eq!(stage.told[&1].tokens, free);
}

/// The built-in model, but the embedding of `token` is no number.
fn poisoned(token: TokenId) -> Arc<Engine> {
    let gguf = builtin();
    let mut bytes = gguf.parts()[0].bytes().to_vec();
    let tensor = gguf.tensor("token_embd.weight").unwrap();
    let data = gguf.data(tensor);
    let start = data.as_ptr() as usize - gguf.parts()[0].bytes().as_ptr() as usize;
    let n_row = data.len() / tensor.dims[1] as usize;
    // The scale of the row's first block, in f16.
    bytes[start + token as usize * n_row..][..2].copy_from_slice(&[0xff, 0x7f]);
    open(Gguf::from_bytes("poisoned", bytes).unwrap(), None, 1024)
}

#[test]
fn a_job_that_computes_no_number_fails_alone() {
    let engine = poisoned(1500);
    let questions = questions(&engine);
    let mut stage = Stage::new(&engine, 8);
    for (prompt, id) in questions.iter().take(4).zip(0..) {
        stage.scheduler.submit(job(id, prompt, endless(&engine), 30));
    }
    (0..6).for_each(|_| stage.step());
    let (mut broken, sound) = (noise(4, 600), noise(6, 200));
    assert!(!sound.contains(&1500));
    broken[100] = 1500;
    stage.scheduler.submit(job(9, &broken, greedy(), 30));
    stage.scheduler.submit(job(8, &sound, greedy(), 4));
    stage.run();
    assert_eq!(stage.told[&8].tokens, alone(&engine, &sound[..].into(), greedy(), 4));
    let problem = stage.told[&9].failed.as_ref().unwrap();
    assert!(problem.contains("no finite number"), "{problem}");
    for (prompt, id) in questions.iter().take(4).zip(0..) {
        let expected = alone(&engine, &prompt[..].into(), endless(&engine), 30);
        assert_eq!(stage.told[&id].tokens, expected);
    }
    stage.holds_only_what_is_kept();
}

/// A picture of one colour, and a prompt that has it between two texts.
fn seeing(engine: &Engine, colour: [u8; 3]) -> (Prompt, ImagePatches) {
    let rgb = image::RgbImage::from_pixel(112, 84, image::Rgb(colour));
    let mut png = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let image = Arc::new(Image::decode(png.into_inner()).unwrap());
    let config = engine.patch_config().unwrap();
    let patches = config.preprocess(&image);
    let grid = patches.grid;
    let control = |name| engine.tokenizer().control_token(name).unwrap();
    let mut tokens = question(engine, "Hi");
    let end = tokens.pop();
    let start = tokens.len();
    for row in 0..grid.rows {
        tokens.extend(vec![control("[IMG]"); grid.cols as usize]);
        let is_last = row + 1 == grid.rows;
        tokens.push(control(if is_last { "[IMG_END]" } else { "[IMG_BREAK]" }));
    }
    tokens.extend(end);
    (Prompt { tokens, images: vec![ImageSpan { start, grid, image }] }, patches)
}

fn seeing_job(id: u64, prompt: &Prompt, sampling: SamplingParams) -> Job {
    let mark = |it: &ImageSpan| ImageMark { start: it.start, grid: it.grid, hash: it.image.hash() };
    let images = prompt.images.iter().map(mark).collect();
    Job { images, ..job(id, &prompt.tokens, sampling, 12) }
}

#[test]
fn pictures_are_asked_for_once_and_seen() {
    let engine = open(builtin(), Some(builtin_mmproj()), 1024);
    let mut stage = Stage::new(&engine, 4);
    let (red, red_patches) = seeing(&engine, [216, 46, 43]);
    let (blue, blue_patches) = seeing(&engine, [39, 85, 208]);
    let hash = |prompt: &Prompt| prompt.images[0].image.hash();
    let hi = questions(&engine)[0].clone();
    stage.scheduler.submit(seeing_job(0, &red, endless(&engine)));
    stage.scheduler.submit(job(1, &hi, endless(&engine), 12));
    stage.scheduler.submit(seeing_job(2, &blue, endless(&engine)));
    stage.run();
    assert_eq!(stage.told[&0].pictures, [hash(&red)]);
    assert_eq!(stage.told[&2].pictures, [hash(&blue)]);
    assert!(stage.told[&1].is_over(), "text does not wait for pictures");
    assert_eq!(stage.told[&0].n_done, red.images[0].start, "what comes before it is computed");
    stage.scheduler.picture(hash(&blue), blue_patches);
    stage.scheduler.picture(hash(&red), red_patches.clone());
    stage.scheduler.picture(hash(&red), red_patches.clone());
    stage.scheduler.submit(seeing_job(3, &red, endless(&engine)));
    stage.run();
    stage.scheduler.picture(hash(&red), red_patches);
    assert!(stage.scheduler.is_idle());
    assert_eq!(stage.told[&3].pictures, []);
    for (id, prompt) in [(0, &red), (2, &blue), (3, &red), (1, &hi[..].into())] {
        let expected = alone(&engine, prompt, endless(&engine), 12);
        assert_eq!(stage.told[&id].tokens, expected, "job {id}");
    }
    stage.holds_only_what_is_kept();
}

#[test]
fn pictures_of_another_size_fail_and_unwanted_ones_are_dropped() {
    let engine = open(builtin(), Some(builtin_mmproj()), 1024);
    let mut stage = Stage::new(&engine, 4);
    let (prompt, patches) = seeing(&engine, [216, 46, 43]);
    let hash = prompt.images[0].image.hash();
    let mut cut = patches.clone();
    cut.pixels.pop();
    stage.answer(seeing_job(0, &prompt, greedy()));
    stage.scheduler.picture(hash, cut);
    stage.run();
    assert!(stage.told[&0].failed.as_ref().unwrap().contains("the pixels of a picture"));
    stage.answer(seeing_job(1, &prompt, greedy()));
    stage.scheduler.picture(hash, patches);
    stage.step();
    assert!(!stage.scheduler.is_idle());
    stage.scheduler.cancel(JobId(1));
    assert!(stage.scheduler.is_idle());
    stage.holds_only_what_is_kept();
}

/// Random numbers enough for a test.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn a_thousand_short_jobs_lose_no_cell_and_no_event() {
    let engine = tiny(256);
    let mut stage = Stage::new(&engine, 6);
    let mut dice = Dice(1);
    let (mut cancelled, mut n) = (Vec::new(), 0);
    while n < 1000 {
        for _ in 0..dice.roll(4) {
            let length = 2 + dice.roll(if n % 10 == 0 { 200 } else { 20 });
            let prompt = noise(dice.roll(4) as u32, length as usize);
            let affinity = [None, Some(dice.roll(3))][n as usize % 2];
            let new = job(n, &prompt, endless(&engine), 1 + dice.roll(6) as usize);
            stage.scheduler.submit(Job { affinity, ..new });
            n += 1;
        }
        let any = JobId(n.saturating_sub(dice.roll(12)));
        match dice.roll(8) {
            0 => {
                let is_over = stage.told.get(&any.0).is_some_and(Told::is_over);
                if any.0 < n && !is_over {
                    cancelled.push(any.0);
                }
                stage.scheduler.cancel(any);
            }
            1 => stage.scheduler.pause(any, true),
            2 | 3 => stage.scheduler.pause(any, false),
            _ => {}
        }
        stage.step();
        let load = stage.scheduler.load();
        assert!(load.n_running <= 6 && load.n_kept <= kept::MAX_KEPT);
        assert_eq!(load.n_cells - load.n_cells_used, engine.n_cells_free());
    }
    (0..n).for_each(|id| stage.scheduler.pause(JobId(id), false));
    stage.run();
    for id in 0..n {
        let is_over = stage.told.get(&id).is_some_and(Told::is_over);
        assert_ne!(is_over, cancelled.contains(&id), "job {id}");
    }
    stage.holds_only_what_is_kept();
    while stage.scheduler.kept.evict(&[]) {}
    assert_eq!(engine.n_cells_free(), 256);
}

#[test]
fn a_scheduler_may_live_on_a_thread_of_its_own() {
    fn check<T: Send>() {}
    check::<Scheduler>();
    check::<Job>();
    check::<Event>();
}
