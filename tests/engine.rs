//! The engine's promises: batches change nothing, prefixes are shared, errors leave sessions whole.

use std::ops::ControlFlow;
use std::sync::Arc;

use gust::engine::{BatchRow, Engine, EngineOptions, Error, Session};
use gust::ggml::{Backend, DType, Device, Scheduler};
use gust::gguf::Gguf;
use gust::model::{
    self, InputSums, KvCache, ListShape, Placement, TextGraph, TextShape, Weights, YarnPolicy,
};

use crate::model::{argmax, difference, golden_file, open};
use crate::util::gguf_writer::{Writer, f32, u32};

fn tiny(n_ctx: u32, cache: DType) -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        n_threads: Some(1),
        cache_types: [Some(cache); 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    Engine::open(model::builtin(), None, &options, &mut |_, _| {}).unwrap()
}

/// Eight different prompts in the tiny model's own chat format.
fn prompts(engine: &Engine) -> Vec<Vec<u32>> {
    let tokenizer = engine.tokenizer();
    let control = |name| tokenizer.control_token(name).unwrap();
    ["Hi", "Capital of Japan?", "Thanks", "What is the capital of Germany?", "How are you?"]
        .iter()
        .chain(&["Tell me a story about Tom.", "Who are you?", "Capital of Italy?"])
        .map(|text| {
            let mut ids = vec![tokenizer.bos(), control("[MODEL_SETTINGS]")];
            tokenizer.encode_into("{\"reasoning_effort\": \"none\"}", &mut ids);
            ids.extend([control("[/MODEL_SETTINGS]"), control("[INST]")]);
            tokenizer.encode_into(text, &mut ids);
            ids.push(control("[/INST]"));
            ids
        })
        .collect()
}

fn sync(session: &mut Session, prompt: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    session.sync(&prompt.into(), &mut logits, &mut |_, _| ControlFlow::Continue(())).unwrap();
    logits
}

/// Tokens one by one and tokens together look at the cache in different ways; what one has written the other
/// must find.
#[test]
fn a_long_reply_is_still_there_when_more_is_read() {
    let engine = tiny(2048, DType::F32);
    let tokens: Vec<u32> = (0..700).map(|i| 300 + i * 7 % 900).collect();
    let mut slow = Session::new(&engine);
    sync(&mut slow, &tokens[..10]);
    let mut logits = Vec::new();
    for &token in &tokens[10..500] {
        slow.step(token, &mut logits).unwrap();
    }
    let found = sync(&mut slow, &tokens);
    let expected = sync(&mut Session::new(&engine), &tokens);
    let apart = difference(&found, &expected);
    assert!(apart < 0.05, "{apart}");
}

fn answer_alone(engine: &Arc<Engine>, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut session = Session::new(engine);
    let mut logits = sync(&mut session, prompt);
    (0..n)
        .map(|_| {
            let token = argmax(&logits);
            session.step(token, &mut logits).unwrap();
            token
        })
        .collect()
}

#[test]
fn answers_are_the_same_alone_and_beside_seven_others() {
    let engine = tiny(4096, DType::F16);
    let n_vocab = engine.hparams().n_vocab as usize;
    let prompts = prompts(&engine);
    let mut sessions: Vec<Session> = prompts.iter().map(|_| Session::new(&engine)).collect();
    let mut logits = Vec::new();
    let rows = sessions.iter_mut().zip(&prompts);
    let mut rows: Vec<BatchRow<'_>> = rows
        .map(|(session, tokens)| BatchRow { session, tokens, images: &[], n_logits: 1 })
        .collect();
    engine.forward(&mut rows, &mut logits).unwrap();
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    for _ in 0..24 {
        let tokens: Vec<[u32; 1]> = logits.chunks(n_vocab).map(|row| [argmax(row)]).collect();
        for (answer, token) in answers.iter_mut().zip(&tokens) {
            answer.extend(token);
        }
        let rows = sessions.iter_mut().zip(&tokens);
        let mut rows: Vec<BatchRow<'_>> = rows
            .map(|(session, tokens)| BatchRow { session, tokens, images: &[], n_logits: 1 })
            .collect();
        logits.clear();
        engine.forward(&mut rows, &mut logits).unwrap();
    }
    for (prompt, answer) in prompts.iter().zip(&answers) {
        assert_eq!(&answer_alone(&engine, prompt, 24), answer);
    }
}

