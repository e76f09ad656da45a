//! The vision tower beside transformers: rows of seeded random towers, and what language models make of them.
//!
//! `scripts/golden/vision_tower.py` makes the files under `tests/golden/vision_tower`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gust::engine::{
    BatchRow, Engine, EngineOptions, Error, ImageMark, ImageRows, ImageSpan, Prompt, Session,
    SyncStats,
};
use gust::ggml::{Backend, DType, Device, Scheduler};
use gust::gguf::Gguf;
use gust::model::{
    self, Placement, Projector, VisionGraph, VisionState, VisionWeights, YarnPolicy, lay_out,
};
use gust::vision::{Grid, Image, ImageHash, ImagePatches};

use crate::model::{argmax, difference};
use crate::util::gguf_writer::{Writer, u32};

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
    open_with(gguf, mmproj, 4096)
}

fn open_with(gguf: Gguf, mmproj: Option<Gguf>, n_ctx: u32) -> Result<Arc<Engine>, Error> {
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        n_threads: Some(1),
        cache_types: [Some(DType::F32); 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
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
    let cancelled = engine.embed_image(&patches, &mut |done, _| {
        if done == 1 {
            engine.cancel();
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
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

/// A square of one colour in the middle of another.
pub(crate) fn picture(background: [u8; 3], square: [u8; 3]) -> Arc<Image> {
    let inside = |x: u32| (42..70).contains(&x);
    let pixel = |x, y| image::Rgb(if inside(x) && inside(y) { square } else { background });
    let rgb = image::RgbImage::from_fn(112, 112, pixel);
    let mut png = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut png, image::ImageFormat::Png).unwrap();
    Arc::new(Image::decode(png.into_inner()).unwrap())
}

/// Text, pictures and text again.
pub(crate) fn seeing_prompt(engine: &Engine, images: &[&Arc<Image>], question: &str) -> Prompt {
    let tokenizer = engine.tokenizer();
    let control = |name| tokenizer.control_token(name).unwrap();
    let mut prompt = Prompt::from(&[tokenizer.bos(), control("[MODEL_SETTINGS]")][..]);
    tokenizer.encode_into("{\"reasoning_effort\": \"none\"}", &mut prompt.tokens);
    prompt.tokens.extend([control("[/MODEL_SETTINGS]"), control("[INST]")]);
    for &image in images {
        let grid = engine.patch_config().unwrap().grid(image.width(), image.height());
        let start = prompt.tokens.len();
        prompt.images.push(ImageSpan { start, grid, image: image.clone() });
        for row in 0..grid.rows {
            prompt.tokens.extend(vec![control("[IMG]"); grid.cols as usize]);
            let is_last = row + 1 == grid.rows;
            prompt.tokens.push(control(if is_last { "[IMG_END]" } else { "[IMG_BREAK]" }));
        }
    }
    tokenizer.encode_into(question, &mut prompt.tokens);
    prompt.tokens.push(control("[/INST]"));
    prompt
}

pub(crate) const RED: [u8; 3] = [216, 46, 43];
pub(crate) const BLUE: [u8; 3] = [39, 85, 208];
const YELLOW: [u8; 3] = [251, 221, 52];

fn seeing() -> Arc<Engine> {
    open(model::builtin(), Some(model::builtin_mmproj())).unwrap()
}

/// The work that `sync` told of beside the tokens, and the logits.
fn sync(session: &mut Session, prompt: &Prompt) -> (usize, SyncStats, Vec<f32>) {
    let (mut logits, mut n_total) = (Vec::new(), 0);
    let stats = session.sync(prompt, &mut logits, &mut |done, total| {
        assert!(done <= total);
        n_total = total;
        ControlFlow::Continue(())
    });
    (n_total - prompt.tokens.len(), stats.unwrap(), logits)
}

#[test]
fn the_builtin_model_names_colours() {
    let engine = seeing();
    for (background, name) in [(RED, "red"), (BLUE, "blue"), (YELLOW, "yellow")] {
        let image = picture(background, [255; 3]);
        let prompt = seeing_prompt(&engine, &[&image], "What is the background colour?");
        let mut session = Session::new(&engine);
        let (_, _, mut logits) = sync(&mut session, &prompt);
        let mut answer = Vec::new();
        while answer.last() != Some(&engine.tokenizer().eos()) && answer.len() < 16 {
            let token = argmax(&logits);
            answer.push(token);
            session.step(token, &mut logits).unwrap();
        }
        let answer = String::from_utf8_lossy(&engine.tokenizer().decode(&answer)).into_owned();
        assert!(answer.contains(name), "{name}: {answer}");
    }
}

#[test]
fn a_picture_in_the_prefix_is_reused_and_another_is_not() {
    let engine = seeing();
    let [a, b] = [picture(RED, BLUE), picture(RED, YELLOW)];
    let short = seeing_prompt(&engine, &[&a], "Hi");
    let long = seeing_prompt(&engine, &[&a], "Describe this image.");
    let other = seeing_prompt(&engine, &[&b], "Describe this image.");
    let n_image = short.images[0].grid.n_tokens();
    let after = short.images[0].start + n_image;

    let mut session = Session::new(&engine);
    let (n_looked_at, stats, _) = sync(&mut session, &short);
    assert_eq!((n_looked_at, stats.n_reused), (n_image, 0));
    let (n_looked_at, stats, logits) = sync(&mut session, &long);
    assert_eq!((n_looked_at, stats.n_reused >= after), (0, true));
    let (_, _, fresh) = sync(&mut Session::new(&engine), &long);
    assert!(difference(&logits, &fresh) < TOLERANCE);

    // The same tokens, another picture.
    assert_eq!(long.tokens, other.tokens);
    let mut fork = session.fork(session.len());
    let (n_looked_at, stats, logits) = sync(&mut fork, &other);
    assert_eq!((n_looked_at, stats.n_reused), (n_image, short.images[0].start));
    assert!(difference(&logits, &fresh) > 0.01);
    // A text of the same tokens is no picture either.
    let text = Prompt::from(&long.tokens[..]);
    assert_eq!(sync(&mut fork, &text).1.n_reused, short.images[0].start);
    // Cut in the middle of the picture, the rest is computed as before.
    session.rewind(after - n_image / 2);
    let (_, stats, logits) = sync(&mut session, &long);
    assert_eq!(stats.n_reused, after - n_image / 2);
    assert!(difference(&logits, &fresh) < TOLERANCE);
    // Cut within its last row's end, nothing of the picture is left to look at.
    session.rewind(after - 1);
    assert_eq!(sync(&mut session, &long).0, 0);
}

#[test]
fn a_model_without_a_tower_refuses_pictures() {
    let prompt = seeing_prompt(&seeing(), &[&picture(RED, BLUE)], "Hi");
    let blind = open(model::builtin(), None).unwrap();
    let mut session = Session::new(&blind);
    let refused = session.sync(&prompt, &mut Vec::new(), &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::NoVision)));
}

#[test]
fn a_picture_that_was_broken_off_is_looked_at_again() {
    let engine = seeing();
    let prompt = seeing_prompt(&engine, &[&picture(RED, BLUE)], "Hi");
    let n_image = prompt.images[0].grid.n_tokens();
    let (_, _, fresh) = sync(&mut Session::new(&seeing()), &prompt);
    let mut session = Session::new(&engine);
    for cancels in [false, true] {
        let broken = session.sync(&prompt, &mut Vec::new(), &mut |done, _| match done {
            0 => ControlFlow::Continue(()),
            _ if cancels => {
                engine.cancel();
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        });
        assert!(matches!(broken, Err(Error::Cancelled)), "{broken:?}");
        assert!(session.is_empty());
    }
    let (n_looked_at, _, logits) = sync(&mut session, &prompt);
    assert_eq!(n_looked_at, n_image);
    assert!(difference(&logits, &fresh) < TOLERANCE);
}

#[test]
fn a_picture_beyond_the_context_is_refused_before_it_is_looked_at() {
    let engine = open_with(model::builtin(), Some(model::builtin_mmproj()), 64).unwrap();
    let image = picture(RED, BLUE);
    let prompt = seeing_prompt(&engine, &[&image; 4], "Hi");
    let mut session = Session::new(&engine);
    let refused = session.sync(&prompt, &mut Vec::new(), &mut |_, _| panic!("something was done"));
    let n_tokens = prompt.tokens.len();
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!(
            "the context is full: {n_tokens} tokens, 80 of them for pictures, 64 fit; raise --ctx or \
             shorten the prompt"
        )
    );
}

#[test]
fn chunks_cut_pictures_anywhere() {
    let engine = seeing();
    let images: Vec<Arc<Image>> = (0..28).map(|i| picture([i * 9; 3], RED)).collect();
    let images: Vec<&Arc<Image>> = images.iter().collect();
    let prompt = seeing_prompt(&engine, &images, "Hi");
    assert!(prompt.tokens.len() > 512);
    let mut session = Session::new(&engine);
    let (n_looked_at, _, logits) = sync(&mut session, &prompt);
    assert_eq!(n_looked_at, 28 * prompt.images[0].grid.n_tokens());
    session.rewind(300);
    let (_, stats, again) = sync(&mut session, &prompt);
    assert_eq!(stats.n_reused, 300);
    assert!(difference(&logits, &again) < TOLERANCE);
}

/// Ollama and others put everything into one file.
#[test]
fn a_single_file_sees_as_two_do() {
    let whole = Writer::copy_of(&model::builtin(), usize::MAX)
        .with(Writer::copy_of(&model::builtin_mmproj(), usize::MAX));
    let single = open(Gguf::from_bytes("single", whole.bytes()).unwrap(), None).unwrap();
    assert_eq!(single.warnings(), []);
    let image = picture(YELLOW, BLUE);
    let logits = |engine: &Arc<Engine>| {
        let prompt = seeing_prompt(engine, &[&image], "Describe this image.");
        sync(&mut Session::new(engine), &prompt).2
    };
    assert!(difference(&logits(&single), &logits(&seeing())) < TOLERANCE);

    // Tensors without keys are not used, and that is said; keys with wrong tensors are refused.
    let tower = Writer::copy_of(&model::builtin_mmproj(), usize::MAX);
    let mut keyless = tower.clone();
    keyless.keys.clear();
    let bytes = Writer::copy_of(&model::builtin(), usize::MAX).with(keyless).bytes();
    let blind = open(Gguf::from_bytes("keyless", bytes).unwrap(), None).unwrap();
    assert!(blind.patch_config().is_none());
    assert!(blind.warnings()[0].to_string().contains("34 vision tensors are not used"));
    let mut short = tower;
    short.tensors.retain(|tensor| tensor.name != b"mm.2.weight");
    let bytes = Writer::copy_of(&model::builtin(), usize::MAX).with(short).bytes();
    let refused = open(Gguf::from_bytes("short", bytes).unwrap(), None).unwrap_err();
    assert!(refused.to_string().contains("'mm.2.weight': missing"), "{refused}");
}

/// Runs a tower stage by stage, without an engine.
fn run_tower(projector: &Projector, weights: &VisionWeights, patches: &ImagePatches) -> Vec<f32> {
    let device = Device::cpu().unwrap();
    let backend = Backend::new(device, 1).unwrap();
    let mut sched = Scheduler::new(vec![backend], VisionGraph::N_NODES_MAX);
    let state = VisionState::new(projector, patches.grid, device).unwrap();
    let mut out = Vec::new();
    for stage in VisionGraph::stages(projector) {
        let mut part = VisionGraph::build(projector, weights, &state, stage);
        let mut ready = sched.ready(&mut part.graph).unwrap();
        if let Some(input) = part.patches {
            ready.set(input, &lay_out(projector, patches));
        }
        if let Some([rows, cols]) = part.positions {
            ready.set(rows, &state.rows);
            ready.set(cols, &state.cols);
        }
        let computed = ready.compute().unwrap();
        if let Some(rows) = part.rows {
            computed.read(rows, &mut out);
        }
    }
    out
}

fn load_tower(gguf: Gguf) -> (Projector, VisionWeights) {
    let gguf = Arc::new(gguf);
    let projector = Projector::from_gguf(&gguf).unwrap();
    model::check_vision_tensors(&gguf, &projector).unwrap();
    let device = Device::cpu().unwrap();
    let placement = Placement::on_cpu(device, 0);
    let weights = VisionWeights::load(&gguf, &projector, &placement, &mut |_, _| {}).unwrap();
    (projector, weights)
}

#[test]
fn zeros_after_each_head_change_nothing() {
    let gguf = Gguf::open(&golden_file("mmproj-head-104.gguf")).unwrap();
    let (projector, mut weights) = load_tower(gguf);
    assert_eq!(weights.n_embd_head_padded, 104); // the CPU takes any head
    let patches = patches(3, Grid { cols: 5, rows: 4 }, 4);
    let plain = run_tower(&projector, &weights, &patches);
    for (n_embd_head, kv, tolerance) in
        [(112, DType::F32, 1e-5), (128, DType::F32, 1e-5), (112, DType::F16, 2e-3)]
    {
        weights.n_embd_head_padded = n_embd_head;
        weights.kv = kv;
        let d = difference(&run_tower(&projector, &weights, &patches), &plain);
        assert!(d < tolerance, "{n_embd_head} {kv:?}: {d:e}");
    }
}

/// ggml aborts when a graph outgrows the scheduler; the largest pictures have the most pieces, and files
/// with every bias the most operations.
#[test]
fn the_largest_picture_fits_the_scheduler() {
    let mut writer = Writer::small_mmproj();
    writer.set("clip.vision.image_size", u32(512));
    writer.set("clip.vision.patch_size", u32(2));
    writer.tensor("v.patch_embd.weight").dims = vec![2, 2, 3, 8];
    writer.tensor("v.patch_embd.weight").data.truncate(4 * 12 * 8);
    for (name, n) in [("v.patch_embd", 8), ("mm.patch_merger", 8), ("mm.1", 8), ("mm.2", 8)] {
        writer.add_tensor(&format!("{name}.bias"), &[n]);
    }
    for name in ["attn_q", "attn_k", "attn_v", "attn_out", "ffn_down", "ffn_gate", "ffn_up"] {
        let n = if ["ffn_gate", "ffn_up"].contains(&name) { 16 } else { 8 };
        writer.add_tensor(&format!("v.blk.0.{name}.bias"), &[n]);
    }
    let gguf = Gguf::from_bytes("large", writer.bytes()).unwrap();
    let (projector, mut weights) = load_tower(gguf);
    weights.n_embd_head_padded = 64;
    weights.kv = DType::F16;
    let device = Device::cpu().unwrap();
    let state = VisionState::new(&projector, Grid { cols: 128, rows: 128 }, device).unwrap();
    let backend = Backend::new(device, 1).unwrap();
    let mut sched = Scheduler::new(vec![backend], VisionGraph::N_NODES_MAX);
    for stage in VisionGraph::stages(&projector) {
        let part = VisionGraph::build(&projector, &weights, &state, stage);
        sched.reserve(part.graph).unwrap();
    }
}
