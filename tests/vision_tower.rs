//! The vision tower beside transformers: rows of seeded random towers, and what language models make of them.
//!
//! `scripts/golden/vision_tower.py` makes the files under `tests/golden/vision_tower`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gust::engine::{BatchRow, Engine, EngineOptions, Error, ImageMark, ImageRows, Session};
use gust::ggml::DType;
use gust::gguf::Gguf;
use gust::model::{self, YarnPolicy};
use gust::vision::{Grid, ImageHash, ImagePatches};

use crate::model::difference;

/// Largest difference, relative to the largest value.
const TOLERANCE: f32 = 1e-3;

struct Golden {
    name: String,
    cases: Vec<Case>,
    /// Pixels along each side of a token.
    side: usize,
}

struct Case {
    grids: Vec<Grid>,
    tokens: Vec<u32>,
    /// Of each picture `[n_tokens][n_embd]`.
    rows: Vec<Vec<f32>>,
    logits: Vec<f32>,
}

fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision_tower").join(name)
}

fn goldens() -> Vec<Golden> {
    let index = std::fs::read(golden_file("index.json")).unwrap();
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
    index
        .iter()
        .map(|entry| {
            let name = entry["name"].as_str().unwrap().to_owned();
            let bytes = std::fs::read(golden_file(&format!("{name}.f32"))).unwrap();
            let mut floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let mut take = |n: usize| floats.by_ref().take(n).collect::<Vec<f32>>();
            let n_embd = number(&entry["text"]["embd"]);
            let cases = entry["cases"].as_array().unwrap().iter().map(|case| {
                let images: Vec<[u32; 2]> = serde_json::from_value(case["images"].clone()).unwrap();
                let grids: Vec<Grid> =
                    images.into_iter().map(|[cols, rows]| Grid { cols, rows }).collect();
                let n_rows = |grid: &Grid| (grid.cols * grid.rows) as usize;
                Case {
                    rows: grids.iter().map(|grid| take(n_rows(grid) * n_embd)).collect(),
                    logits: take(number(&entry["n_vocab"])),
                    tokens: serde_json::from_value(case["token_ids"].clone()).unwrap(),
                    grids,
                }
            });
            let cases = cases.collect();
            Golden { name, cases, side: number(&entry["patch"]) * number(&entry["merge"]) }
        })
        .collect()
}

/// The pixels that the golden script computes.
fn patches(seed: u64, grid: Grid, side: usize) -> ImagePatches {
    let n = 3 * (grid.cols * grid.rows) as usize * side * side;
    let pixel = |i: u64| {
        let bits = (i.wrapping_mul(2_654_435_761) + seed * 40_503) & 0xffff_ffff;
        (bits as f64 / f64::from(1u32 << 30) - 2.0) as f32
    };
    ImagePatches { grid, pixels: (0..n as u64).map(pixel).collect() }
}

fn open(gguf: Gguf, mmproj: Option<Gguf>) -> Result<Arc<Engine>, Error> {
    let options = EngineOptions {
        n_ctx: Some(4096),
        n_threads: Some(1),
        cache_types: [Some(DType::F32); 2],
        repack: true,
        yarn: YarnPolicy::Correct,
    };
    Engine::open(gguf, mmproj, &options, &mut |_, _| {})
}

fn golden_engine(name: &str) -> Arc<Engine> {
    let file = |name: String| Gguf::open(&golden_file(&name)).unwrap();
    open(file(format!("{name}.gguf")), Some(file(format!("mmproj-{name}.gguf")))).unwrap()
}

