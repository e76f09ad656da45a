//! Models spread over devices: GPUs to ggml, servers in threads of this process.
//!
//! They compute what the processor computes, so whatever differs was put in the wrong place. Their memory is
//! their own: a tensor that never got there is not found by chance.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gust::engine::{BatchRow, DeviceOptions, Engine, EngineOptions, Error, PassOutputs, Session};
use gust::ggml::{DType, Device, rpc};
use gust::gguf::Gguf;
use gust::model;

use crate::model::{argmax, difference, golden_file};
use crate::vision_tower::{BLUE, RED, picture, seeing_prompt};

/// Files of `tests/golden/model`: heads of several sizes and groups, attention temperature.
const RANDOM_MODELS: [&str; 4] = [
    "gqa12-temperature.gguf",
    "gqa2-head-wide.gguf",
    "gqa4-temperature-head-64.gguf",
    "llama-gqa2.gguf",
];

/// How a model is spread.
#[derive(Debug, Clone, Copy)]
struct Spread {
    n_gpu: usize,
    gpu_layers: u32,
    kv_offload: bool,
    join: bool,
}

impl Spread {
    fn over(n_gpu: usize, gpu_layers: u32) -> Self {
        Spread { n_gpu, gpu_layers, kv_offload: true, join: false }
    }

    fn joined(n_gpu: usize, gpu_layers: u32) -> Self {
        Spread { join: true, ..Spread::over(n_gpu, gpu_layers) }
    }
}

fn every_spread(n_layer: u32, n_head_kv: u32) -> Vec<Spread> {
    let layers = [0, 1, n_layer.div_ceil(2), n_layer, n_layer + 1];
    let one = layers.map(|n| Spread::over(1, n));
    let two = [n_layer.div_ceil(2), n_layer + 1].map(|n| Spread::over(2, n));
    let apart = one.into_iter().chain(two);
    let both = apart.flat_map(|spread| [spread, Spread { kv_offload: false, ..spread }]);
    let joined = layers.map(|n| Spread::joined(2, n));
    both.chain(joined.into_iter().filter(|_| n_head_kv > 1)).collect()
}

/// Held by each test: two engines on one server, at the same time in one process, is more than ggml's client
/// can do.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpus(n: usize) -> Vec<Device> {
    rpc::fake_gpus(n).unwrap()
}

fn options(spread: Spread) -> EngineOptions {
    EngineOptions {
        n_ctx: Some(512),
        devices: DeviceOptions {
            gpus: gpus(spread.n_gpu),
            gpu_layers: Some(spread.gpu_layers),
            join: spread.join,
            tensor_split: (spread.n_gpu > 1 && !spread.join).then(|| vec![2.0, 1.0]),
            kv_offload: spread.kv_offload,
            ..DeviceOptions::on_cpu()
        },
        ..EngineOptions::on_cpu(1)
    }
}

fn on_cpu() -> EngineOptions {
    EngineOptions { n_ctx: Some(512), ..EngineOptions::on_cpu(1) }
}

fn open(gguf: Gguf, mmproj: Option<Gguf>, options: &EngineOptions) -> Arc<Engine> {
    Engine::open(gguf, mmproj, options, &mut |_, _| {}).unwrap()
}

/// Logits of every token, and the greedy reply to them.
fn logits_and_reply(engine: &Arc<Engine>, tokens: &[u32]) -> (Vec<f32>, Vec<u32>) {
    let mut session = Session::new(engine);
    let mut logits = Vec::new();
    let row = BatchRow { session: &mut session, tokens, images: &[], n_logits: tokens.len() };
    engine.forward(&mut [row], &mut logits).unwrap();
    let n_vocab = engine.hparams().n_vocab as usize;
    let mut last = logits[logits.len() - n_vocab..].to_vec();
    let reply = (0..16).map(|_| {
        let token = argmax(&last);
        session.step(token, &mut last).unwrap();
        token
    });
    let reply = reply.collect();
    (logits, reply)
}

/// Mean negative log-likelihood of each token after the first.
fn nll(logits: &[f32], tokens: &[u32]) -> f64 {
    let n_vocab = logits.len() / tokens.len();
    let rows = logits.chunks(n_vocab).zip(&tokens[1..]);
    let one = |(row, &next): (&[f32], &u32)| {
        let max = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() - f64::from(row[next as usize] - max)
    };
    rows.map(one).sum::<f64>() / (tokens.len() - 1) as f64
}