#[test]
fn logits_in_a_batch_differ_by_less_than_1e_4() {
    let engine = open(&golden_file("gqa2-head-wide.gguf"), DType::F32, true);
    let texts: Vec<Vec<u32>> =
        (0..8u32).map(|i| (0..20 + i).map(|t| 1000 + (t * 7 + i * 13) % 256).collect()).collect();
    let mut sessions: Vec<Session> = texts.iter().map(|_| Session::new(&engine)).collect();
    let mut together = Vec::new();
    let rows = sessions.iter_mut().zip(&texts);
    let mut rows: Vec<BatchRow<'_>> = rows
        .map(|(session, tokens)| BatchRow { session, tokens, images: &[], n_logits: tokens.len() })
        .collect();
    engine.forward(&mut rows, &mut together).unwrap();
    let mut alone = Vec::new();
    for text in &texts {
        let mut session = Session::new(&engine);
        let row =
            BatchRow { session: &mut session, tokens: text, images: &[], n_logits: text.len() };
        engine.forward(&mut [row], &mut alone).unwrap();
    }
    let d = difference(&together, &alone);
    assert!(d < 1e-4, "{d:e}");
}

#[test]
fn every_cache_type_stays_near_f32() {
    let logits = |cache| {
        let engine = tiny(256, cache);
        let prompts = prompts(&engine).concat();
        sync(&mut Session::new(&engine), &prompts)
    };
    let exact = logits(DType::F32);
    for (cache, tolerance) in
        [(DType::F16, 0.02), (DType::BF16, 0.02), (DType::Q8_0, 0.02), (DType::Q4_0, 0.2)]
    {
        let d = difference(&logits(cache), &exact);
        assert!(d > 0.0 && d < tolerance, "{cache:?}: {d}");
    }
}

/// Then the cells of others are passed by.
#[test]
fn prompts_read_the_same_beside_thousands_of_tokens_of_others() {
    for cache in [DType::F32, DType::F16, DType::Q8_0] {
        let engine = tiny(4096, cache);
        let text = |start: u32, n: u32| -> Vec<u32> {
            (0..n).map(|i| 1000 + (start + 7 * i) % 900).collect()
        };
        let (prefix, more, reply) = (text(0, 40), [text(1, 30), text(2, 50)], text(3, 60));
        // Two prompts with a common beginning, and a reply that goes on.
        let read = || {
            let mut first = Session::new(&engine);
            sync(&mut first, &prefix);
            let mut second = first.fork(prefix.len());
            let mut writing = Session::new(&engine);
            sync(&mut writing, &reply);
            let sessions = [&mut writing, &mut first, &mut second];
            let tokens = [&reply[..1], &more[0], &more[1]];
            let row = |(session, tokens)| BatchRow { session, tokens, images: &[], n_logits: 1 };
            let mut rows: Vec<_> = sessions.into_iter().zip(tokens).map(row).collect();
            let mut logits = Vec::new();
            engine.forward(&mut rows, &mut logits).unwrap();
            logits
        };
        let alone = read();
        let mut others = Session::new(&engine);
        sync(&mut others, &text(4, 2500));
        let beside = read();
        let off = difference(&alone, &beside);
        assert!(off <= 1e-4, "{cache:?}: {off}");
    }
}

