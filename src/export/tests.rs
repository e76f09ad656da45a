//! Whole runs in a temporary folder: what comes out, what is refused, and what a stopped run leaves.
//!
//! Sources are raw files of f32, so that every number is chosen here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::ggml::{DType, quantize_rows};
use crate::mapped::Bytes;

/// Columns and rows of the test matrix: several pieces, the last one short.
const N_COLS: u64 = 256;
const N_ROWS: u64 = 2_010;

/// A folder with a file of numbers in it.
struct Bench {
    folder: tempfile::TempDir,
    file: Bytes,
    values: Vec<f32>,
}

impl Bench {
    fn new(values: Vec<f32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.bin");
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        fs::write(&path, bytes).unwrap();
        let file = Bytes::map(&File::open(path).unwrap()).unwrap();
        Self { folder, file, values }
    }

    /// A bench with numbers that look like weights.
    fn with_weights() -> Self {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        Self::new((0..N_COLS * N_ROWS).map(|_| next() * next()).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    fn tensor(&self, name: &str, ty: TensorType, dims: &[u64]) -> PlannedTensor<'_> {
        let (n_cols, n_rows) = (dims[0], dims[1..].iter().product::<u64>());
        let source = Source {
            file: &self.file,
            range: 0..(4 * n_cols * n_rows) as usize,
            encoding: Encoding::Ggml(TensorType::F32),
            n_cols,
            n_rows,
            order: RowOrder::AsIs,
        };
        PlannedTensor { name: name.to_owned(), ty, dims: dims.to_vec(), source, importance: None }
    }

    fn output<'a>(&self, name: &str, tensors: Vec<PlannedTensor<'a>>) -> OutputFile<'a> {
        let metadata = vec![("general.name".to_owned(), Value::String("a test".to_owned()))];
        OutputFile { path: self.path(name), metadata, tensors }
    }

    fn job<'a>(&self, files: Vec<OutputFile<'a>>) -> Job<'a> {
        let inputs = vec![InputFile::of(&self.path("in.bin")).unwrap()];
        let options = "test".to_owned();
        Job { files, inputs, options, force: false, restart: false, n_threads: 2 }
    }

    /// A job of one output with the whole matrix in one type.
    fn matrix_job(&self, name: &str, ty: TensorType) -> Job<'_> {
        let tensor = self.tensor("m.weight", ty, &[N_COLS, N_ROWS]);
        self.job(vec![self.output(name, vec![tensor])])
    }

    /// The data of the only tensor of a finished file.
    fn data(&self, name: &str) -> Vec<u8> {
        let gguf = Gguf::open(&self.path(name)).unwrap();
        gguf.data(&gguf.tensors()[0]).to_vec()
    }
}

fn finish(job: &Job<'_>) -> Result<Summary, ExportError> {
    run(job, &AtomicBool::new(false), &|_| {})
}

/// Stops the job when it has begun to write. A run that is faster than its stop is taken back.
fn stop(job: &Job<'_>) {
    for _ in 0..100 {
        let interrupt = AtomicBool::new(false);
        let stopped = run(job, &interrupt, &|progress| {
            interrupt.store(progress.n_done > 0, Ordering::Relaxed);
        });
        match stopped {
            Err(ExportError::Interrupted) => return,
            Err(error) => panic!("{error}"),
            Ok(_) => fs::remove_file(&job.files[0].path).unwrap(),
        }
    }
    panic!("no run could be stopped");
}

fn quantized(ty: TensorType, values: &[f32], n_cols: u64, weights: Option<&[f32]>) -> Vec<u8> {
    let n_rows = values.len() as u64 / n_cols;
    let mut out = vec![0; (n_rows * ty.row_bytes(n_cols).unwrap()) as usize];
    let dtype = DType::from_id(ty.ggml_id()).unwrap();
    quantize_rows(dtype, values, n_cols as usize, weights, &mut out);
    out
}