/// A question to a model that can answer, and ids for one of random weights.
fn tokens(engine: &Engine) -> Vec<u32> {
    let n_vocab = engine.hparams().n_vocab;
    if n_vocab < 4096 {
        return (0..40).map(|i| i * 7 % n_vocab).collect();
    }
    seeing_prompt(engine, &[], "What is the capital of Germany?").tokens
}

/// What was planned is what was taken: weights and KV within 1 %, working memory within 5 %.
fn check_plan(engine: &Engine, what: &str) {
    for (planned, used) in engine.fit().rooms.iter().zip(engine.uses()) {
        let near = |a: u64, b: u64, share: f64| a.abs_diff(b) as f64 <= share * b as f64;
        let name = used.device.name();
        assert!(
            near(planned.weights, used.weights, 0.01),
            "{what}: weights on {name}: {planned:?}, {used:?}"
        );
        assert!(near(planned.kv, used.kv, 0.01), "{what}: KV on {name}: {planned:?}, {used:?}");
        assert!(
            near(planned.compute, used.compute, 0.05),
            "{what}: compute on {name}: {planned:?}, {used:?}"
        );
    }
}

fn check_text(make: impl Fn() -> Gguf, name: &str) {
    let engine = open(make(), None, &on_cpu());
    let (n_layer, n_head_kv) = (engine.hparams().n_layer, engine.hparams().n_head_kv);
    let tokens: Vec<u32> = tokens(&engine);
    let (expected, expected_reply) = logits_and_reply(&engine, &tokens);
    check_plan(&engine, name);
    for spread in every_spread(n_layer, n_head_kv) {
        let what = format!("{name}: {spread:?}");
        let engine = open(make(), None, &options(spread));
        let on_gpus: usize = engine
            .uses()
            .iter()
            .filter(|used| !used.device.is_cpu())
            .map(|used| used.n_layer + usize::from(used.has_output))
            .sum();
        assert_eq!(on_gpus, spread.gpu_layers as usize, "{what}");
        let kv_on_gpus: u64 =
            engine.uses().iter().filter(|used| !used.device.is_cpu()).map(|used| used.kv).sum();
        assert_eq!(kv_on_gpus > 0, spread.kv_offload && spread.gpu_layers > 1, "{what}");
        check_plan(&engine, &what);
        let (logits, reply) = logits_and_reply(&engine, &tokens);
        let apart = difference(&logits, &expected);
        assert!(apart < 1e-2, "{what}: {apart:e}");
        let nlls = [nll(&logits, &tokens), nll(&expected, &tokens)];
        assert!((nlls[0] - nlls[1]).abs() < 1e-3, "{what}: {nlls:?}");
        assert_eq!(reply, expected_reply, "{what}");
    }
}

#[test]
fn the_tiny_model_says_the_same_wherever_it_lies() {
    let _alone = alone();
    check_text(model::builtin, "tiny");
}

#[test]
fn random_models_say_the_same_wherever_they_lie() {
    let _alone = alone();
    for name in RANDOM_MODELS {
        check_text(|| Gguf::open(&golden_file(name)).unwrap(), name);
    }
}

