//! Files that the program writes, when something comes in between: kills, signals, other runs, full disks.
//!
//! What a run in one process does is tested beside the code (`src/export/tests.rs`); larger runs with more
//! kills are `scripts/check_interrupts.py`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gust::gguf::{Gguf, HeaderBuilder, TensorType, Value};

/// Kills of one test.
const N_KILLS: usize = 12;

fn gust(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.args(args).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to a good end, quietly.
#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A folder with a GGUF of some megabytes, `in.gguf`.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut header = HeaderBuilder::new();
        header.set("general.name", &Value::String("numbers".to_owned()));
        let sizes = [1u64, 3_000_000, 700_000, 5, 2_500_000, 33];
        for (i, n) in sizes.iter().enumerate() {
            header.tensor(&format!("t{i}"), TensorType::F32, &[1, *n]);
        }
        let layout = header.finish();
        let mut bytes = layout.header.clone();
        for tensor in &layout.tensors {
            bytes.resize(tensor.offset as usize, 0);
            bytes.extend((0..tensor.n_bytes / 4).flat_map(|i| (i as f32).sqrt().to_le_bytes()));
        }
        bytes.resize(layout.n_bytes as usize, 0);
        fs::write(folder.path().join("in.gguf"), bytes).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn str(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `gust split in.gguf PREFIX` with a part for every three tensors.
    fn split(&self, prefix: &str) -> Command {
        let (input, prefix) = (self.str("in.gguf"), self.str(prefix));
        gust(&["split", &input, &prefix, "--max-tensors", "3", "--threads", "1"])
    }

    fn parts(&self, prefix: &str) -> [PathBuf; 2] {
        [1, 2].map(|no| self.path(&format!("{prefix}-0000{no}-of-00002.gguf")))
    }

    /// Starts the split and waits until it has begun to write.
    fn start_split(&self, prefix: &str) -> Child {
        let mut child = self.split(prefix).stderr(Stdio::piped()).spawn().unwrap();
        let second = PathBuf::from(format!("{}.partial", self.parts(prefix)[1].display()));
        let start = Instant::now();
        while !second.exists() && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "no partial file appears");
            thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn no_leftovers(&self) {
        for entry in fs::read_dir(self.0.path()).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.extension().is_none_or(|e| e != "partial" && e != "journal"), "{path:?}");
        }
    }
}

fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

#[test]
fn killed_runs_go_on_to_the_same_bytes() {
    let bench = Bench::new();
    let start = Instant::now();
    succeed(&mut bench.split("whole"));
    let time = start.elapsed();
    let mut n_kills = 0;
    let mut random = 12_345u64;
    while n_kills < N_KILLS {
        let mut child = bench.split("out").stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        thread::sleep(time.mul_f64((random >> 40) as f64 / (1u64 << 24) as f64));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            continue_check(&bench);
        } else {
            n_kills += 1;
        }
        // A name that is there is the whole file.
        for (out, whole) in bench.parts("out").iter().zip(bench.parts("whole")) {
            assert!(!out.exists() || same(out, &whole), "{out:?} after {n_kills} kills");
        }
    }
    // The last run may have been killed after its last rename.
    let last = bench.split("out").output().unwrap();
    assert!(last.status.success() || stderr(&last).contains("exists"), "{}", stderr(&last));
    continue_check(&bench);
    bench.no_leftovers();
}