#[test]
fn sync_reuses_the_common_prefix_and_changes_nothing() {
    let engine = tiny(2048, DType::F16);
    let prompts = prompts(&engine);
    let mut session = Session::new(&engine);
    sync(&mut session, &prompts[1]);
    let mut logits = Vec::new();
    let stats = session
        .sync(&prompts[7][..].into(), &mut logits, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    assert!(stats.n_reused > 4 && stats.n_reused + stats.n_evaluated == prompts[7].len());
    assert_eq!(session.tokens(), prompts[7]);
    let fresh = sync(&mut Session::new(&engine), &prompts[7]);
    assert!(difference(&logits, &fresh) < 2e-2);
    assert_eq!(argmax(&logits), argmax(&fresh));
}

#[test]
fn a_fork_shares_cells_and_outlives_its_origin() {
    let engine = tiny(64, DType::F16);
    let prompt = &prompts(&engine)[3];
    let mut origin = Session::new(&engine);
    let logits = sync(&mut origin, prompt);
    // Sixty-four cells hold three such timelines only because they share theirs.
    let mut forks: Vec<Session> = (0..3).map(|_| origin.fork(prompt.len())).collect();
    drop(origin);
    for fork in &mut forks {
        let mut next = Vec::new();
        fork.step(argmax(&logits), &mut next).unwrap();
        assert_eq!(fork.len(), prompt.len() + 1);
    }
}

#[test]
fn a_full_context_is_an_error_that_changes_nothing() {
    let engine = tiny(8, DType::F16);
    let mut session = Session::new(&engine);
    let mut logits = sync(&mut session, &[1, 1000, 1001, 1002, 1003, 1004, 1005]);
    session.step(1006, &mut logits).unwrap();
    let full = session.step(1007, &mut logits);
    assert!(
        matches!(full, Err(Error::ContextFull { n_tokens: 9, n_image_tokens: 0, n_ctx: 8 })),
        "{full:?}"
    );
    assert_eq!(session.len(), 8);
    session.rewind(3);
    session.step(1009, &mut logits).unwrap();
    assert_eq!(session.tokens(), [1, 1000, 1001, 1009]);
}

#[test]
fn a_break_keeps_what_was_computed() {
    let engine = tiny(2048, DType::F16);
    let prompt: Vec<u32> = (0..1200).map(|i| 1000 + i % 200).collect();
    let mut session = Session::new(&engine);
    let mut logits = Vec::new();
    let broken = session.sync(&prompt[..].into(), &mut logits, &mut |done, _| match done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(matches!(broken, Err(Error::Cancelled)));
    assert_eq!(session.len(), 512);
    let stats = session
        .sync(&prompt[..].into(), &mut logits, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(stats.n_reused, 512);
}

#[test]
fn a_token_beyond_the_vocabulary_is_refused() {
    let engine = tiny(64, DType::F16);
    let refused = Session::new(&engine).step(4096, &mut Vec::new());
    assert!(matches!(refused, Err(Error::TokenId { id: 4096, n_vocab: 4096 })));
}

#[test]
fn a_cache_type_that_does_not_fit_the_heads_is_refused() {
    let options = EngineOptions {
        n_ctx: Some(64),
        n_threads: Some(1),
        cache_types: [Some(DType::Q8_0); 2],
        repack: false,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    let gguf = Gguf::open(&golden_file("gqa12-temperature.gguf")).unwrap();
    let head = gguf.metadata().u32("mistral3.attention.key_length").unwrap().unwrap();
    let opened = Engine::open(gguf, None, &options, &mut |_, _| {});
    assert_eq!(opened.is_err(), !head.is_multiple_of(32), "heads of {head}");
}

/// ggml aborts when a graph outgrows the scheduler, and files with every optional tensor have the
/// largest graphs.
#[test]
fn graphs_of_any_depth_fit_the_scheduler() {
    for n_layer in [1, 4, 20, 40, 41, 82, 84, 88] {
        let gguf = Arc::new(Gguf::from_bytes("deep", deep_model(n_layer).bytes()).unwrap());
        let (hparams, _) = model::validate(&gguf, YarnPolicy::Correct).unwrap();
        let device = Device::cpu().unwrap();
        let placement = Placement::on_cpu(device, hparams.n_layer as usize);
        let weights = Weights::load(&gguf, &hparams, &placement, &mut |_, _| {}).unwrap();
        let kv = KvCache::new(&hparams, 256, [DType::F32; 2], &placement).unwrap();
        let backend = Backend::new(device, 1).unwrap();
        let mut sched = Scheduler::new(vec![backend], TextGraph::n_nodes_max(&hparams));
        for (n_outputs, sums, is_gathered) in
            [(1, InputSums::Nothing, true), (0, InputSums::LayersAndOutput, false)]
        {
            let shape = TextShape {
                n_tokens: 2,
                n_kv: 256,
                is_gathered,
                lists: ListShape::default(),
                n_outputs,
                n_image_rows: 2,
                sums,
            };
            sched.reserve(TextGraph::build(&hparams, &weights, &kv, shape).graph).unwrap();
        }
    }
}

fn deep_model(n_layer: u32) -> Writer {
    let mut writer = Writer::small_model();
    writer.set("mistral3.block_count", u32(n_layer));
    writer.set("mistral3.attention.temperature_scale", f32(0.1));
    for layer in 0..n_layer {
        for (name, dims) in [
            ("attn_q", [8, 8]),
            ("attn_k", [8, 4]),
            ("attn_v", [8, 4]),
            ("attn_output", [8, 8]),
            ("ffn_gate", [8, 16]),
            ("ffn_up", [8, 16]),
            ("ffn_down", [16, 8]),
        ] {
            if layer > 0 {
                writer.add_tensor(&format!("blk.{layer}.{name}.weight"), &dims);
            }
            writer.add_tensor(&format!("blk.{layer}.{name}.bias"), &dims[1..]);
            writer.add_tensor(&format!("blk.{layer}.{name}.scale"), &[1]);
        }
        if layer > 0 {
            writer.add_tensor(&format!("blk.{layer}.attn_norm.weight"), &[8]);
            writer.add_tensor(&format!("blk.{layer}.ffn_norm.weight"), &[8]);
        }
    }
    writer
}