#[test]
fn pictures_are_seen_the_same_wherever_the_tower_lies() {
    let _alone = alone();
    let see = |options: &EngineOptions| {
        let engine = open(model::builtin(), Some(model::builtin_mmproj()), options);
        let image = picture(RED, BLUE);
        let prompt = seeing_prompt(&engine, &[&image], "What is this?");
        let mut session = Session::new(&engine);
        let mut logits = Vec::new();
        session.sync(&prompt, &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let on_gpu: u64 =
            engine.uses().iter().filter(|used| !used.device.is_cpu()).map(|used| used.vision).sum();
        (logits, on_gpu)
    };
    let n_layer = open(model::builtin(), None, &on_cpu()).hparams().n_layer;
    let (expected, _) = see(&EngineOptions { n_ctx: Some(2048), ..on_cpu() });
    let apart = [(1, 0), (1, n_layer / 2), (1, n_layer + 1), (2, n_layer + 1)];
    let joined = [n_layer / 2, n_layer + 1].map(|n| Spread::joined(2, n));
    for spread in apart.map(|(n_gpu, n)| Spread::over(n_gpu, n)).into_iter().chain(joined) {
        let (logits, on_gpu) = see(&EngineOptions { n_ctx: Some(2048), ..options(spread) });
        assert!(on_gpu > 0, "{spread:?}");
        let apart = difference(&logits, &expected);
        assert!(apart < 1e-2, "{spread:?}: {apart:e}");
        assert_eq!(argmax(&logits), argmax(&expected), "{spread:?}");
    }
}

#[test]
fn attention_by_scores_says_the_same() {
    let _alone = alone();
    let engine = open(model::builtin(), None, &on_cpu());
    let tokens = tokens(&engine);
    let (expected, expected_reply) = logits_and_reply(&engine, &tokens);
    for gpu_layers in [0, 3] {
        let spread = Spread::over(1, gpu_layers);
        let mut options = options(spread);
        options.devices.flash_attn = Some(false);
        let engine = open(model::builtin(), None, &options);
        check_plan(&engine, "by scores");
        let (logits, reply) = logits_and_reply(&engine, &tokens);
        let apart = difference(&logits, &expected);
        assert!(apart < 1e-2, "{gpu_layers}: {apart:e}");
        assert_eq!(reply, expected_reply);
        options.cache_types = [Some(DType::Q8_0); 2];
        let refused = Engine::open(model::builtin(), None, &options, &mut |_, _| {}).unwrap_err();
        assert!(matches!(refused, Error::QuantizedScores { .. }), "{refused}");
    }
}

#[test]
fn tensors_go_where_the_user_says() {
    let _alone = alone();
    let engine = open(model::builtin(), None, &on_cpu());
    let n_all = engine.uses()[0].weights;
    let tokens = tokens(&engine);
    let (_, expected_reply) = logits_and_reply(&engine, &tokens);
    let n_layer = engine.hparams().n_layer;
    let cpu = Device::cpu().unwrap();
    let over = |pattern: &str, device| (regex::Regex::new(pattern).unwrap(), device);
    let cases = [
        (0, over("ffn_(up|gate)", gpus(1)[0])),
        (n_layer + 1, over("ffn_(up|gate)", cpu)),
        (n_layer + 1, over("^output", cpu)),
        (n_layer + 1, over("", cpu)),
    ];
    for (gpu_layers, over) in cases {
        let mut options = options(Spread::over(1, gpu_layers));
        options.devices.overrides = vec![over];
        let engine = open(model::builtin(), None, &options);
        check_plan(&engine, "overrides");
        let [on_gpu, on_cpu] = [0, 1].map(|i| engine.uses()[i].weights);
        let wanted = match (gpu_layers, options.devices.overrides[0].0.as_str()) {
            (0, _) => 0 < on_gpu && on_gpu < on_cpu,
            (_, "") => on_gpu == 0 && on_cpu == n_all,
            _ => 0 < on_gpu && on_cpu < n_all,
        };
        assert!(wanted, "{:?}: {on_gpu} {on_cpu}", options.devices.overrides);
        let (_, reply) = logits_and_reply(&engine, &tokens);
        assert_eq!(reply, expected_reply, "{:?}", options.devices.overrides);
    }
}

#[test]
fn sessions_side_by_side_stay_apart_on_gpus() {
    let _alone = alone();
    let n_layer = open(model::builtin(), None, &on_cpu()).hparams().n_layer;
    for spread in [Spread::over(2, n_layer + 1), Spread::joined(2, n_layer + 1)] {
        check_side_by_side(&EngineOptions { n_slots: 4, ..options(spread) });
    }
}

fn check_side_by_side(options: &EngineOptions) {
    let engine = open(model::builtin(), None, options);
    let tokens = tokens(&engine);
    let alone = logits_and_reply(&engine, &tokens).1;
    let mut sessions: Vec<Session> = (0..4).map(|_| Session::new(&engine)).collect();
    let mut logits: Vec<Vec<f32>> = vec![Vec::new(); 4];
    for (session, logits) in sessions.iter_mut().zip(&mut logits) {
        session.sync(&tokens[..].into(), logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    }
    let n_vocab = engine.hparams().n_vocab as usize;
    for expected in alone {
        let next: Vec<[u32; 1]> = logits.iter().map(|logits| [argmax(logits)]).collect();
        assert!(next.iter().all(|next| *next == [expected]), "{next:?}, not {expected}");
        let rows = sessions.iter_mut().zip(&next);
        let mut rows: Vec<BatchRow<'_>> = rows
            .map(|(session, next)| BatchRow { session, tokens: next, images: &[], n_logits: 1 })
            .collect();
        let mut all = Vec::new();
        engine.forward(&mut rows, &mut all).unwrap();
        logits = all.chunks(n_vocab).map(<[f32]>::to_vec).collect();
    }
}

/// A server forgets graphs when memory is given back, as it is after every picture.
#[test]
fn a_reply_goes_on_after_another_picture() {
    let _alone = alone();
    let n_layer = open(model::builtin(), None, &on_cpu()).hparams().n_layer;
    let say = |options: &EngineOptions| {
        let options = EngineOptions { n_ctx: Some(2048), ..options.clone() };
        let engine = open(model::builtin(), Some(model::builtin_mmproj()), &options);
        let tokens = tokens(&engine);
        let mut session = Session::new(&engine);
        let mut logits = Vec::new();
        session
            .sync(&tokens[..].into(), &mut logits, &mut |_, _| ControlFlow::Continue(()))
            .unwrap();
        let mut reply = Vec::new();
        for colour in [RED, BLUE, RED] {
            for _ in 0..3 {
                reply.push(argmax(&logits));
                session.step(*reply.last().unwrap(), &mut logits).unwrap();
            }
            let patches = engine.patch_config().unwrap().preprocess(&picture(colour, [255; 3]));
            engine.embed_image(&patches, &mut |_, _| ControlFlow::Continue(())).unwrap();
        }
        reply
    };
    let expected = say(&on_cpu());
    for spread in [Spread::over(1, n_layer + 1), Spread::joined(2, n_layer + 1)] {
        assert_eq!(say(&options(spread)), expected, "{spread:?}");
    }
}

#[test]
fn joined_gpus_share_as_they_are_told() {
    let _alone = alone();
    let make = || Gguf::open(&golden_file("gqa1-mscale-half.gguf")).unwrap();
    let engine = open(make(), None, &on_cpu());
    let (tokens, n_all) = (tokens(&engine), engine.hparams().n_layer + 1);
    let (expected, expected_reply) = logits_and_reply(&engine, &tokens);
    let cases = [(2, Some(vec![3.0, 1.0])), (3, None), (3, Some(vec![1.0, 1.0, 2.0])), (4, None)];
    for (n_gpu, split) in cases {
        let mut options = options(Spread::joined(n_gpu, n_all));
        options.devices.tensor_split = split.clone();
        let engine = open(make(), None, &options);
        check_plan(&engine, &format!("{n_gpu} GPUs, {split:?}"));
        let (logits, reply) = logits_and_reply(&engine, &tokens);
        let apart = difference(&logits, &expected);
        assert!(apart < 1e-2, "{split:?}: {apart:e}");
        assert_eq!(reply, expected_reply, "{split:?}");
    }
    for (n_gpu, split) in [(5, None), (2, Some(vec![9.0, 1.0])), (2, Some(vec![1.0, 0.0]))] {
        let mut options = options(Spread::joined(n_gpu, n_all));
        options.devices.tensor_split = split;
        let refused = Engine::open(make(), None, &options, &mut |_, _| {}).unwrap_err();
        assert!(matches!(refused, Error::NoPart(_)), "{refused}");
    }
    let mut options = options(Spread::joined(2, n_all));
    options.devices.flash_attn = Some(false);
    let refused = Engine::open(make(), None, &options, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, Error::JoinedScores), "{refused}");
}

#[test]
fn logits_of_many_tokens_are_planned_for() {
    let _alone = alone();
    const N: u32 = 256;
    let n_layer = open(model::builtin(), None, &on_cpu()).hparams().n_layer;
    for gpu_layers in [0, 1, n_layer + 1] {
        let spread = Spread::over(1, gpu_layers);
        let options = EngineOptions { outputs: PassOutputs::Logits(N), ..options(spread) };
        let engine = open(model::builtin(), None, &options);
        check_plan(&engine, "many logits");
        let with_output = engine.uses().iter().find(|used| used.has_output).unwrap();
        let n_bytes = u64::from(4 * N * engine.hparams().n_vocab);
        assert!(with_output.compute >= n_bytes, "{with_output:?}, {n_bytes}");
    }
}