/// Compares finished parts with those of the run that nobody disturbed, and removes them.
fn continue_check(bench: &Bench) {
    for (out, whole) in bench.parts("out").iter().zip(bench.parts("whole")) {
        assert!(same(out, &whole), "{out:?}");
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn signals_end_a_run_that_then_goes_on() {
    let bench = Bench::new();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let child = bench.start_split(signal);
        let kill = ["-s", signal, &child.id().to_string()].map(str::to_owned);
        assert!(Command::new("kill").args(kill).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            // On a fast machine the run is over before the signal comes.
            continue;
        }
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let says_how = stderr(&output).contains("run the same command again");
        assert!(signal == "TERM" || says_how, "{}", stderr(&output));
        assert!(!bench.parts(signal)[0].exists());
        let output = bench.split(signal).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    bench.no_leftovers();
}

#[test]
fn two_runs_at_once_and_other_sources_are_refused() {
    let bench = Bench::new();
    let mut child = bench.start_split("out");
    child.kill().unwrap();
    if child.wait().unwrap().success() {
        return;
    }
    let journal = PathBuf::from(format!("{}.journal", bench.parts("out")[0].display()));
    let lock = fs::File::open(&journal).unwrap();
    lock.lock().unwrap();
    let busy = stderr(&bench.split("out").output().unwrap());
    assert!(busy.contains(&format!("another gust, process {}", child.id())), "{busy}");
    drop(lock);

    let mut input = fs::File::options().append(true).open(bench.path("in.gguf")).unwrap();
    input.write_all(&[0; 32]).unwrap();
    drop(input);
    let changed = bench.split("out").output().unwrap();
    assert_eq!(changed.status.code(), Some(1));
    let text = stderr(&changed);
    assert!(text.contains("in.gguf") && text.contains("--restart"), "{text}");
    succeed(bench.split("out").arg("--restart"));
    bench.no_leftovers();
}

#[test]
fn limits_and_locked_folders_are_told_before_anything_is_written() {
    let bench = Bench::new();
    let split = format!(
        "ulimit -f 1000; exec '{}' split '{}' '{}' --max-tensors 99",
        env!("CARGO_BIN_EXE_gust"),
        bench.str("in.gguf"),
        bench.str("limited"),
    );
    let output = Command::new("sh").args(["-c", &split]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("ulimit"), "{}", stderr(&output));
    bench.no_leftovers();

    let folder = bench.path("locked");
    fs::create_dir(&folder).unwrap();
    let mut permissions = folder.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&folder, permissions).unwrap();
    if fs::write(folder.join("x"), "x").is_ok() {
        // Root writes into any folder: nothing to be seen here.
        return;
    }
    let output = bench.split("locked/out").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("locked/out-00001"), "{}", stderr(&output));
}

#[test]
fn parts_are_the_file_again() {
    let bench = Bench::new();
    succeed(bench.split("out").arg("--no-tensor-first-split"));
    let part = bench.str("out-00002-of-00003.gguf");
    let gguf = Gguf::open(Path::new(&part)).unwrap();
    assert_eq!(gguf.parts().len(), 3);
    assert_eq!(gguf.tensors()[0].part, 1);
    let whole = bench.str("again.gguf");
    succeed(&mut gust(&["merge", &part, &whole]));
    assert!(same(Path::new(&whole), &bench.path("in.gguf")));
    let again = gust(&["merge", &part, &whole]).output().unwrap();
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));
    let no_part = gust(&["merge", &whole, &bench.str("x.gguf")]).output().unwrap();
    assert!(stderr(&no_part).contains("a whole file"), "{}", stderr(&no_part));
    let plan = gust(&["split", &whole, "x", "--max-size", "12M", "--dry-run"]).output().unwrap();
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert_eq!(plan.lines().count(), 4, "{plan}");
    let wrong = gust(&["split", &whole, "x", "--max-size", "12MB"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

/// Every part is, byte for byte, what llama.cpp's tool makes of the same file.
#[test]
fn parts_are_llama_cpps() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/split");
    let folder = tempfile::tempdir().unwrap();
    let whole = golden.join("whole.gguf");
    for (name, n_parts, flags) in
        [("plain", 3, &[][..]), ("first", 4, &["--no-tensor-first-split"][..])]
    {
        let prefix = folder.path().join(name);
        let args = ["split", whole.to_str().unwrap(), prefix.to_str().unwrap()];
        succeed(gust(&args).args(["--max-tensors", "2"]).args(flags));
        for no in 1..=n_parts {
            let part = format!("{name}-{no:05}-of-{n_parts:05}.gguf");
            assert!(same(&folder.path().join(&part), &golden.join(&part)), "{part}");
        }
        let part = golden.join(format!("{name}-00001-of-{n_parts:05}.gguf"));
        let merged = folder.path().join(format!("{name}.gguf"));
        let args = ["merge", part.to_str().unwrap(), merged.to_str().unwrap()];
        succeed(&mut gust(&args));
        assert!(same(&merged, &whole), "{name}");
    }
}