fn embed(engine: &Engine, patches: &ImagePatches) -> Vec<f32> {
    engine.embed_image(patches, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// The rows of each picture and where its tokens lie.
fn image_rows(case: &Case, rows: &[Vec<f32>]) -> Vec<ImageRows> {
    const IMG: u32 = 10;
    let mut end = 0;
    let images = case.grids.iter().zip(rows).enumerate();
    images
        .map(|(i, (&grid, rows))| {
            let start = end + case.tokens[end..].iter().position(|&t| t == IMG).unwrap();
            end = start + grid.n_tokens();
            let mark = ImageMark { start, grid, hash: ImageHash([i as u8; 32]) };
            ImageRows { mark, rows: rows.as_slice().into() }
        })
        .collect()
}

#[test]
fn rows_and_logits_equal_transformers() {
    for golden in goldens() {
        let engine = golden_engine(&golden.name);
        for (i, case) in golden.cases.iter().enumerate() {
            let of = |what: &str| format!("{what} of {} case {i}", golden.name);
            let seen = case.grids.iter().zip(0..);
            let rows: Vec<Vec<f32>> =
                seen.map(|(&grid, i)| embed(&engine, &patches(i, grid, golden.side))).collect();
            for (found, expected) in rows.iter().zip(&case.rows) {
                let d = difference(found, expected);
                assert!(d < TOLERANCE, "{}: {d:e}", of("rows"));
            }
            let images = image_rows(case, &rows);
            for chunk in [512, 7] {
                if case.tokens.len() / chunk > 100 {
                    continue; // the largest picture, seven tokens at a time: too slow unoptimised
                }
                let mut session = Session::new(&engine);
                let mut logits = Vec::new();
                for tokens in case.tokens.chunks(chunk) {
                    logits.clear();
                    let images = &images[..];
                    let row = BatchRow { session: &mut session, tokens, images, n_logits: 1 };
                    engine.forward(&mut [row], &mut logits).unwrap();
                }
                let d = difference(&logits, &case.logits);
                assert!(d < TOLERANCE, "{} in chunks of {chunk}: {d:e}", of("logits"));
            }
        }
    }
}

#[test]
fn pictures_and_text_of_several_sessions_share_a_batch() {
    let golden = goldens().swap_remove(0);
    let engine = golden_engine(&golden.name);
    let n_vocab = engine.hparams().n_vocab as usize;
    let images: Vec<Vec<ImageRows>> =
        golden.cases.iter().map(|case| image_rows(case, &case.rows)).collect();
    let mut sessions: Vec<Session> = golden.cases.iter().map(|_| Session::new(&engine)).collect();
    let rows = sessions.iter_mut().zip(&golden.cases).zip(&images);
    let mut rows: Vec<BatchRow<'_>> = rows
        .map(|((session, case), images)| BatchRow {
            session,
            tokens: &case.tokens,
            images,
            n_logits: 1,
        })
        .collect();
    let mut logits = Vec::new();
    engine.forward(&mut rows, &mut logits).unwrap();
    for (case, logits) in golden.cases.iter().zip(logits.chunks(n_vocab)) {
        let d = difference(logits, &case.logits);
        assert!(d < TOLERANCE, "{d:e}");
    }
}

#[test]
fn a_break_ends_a_picture_between_two_stages() {
    let golden = goldens().swap_remove(0);
    let engine = golden_engine(&golden.name);
    let patches = patches(0, golden.cases[0].grids[0], golden.side);
    let mut told = Vec::new();
    let broken = engine.embed_image(&patches, &mut |done, total| {
        told.push((done, total));
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(Error::Cancelled)));
    assert_eq!(told, [(0, 4), (1, 4), (2, 4)]);
    let d = difference(&embed(&engine, &patches), &golden.cases[0].rows[0]);
    assert!(d < TOLERANCE, "after the break: {d:e}");
}

#[test]
fn the_builtin_model_sees_only_with_its_tower() {
    let blind = open(model::builtin(), None).unwrap();
    assert!(blind.patch_config().is_none());
    let engine = open(model::builtin(), Some(model::builtin_mmproj())).unwrap();
    assert_eq!(engine.patch_config().unwrap().image_size, 224);
    let patches = patches(0, Grid { cols: 3, rows: 2 }, 28);
    let refused = blind.embed_image(&patches, &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::NoVision)));
    assert_eq!(embed(&engine, &patches).len(), 6 * 256);
}
