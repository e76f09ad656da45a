//! `gust imatrix`: the sums are those of the definition, runs go on to the same bits, and files of others
//! stay what they are.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use gust::engine::{BatchRow, Engine, EngineOptions, N_BATCH, Session};
use gust::export::{ExportError, InputFile};
use gust::ggml::{DType, dequantize_rows};
use gust::gguf::Gguf;
use gust::imatrix::{CollectError, Origin, Replace, Run, collect};
use gust::model::{self, YarnPolicy};
use gust::perplexity::Windows;
use gust::quantize::{Imatrix, Statistics, Sums};

fn tiny(n_ctx: u32) -> Arc<Engine> {
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        n_threads: Some(1),
        cache_types: [Some(DType::F16); 2],
        repack: true,
        yarn: YarnPolicy::Correct,
        ..EngineOptions::on_cpu(1)
    };
    Engine::open(model::builtin(), None, &options, &mut |_, _| {}).unwrap()
}

fn text() -> String {
    (0..400).map(|i| format!("Line {i} of a text, {} words and more. ", i * 7919 % 1000)).collect()
}

fn row(gguf: &Gguf, name: &str, i: u64) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let n_rows = tensor.dims.get(1).copied().unwrap_or(1);
    let n_bytes = (tensor.n_bytes / n_rows) as usize;
    let bytes = &gguf.data(tensor)[i as usize * n_bytes..][..n_bytes];
    let mut values = vec![0.0; tensor.dims[0] as usize];
    dequantize_rows(DType::from_id(tensor.ty.ggml_id()).unwrap(), bytes, &mut values);
    values
}

/// The first matrices' input is the normed embedding, which is easily computed without a graph.
#[test]
fn the_first_sums_are_those_of_normed_embeddings() {
    let engine = tiny(256);
    let gguf = engine.gguf();
    for tokens in [vec![engine.tokenizer().bos()], (300..333).collect()] {
        let mut session = Session::new(&engine);
        let row_of = BatchRow { session: &mut session, tokens: &tokens, images: &[], n_logits: 0 };
        let sums = engine.column_sums(&mut [row_of], true).unwrap();
        let norm = row(gguf, "blk.0.attn_norm.weight", 0);
        let mut expected = vec![0f64; norm.len()];
        for &token in &tokens {
            let x = row(gguf, "token_embd.weight", token.into());
            let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
            let scale =
                1.0 / (square / x.len() as f64 + f64::from(engine.hparams().norm_eps)).sqrt();
            for ((sum, x), norm) in expected.iter_mut().zip(&x).zip(&norm) {
                *sum += (f64::from(*x) * scale * f64::from(*norm)).powi(2);
            }
        }
        assert_eq!(
            sums[0].matrices.join(" "),
            "blk.0.attn_q.weight blk.0.attn_k.weight blk.0.attn_v.weight"
        );
        for (sum, expected) in sums[0].squares.iter().zip(&expected) {
            assert!((f64::from(*sum) - expected).abs() <= 1e-5 * expected, "{sum} {expected}");
        }
        let matrices: Vec<&String> = sums.iter().flat_map(|sum| &sum.matrices).collect();
        assert_eq!(matrices.len() as u32, 7 * engine.hparams().n_layer + 1);
        for sum in &sums {
            for name in &sum.matrices {
                let name = if name == "output.weight" && gguf.tensor(name).is_none() {
                    "token_embd.weight"
                } else {
                    name
                };
                assert_eq!(gguf.tensor(name).unwrap().dims[0] as usize, sum.squares.len());
            }
        }
    }
}

/// A batch's sums are those of its tokens, however it is cut.
#[test]
fn sums_add_up_over_passes() {
    let engine = tiny(256);
    let tokens: Vec<u32> = (300..340).collect();
    let run = |pieces: &[&[u32]]| {
        let mut session = Session::new(&engine);
        let mut total: Vec<f64> = Vec::new();
        for piece in pieces {
            let row = BatchRow { session: &mut session, tokens: piece, images: &[], n_logits: 0 };
            let sums = engine.column_sums(&mut [row], false).unwrap();
            let flat = sums.iter().flat_map(|sum| &sum.squares).map(|&x| f64::from(x));
            match total.is_empty() {
                true => total = flat.collect(),
                false => total.iter_mut().zip(flat).for_each(|(total, x)| *total += x),
            }
        }
        total
    };
    let (whole, cut) = (run(&[&tokens]), run(&[&tokens[..17], &tokens[17..18], &tokens[18..]]));
    for (whole, cut) in whole.iter().zip(&cut) {
        assert!((whole - cut).abs() <= 2e-2 * whole, "{whole} {cut}");
    }
}