#[test]
fn any_number_of_threads_gives_what_one_call_gives() {
    let bench = Bench::with_weights();
    let weights: Vec<f32> = (0..N_COLS).map(|i| 1.0 + (i % 7) as f32).collect();
    for ty in [TensorType::F16, TensorType::Q8_0, TensorType::Q4_K] {
        let weights = (ty == TensorType::Q4_K).then_some(&weights[..]);
        let expected = quantized(ty, &bench.values, N_COLS, weights);
        for n_threads in [1, 3] {
            let name = format!("{ty}-{n_threads}.gguf");
            let mut job = bench.matrix_job(&name, ty);
            job.files[0].tensors[0].importance = weights;
            job.n_threads = n_threads;
            let summary = finish(&job).unwrap();
            assert_eq!((summary.n_tensors, summary.n_elements), (1, N_COLS * N_ROWS));
            assert!(bench.data(&name) == expected, "{name}");
            assert!(!bench.exists(&format!("{name}.partial")), "{name}");
            assert!(!bench.exists(&format!("{name}.journal")), "{name}");
        }
    }
}

#[test]
fn stacked_matrices_have_an_importance_each() {
    let bench = Bench::with_weights();
    // Three matrices; pieces of 64 rows begin and end inside of them.
    let dims = [N_COLS, 500, 3];
    let weights: Vec<f32> = (0..3 * N_COLS).map(|i| 1.0 + (i * i % 11) as f32).collect();
    let mut tensor = bench.tensor("m.weight", TensorType::Q4_K, &dims);
    tensor.importance = Some(&weights);
    finish(&bench.job(vec![bench.output("out.gguf", vec![tensor])])).unwrap();
    let matrices = bench.values[..3 * 500 * N_COLS as usize].chunks(500 * N_COLS as usize);
    let matrices = matrices.zip(weights.chunks(N_COLS as usize));
    let expected: Vec<_> =
        matrices.map(|(m, w)| quantized(TensorType::Q4_K, m, N_COLS, Some(w))).collect();
    assert!(bench.data("out.gguf") == expected.concat());
}

#[test]
fn every_type_is_written_and_read_or_refused() {
    let bench = Bench::with_weights();
    let weights = [1.0; 256];
    // ggml takes seconds to make the tables of the IQ types below 4 bits.
    let has_grid =
        |ty: &TensorType| ["iq1", "iq2", "iq3"].iter().any(|iq| ty.name().starts_with(iq));
    for &ty in TensorType::ALL.iter().filter(|ty| !has_grid(ty)) {
        let name = format!("{ty}.gguf");
        let mut tensor = bench.tensor("m.weight", ty, &[256, 8]);
        tensor.importance = Some(&weights);
        let job = bench.job(vec![bench.output(&name, vec![tensor])]);
        if let Err(error) = finish(&job) {
            assert!(matches!(error, ExportError::NoConversion { .. }), "{ty}: {error}");
            assert!(!ty.is_weight_type() || ty == TensorType::F8_E4M3, "{ty}: {error}");
            continue;
        }
        let gguf = Gguf::open(&bench.path(&name)).unwrap();
        let mut tensor = PlannedTensor::copy_of(&gguf, &gguf.tensors()[0]);
        tensor.ty = TensorType::F32;
        let back = format!("{ty}-back.gguf");
        finish(&bench.job(vec![bench.output(&back, vec![tensor])])).unwrap();
        let values = bench.data(&back);
        let values = values.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x));
        let error = values.zip(&bench.values).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(error < 0.3, "{ty}: {error}");
    }
    let tensor = bench.tensor("m.weight", TensorType::IQ2_XS, &[256, 8]);
    let error = finish(&bench.job(vec![bench.output("x.gguf", vec![tensor])])).unwrap_err();
    assert!(error.to_string().contains("importance"), "{error}");
}

#[test]
fn empty_and_many_tensors_are_written() {
    let bench = Bench::with_weights();
    finish(&bench.job(vec![bench.output("none.gguf", Vec::new())])).unwrap();
    assert!(Gguf::open(&bench.path("none.gguf")).unwrap().tensors().is_empty());
    let many = (0..3_000).map(|i| bench.tensor(&format!("t{i}"), TensorType::F16, &[1 + i % 40]));
    let summary = finish(&bench.job(vec![bench.output("many.gguf", many.collect())])).unwrap();
    assert_eq!(summary.n_tensors, 3_000);
    let gguf = Gguf::open(&bench.path("many.gguf")).unwrap();
    for tensor in gguf.tensors() {
        let expected =
            quantized(TensorType::F16, &bench.values[..tensor.dims[0] as usize], 1, None);
        assert_eq!(gguf.data(tensor), expected, "{}", tensor.name);
    }
}

