//! The forward pass beside transformers: seeded random models, logits and greedy continuations.
//!
//! `scripts/golden/model.py` makes the files under `tests/golden/model`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gust::engine::{BatchRow, Engine, EngineOptions, Session};
use gust::ggml::DType;
use gust::gguf::Gguf;
use gust::model::YarnPolicy;

/// Largest difference of a logit, relative to the largest logit of the text.
const TOLERANCE: f32 = 1e-3;

struct Golden {
    name: String,
    path: PathBuf,
    tokens: Vec<u32>,
    n_vocab: usize,
    /// `[n_tokens][n_vocab]`
    logits: Vec<f32>,
    n_prompt: usize,
    greedy: Vec<u32>,
    greedy_gaps: Vec<f64>,
}

/// A file under `tests/golden/model`.
pub(crate) fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(name)
}

fn goldens() -> Vec<Golden> {
    let dir = golden_file("");
    let index = std::fs::read(dir.join("index.json")).unwrap();
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let golden = |entry: &serde_json::Value| {
        let bytes = std::fs::read(dir.join(text(&entry["logits"]))).unwrap();
        let floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        Golden {
            name: text(&entry["name"]),
            path: dir.join(text(&entry["gguf"])),
            tokens: ids(&entry["token_ids"]),
            n_vocab: entry["n_vocab"].as_u64().unwrap() as usize,
            logits: floats.collect(),
            n_prompt: entry["n_prompt"].as_u64().unwrap() as usize,
            greedy: ids(&entry["greedy"]),
            greedy_gaps: serde_json::from_value(entry["greedy_gaps"].clone()).unwrap(),
        }
    };
    index.iter().map(golden).collect()
}

pub(crate) fn open(path: &Path, cache: DType, repack: bool) -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(2048),
        n_threads: Some(1),
        cache_types: [Some(cache), Some(cache)],
        repack,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    Engine::open(Gguf::open(path).unwrap(), None, &options, &mut |_, _| {}).unwrap()
}

/// Largest difference, relative to the largest value of `expected`.
pub(crate) fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) }) / scale
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
fn logits_equal_transformers_at_every_position() {
    for golden in goldens() {
        let engine = open(&golden.path, DType::F32, true);
        for chunk in [golden.tokens.len(), 7, 1] {
            let mut session = Session::new(&engine);
            let mut logits = Vec::new();
            for tokens in golden.tokens.chunks(chunk) {
                let row =
                    BatchRow { session: &mut session, tokens, images: &[], n_logits: tokens.len() };
                engine.forward(&mut [row], &mut logits).unwrap();
            }
            let d = difference(&logits, &golden.logits);
            assert!(d < TOLERANCE, "{} in chunks of {chunk}: {d:e}", golden.name);
            assert_eq!(logits.len(), golden.tokens.len() * golden.n_vocab);
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    for golden in goldens() {
        let engine = open(&golden.path, DType::F32, true);
        let mut session = Session::new(&engine);
        let mut logits = Vec::new();
        let prompt = &golden.tokens[..golden.n_prompt];
        session
            .sync(&prompt.into(), &mut logits, &mut |_, _| std::ops::ControlFlow::Continue(()))
            .unwrap();
        for (step, &expected) in golden.greedy.iter().enumerate() {
            let token = argmax(&logits);
            if token != expected {
                let gap = golden.greedy_gaps[step];
                assert!(gap < 1e-3, "{}: step {step}: {token}, not {expected}", golden.name);
                break;
            }
            session.step(token, &mut logits).unwrap();
        }
    }
}