fn origin(engine: &Engine, settings: &str) -> Origin {
    Origin::new(engine.gguf(), &text(), settings.to_owned())
}

/// Runs to the end, breaking off and going on from the file after every `n_groups`.
fn run_in_stages(path: &Path, n_ctx: usize, n_groups: usize) -> Vec<u8> {
    let engine = tiny((n_ctx * Windows::n_parallel(n_ctx, N_BATCH)) as u32);
    let windows = Windows::new(&engine, &text(), n_ctx, Some(2000 / n_ctx)).unwrap();
    loop {
        let origin = origin(&engine, "any");
        let (run, mut statistics) = Run::open(path, origin, &[], Replace::default()).unwrap();
        statistics.chunk_size = n_ctx as u32;
        let mut n_left = n_groups;
        collect(&engine, &windows, false, &mut statistics, |_| {
            n_left -= 1;
            Ok(if n_left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
        if statistics.n_chunks as usize == windows.len() {
            run.finish(&statistics).unwrap();
            assert!(!run.partial().exists());
            return fs::read(path).unwrap();
        }
        run.save(&statistics).unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn interrupted_runs_end_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for n_ctx in [100, 512, 600] {
        let path = |name: &str| folder.path().join(format!("{name}-{n_ctx}.gguf"));
        let whole = run_in_stages(&path("whole"), n_ctx, usize::MAX);
        assert!(run_in_stages(&path("often"), n_ctx, 1) == whole, "chunks of {n_ctx}");
        let statistics = Statistics::open(&path("whole")).unwrap();
        let counts = statistics.entries.values().map(|sums| sums.counts.clone());
        let n_tokens = i64::from(statistics.n_chunks) * n_ctx as i64;
        assert!(counts.into_iter().all(|counts| counts == [n_tokens]));
    }
}

#[test]
fn a_cancelled_pass_counts_for_nothing() {
    let engine = tiny(512);
    let windows = Windows::new(&engine, &text(), 512, Some(3)).unwrap();
    let mut statistics = Statistics::default();
    collect(&engine, &windows, false, &mut statistics, |_| {
        engine.cancel();
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(statistics.n_chunks, 1);
    assert!(statistics.entries.values().all(|sums| sums.counts == [512]));
}

#[test]
fn sums_of_another_shape_are_refused() {
    let engine = tiny(512);
    let windows = Windows::new(&engine, &text(), 512, Some(1)).unwrap();
    let bad = Sums { sums: vec![1.0; 3], counts: vec![512] };
    let entries = [("blk.0.attn_q.weight".to_owned(), bad)].into();
    let mut left = Statistics { entries, ..Statistics::default() };
    let run = collect(&engine, &windows, false, &mut left, |_| Ok(ControlFlow::Continue(())));
    let error = run.unwrap_err().to_string();
    assert!(error.contains("'blk.0.attn_q.weight'") && error.contains("found 3"), "{error}");
}

#[test]
fn what_is_in_the_way_is_replaced_only_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let engine = tiny(512);
    let windows = Windows::new(&engine, &text(), 512, Some(1)).unwrap();
    let open = |settings: &str, other, left| {
        Run::open(&path, origin(&engine, settings), &[], Replace { other, left })
    };
    let mut done = Statistics { chunk_size: 512, ..Statistics::default() };
    collect(&engine, &windows, false, &mut done, |_| Ok(ControlFlow::Continue(()))).unwrap();

    let (run, nothing) = open("a", false, false).unwrap();
    assert_eq!((run.n_finished(), nothing.n_chunks), (0, 0));
    run.save(&done).unwrap();
    let busy = open("a", false, false).unwrap_err().to_string();
    assert!(busy.contains(&format!("another gust, process {}", std::process::id())), "{busy}");
    drop(run);
    assert_eq!(open("a", false, false).unwrap().1, done);
    assert!(matches!(open("b", false, false), Err(CollectError::Left { .. })));
    let (run, nothing) = open("b", false, true).unwrap();
    assert_eq!(nothing.n_chunks, 0);
    drop(run);

    open("a", false, true).unwrap().0.finish(&done).unwrap();
    let (again, found) = open("a", false, false).unwrap();
    assert_eq!((again.n_finished(), found), (1, done));
    drop(again);
    let error = open("b", false, false).unwrap_err().to_string();
    assert!(error.contains("made with a, this run has b") && error.contains("--force"), "{error}");
    assert_eq!(open("b", true, false).unwrap().0.n_finished(), 0);
    assert!(matches!(open("a", false, true), Err(CollectError::Exists { .. })));
    assert_eq!(open("a", true, true).unwrap().1.n_chunks, 0);

    fs::write(&path, "notes").unwrap();
    assert!(matches!(open("a", false, false), Err(CollectError::Exists { .. })));
    let input = {
        let inputs = [InputFile::of(&path).unwrap()];
        Run::open(&path, origin(&engine, "a"), &inputs, Replace { other: true, left: true })
    };
    assert!(matches!(input, Err(CollectError::Place(ExportError::IsInput { .. }))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
}

/// What is no file, or someone else's, stays as it is, `--force` or not.
#[test]
fn nothing_but_files_is_written_and_only_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let engine = tiny(512);
    let text = path("text.txt");
    fs::write(&text, "precious").unwrap();
    let inputs = [InputFile::of(&text).unwrap()];
    let open = |name: &str| {
        let replace = Replace { other: true, left: true };
        Run::open(&path(name), origin(&engine, "a"), &inputs, replace)
    };
    let pipe = Command::new("mkfifo").arg(path("pipe")).arg(path("p.partial")).status();
    assert!(pipe.unwrap().success());
    std::os::unix::fs::symlink("text.txt", path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("l.partial.new")).unwrap();
    fs::hard_link(&text, path("h.partial.new")).unwrap();
    fs::write(path("s.partial.new"), "precious").unwrap();
    fs::write(path("k.lock"), "precious").unwrap();
    for (name, says) in [
        ("pipe", "is a pipe"),
        ("p", "p.partial is a pipe"),
        ("link", "is to be read"),
        ("dangling", "is a symbolic link"),
        ("l", "l.partial.new is a symbolic link"),
        ("h", "is to be read"),
        ("s", "s.partial.new is a file"),
        ("k", "k.lock is in the way"),
        ("text.txt", "is to be read"),
        ("new/", "there is no folder"),
    ] {
        let error = open(name).unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    for name in ["text.txt", "s.partial.new", "k.lock"] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), "precious");
    }
    // What a killed run was saving is in no one's way.
    fs::write(path("d.lock"), b"gustjrn1\x01\0\0\0").unwrap();
    fs::write(path("d.partial.new"), "half").unwrap();
    drop(open("d").unwrap());
    assert!(!path("d.partial.new").exists() && !path("d.lock").exists());
}

fn imatrix(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.current_dir(folder).args(["imatrix", "-t", "1"]).args(args).output().unwrap()
}

#[test]
fn the_command_writes_what_quantizing_reads() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.txt"), text()).unwrap();
    let run = |args: &[&str]| {
        let output = imatrix(folder.path(), args);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, notes) =
        run(&["-f", "text.txt", "--ctx", "128", "--chunks", "8", "--save-every", "4"]);
    assert_eq!(code, 0, "{notes}");
    assert!(
        notes.contains("4 of 8 chunks: saved") && notes.contains("wrote imatrix.gguf"),
        "{notes}"
    );
    let path = folder.path().join("imatrix.gguf");
    let (imatrix, statistics) = (Imatrix::open(&path).unwrap(), Statistics::open(&path).unwrap());
    assert_eq!((imatrix.datasets, imatrix.n_chunks), (vec!["text.txt".to_owned()], 8));
    assert_eq!(statistics.chunk_size, 128);
    assert!(statistics.entries.values().all(|sums| sums.sums.iter().all(|&x| x > 0.0)));

    let (code, notes) = run(&["-f", "text.txt", "--ctx", "128", "--chunks", "8"]);
    assert!(code == 0 && notes.contains("is complete: 8 chunks"), "{notes}");
    let (code, notes) = run(&["-f", "text.txt", "--ctx", "128", "--chunks", "12"]);
    assert!(code == 0 && notes.contains("12 chunks") && notes.contains("8 were there"), "{notes}");
    let (code, notes) = run(&["-p", "another text", "--ctx", "128"]);
    assert!(code == 1 && notes.contains("another text"), "{notes}");
    let (code, notes) = run(&["-p", "a short text", "-o", "other.gguf"]);
    assert!(code == 1 && notes.contains("tokens, a chunk 512"), "{notes}");
    assert!(!folder.path().join("other.gguf").exists());
    let (code, notes) = run(&["-f", "text.txt", "-o", "missing/out.gguf"]);
    assert!(code == 1 && notes.contains("there is no folder missing"), "{notes}");
    assert_eq!(run(&["-f", "text.txt", "--chunks", "0"]).0, 2);
}