#[test]
fn bad_values_are_named_counted_and_leave_nothing() {
    let mut bench = Bench::with_weights();
    let (cols, rows) = (N_COLS as usize, N_ROWS as usize);
    bench.values[cols * 1_000 + 7] = f32::NAN;
    bench.values[cols * 1_000 + 8] = f32::INFINITY;
    bench.values[cols * (rows - 1)] = f32::NEG_INFINITY;
    let bench = Bench::new(bench.values);
    for ty in [TensorType::Q8_0, TensorType::F32] {
        let error = finish(&bench.matrix_job("out.gguf", ty)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("'m.weight': 3 bad values, first in row 1000"), "{text}");
        assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 1, "{ty}");
    }
}

#[test]
fn values_beyond_the_type_are_refused() {
    let mut values = Bench::with_weights().values;
    values[N_COLS as usize * 5] = 65_520.0;
    let bench = Bench::new(values);
    let text = finish(&bench.matrix_job("out.gguf", TensorType::F16)).unwrap_err().to_string();
    assert!(text.contains("1 values, first in row 5, are too large for f16"), "{text}");
    finish(&bench.matrix_job("out.gguf", TensorType::BF16)).unwrap();
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let bench = Bench::with_weights();
    finish(&bench.matrix_job("whole.gguf", TensorType::Q8_0)).unwrap();
    let job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    stop(&job);
    assert!(!bench.exists("out.gguf"));
    let partial = fs::read(bench.path("out.gguf.partial")).unwrap();
    // What stands there is no longer what the journal says: a bit in the first finished piece.
    let flipped = {
        let mut bytes = partial.clone();
        let at = bytes.len() - N_ROWS as usize * N_COLS as usize * 34 / 32 + 1_000;
        bytes[at] ^= 1;
        bytes
    };
    fs::write(bench.path("out.gguf.partial"), flipped).unwrap();
    let summary = finish(&job).unwrap();
    assert!(summary.n_kept < summary.n_bytes);
    let whole = fs::read(bench.path("whole.gguf")).unwrap();
    assert!(fs::read(bench.path("out.gguf")).unwrap() == whole);

    fs::remove_file(bench.path("out.gguf")).unwrap();
    stop(&job);
    let summary = finish(&job).unwrap();
    assert!(summary.n_kept > 0, "pieces that hold are kept");
    assert!(fs::read(bench.path("out.gguf")).unwrap() == whole);
}

#[test]
fn a_run_that_differs_is_refused_or_begins_anew() {
    let bench = Bench::with_weights();
    stop(&bench.matrix_job("out.gguf", TensorType::Q8_0));
    let mut job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    job.options = "other".to_owned();
    let text = finish(&job).unwrap_err().to_string();
    assert!(text.contains("'options test', now it is 'options other'"), "{text}");
    let text = finish(&bench.matrix_job("out.gguf", TensorType::F16)).unwrap_err().to_string();
    assert!(text.contains("output \"out.gguf\""), "{text}");
    let weights = [1.0; N_COLS as usize];
    let mut job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    job.files[0].tensors[0].importance = Some(&weights);
    let text = finish(&job).unwrap_err().to_string();
    assert!(text.contains("importance"), "{text}");

    let input = File::options().write(true).open(bench.path("in.bin")).unwrap();
    input.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let mut job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    let text = finish(&job).unwrap_err().to_string();
    assert!(text.contains("in.bin\" has changed since") && text.contains("--restart"), "{text}");
    job.restart = true;
    assert_eq!(finish(&job).unwrap().n_kept, 0);
}

/// What is refused anyway throws nothing away.
#[test]
fn beginning_anew_keeps_what_is_there_until_it_may_begin() {
    let bench = Bench::with_weights();
    let mut job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    stop(&job);
    fs::write(bench.path("out.gguf"), "precious").unwrap();
    let [partial, journal] =
        ["out.gguf.partial", "out.gguf.journal"].map(|name| fs::read(bench.path(name)).unwrap());
    job.restart = true;
    assert!(matches!(finish(&job), Err(ExportError::Exists { .. })));
    assert!(fs::read(bench.path("out.gguf.partial")).unwrap() == partial);
    assert!(fs::read(bench.path("out.gguf.journal")).unwrap() == journal);
    fs::remove_file(bench.path("out.gguf")).unwrap();
    assert_eq!(finish(&job).unwrap().n_kept, 0);
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed() {
    let bench = Bench::with_weights();
    let job = bench.matrix_job("out.gguf", TensorType::Q8_0);
    let input = File::options().write(true).open(bench.path("in.bin")).unwrap();
    input.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let error = finish(&job).unwrap_err();
    assert!(matches!(error, ExportError::Changed { .. }), "{error}");
    assert!(!bench.exists("out.gguf") && !bench.exists("out.gguf.partial"));
}

/// Whatever the output is, the error says so, and everything in the folder stays as it was.
#[test]
fn targets_are_checked_before_anything_is_written() {
    let bench = Bench::with_weights();
    fs::write(bench.path("there.gguf"), "precious").unwrap();
    fs::write(bench.path("other.gguf.partial"), "precious").unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    std::os::unix::fs::symlink("in.bin", bench.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", bench.path("dangling")).unwrap();
    fs::hard_link(bench.path("in.bin"), bench.path("hard")).unwrap();
    std::os::unix::fs::symlink("nowhere", bench.path("l.gguf.partial")).unwrap();
    ["pipe", "p.gguf.journal"].iter().for_each(|name| lock::tests::make_pipe(&bench.path(name)));
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut list: Vec<_> =
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
        list.sort();
        list
    };
    let before = list(bench.folder.path());
    for (name, force, says) in [
        ("there.gguf", false, "exists"),
        ("dangling", false, "exists"),
        ("in.bin", true, "is to be read"),
        ("link", true, "is to be read"),
        ("hard", true, "is to be read"),
        ("folder", true, "is a folder"),
        ("folder/..", true, "is a folder"),
        ("no/where", true, "no folder"),
        ("other.gguf", true, "in the way"),
        (&"x".repeat(248), false, "too long"),
        ("new/", true, "no folder"),
        ("pipe", true, "is a pipe"),
        ("p.gguf", true, "p.gguf.journal is a pipe, where a run keeps its work; remove it"),
        ("l.gguf", true, "l.gguf.partial is a symbolic link"),
    ] {
        let mut job = bench.matrix_job(name, TensorType::F16);
        job.force = force;
        let text = finish(&job).unwrap_err().to_string();
        assert!(text.contains(says), "{name}: {text}");
    }
    let mut job = bench.matrix_job("x", TensorType::F16);
    job.files[0].path = "-".into();
    let text = finish(&job).unwrap_err().to_string();
    assert!(text.contains("- is standard output"), "{text}");
    let twice = ["a.gguf", "folder/../a.gguf"].map(|name| bench.output(name, Vec::new()));
    let text = finish(&bench.job(twice.into())).unwrap_err().to_string();
    assert!(text.contains("twice"), "{text}");
    assert_eq!(list(bench.folder.path()), before);
}

#[test]
fn a_forced_output_replaces_the_link_not_what_it_points_to() {
    let bench = Bench::with_weights();
    fs::write(bench.path("elsewhere"), "precious").unwrap();
    std::os::unix::fs::symlink("elsewhere", bench.path("out.gguf")).unwrap();
    let mut job = bench.matrix_job("out.gguf", TensorType::F16);
    job.force = true;
    let summary = run(&job, &AtomicBool::new(false), &|_| {
        let there = fs::read(bench.path("out.gguf")).unwrap();
        assert_eq!(there, b"precious", "until the new one is complete");
    });
    assert!(summary.is_ok(), "{summary:?}");
    assert!(!bench.path("out.gguf").is_symlink());
    assert_eq!(fs::read(bench.path("elsewhere")).unwrap(), b"precious");
}

#[test]
fn renaming_that_was_cut_short_is_finished() {
    let bench = Bench::with_weights();
    let files = || {
        let tensor = || vec![bench.tensor("m.weight", TensorType::F16, &[N_COLS, N_ROWS])];
        vec![bench.output("a.gguf", tensor()), bench.output("b.gguf", tensor())]
    };
    let job = bench.job(files());
    // Something takes the second name while the run works.
    let failed = run(&job, &AtomicBool::new(false), &|_| {
        let _ = fs::create_dir(bench.path("b.gguf"));
    });
    assert!(matches!(failed, Err(ExportError::Exists { .. })), "{failed:?}");
    assert!(bench.exists("a.gguf") && bench.exists("b.gguf.partial"));
    fs::remove_dir(bench.path("b.gguf")).unwrap();
    finish(&job).unwrap();
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| fs::read(bench.path(name)).unwrap());
    assert!(a == b);
    assert!(!bench.exists("a.gguf.journal"));
}
