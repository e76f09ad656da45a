//! One run: checks, workers, journal, and the files under their final names.
//!
//! The order of things is what makes a run safe to kill at any point: nothing is written before everything
//! that can be refused is refused; outputs grow beside their places; when all are complete and on disk the
//! journal is sealed, and only then are they renamed. A killed run is continued by the same command.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::OutputFile;
use super::error::ExportError;
use super::journal::Journal;
use super::pieces::{self, Piece};
use super::target::{self, Target};
use super::worker::{self, Buffers, Finished, Work};
use crate::gguf::{Gguf, Layout};

/// How often Ctrl-C and progress are looked after.
const TICK: Duration = Duration::from_millis(100);
/// Written bytes after which the disk is waited for: what a power loss may cost, and how much memory
/// the kernel may fill with them.
const SYNC_BYTES: u64 = 1 << 30;

/// What is to be done.
#[derive(Debug)]
pub struct Job<'a> {
    /// Files to be written; the journal lies beside the first.
    pub files: Vec<OutputFile<'a>>,
    /// Files that the sources lie in, and others that the result depends on.
    pub inputs: Vec<InputFile>,
    /// Everything the user chose that changes bytes, in words.
    pub options: String,
    /// Whether existing files may be replaced.
    pub force: bool,
    /// Whether what an interrupted run has left is thrown away.
    pub restart: bool,
    /// Workers, at least one.
    pub n_threads: usize,
}

/// A file that is read, as it was when the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// As the user gave it.
    pub path: PathBuf,
    /// Size in bytes.
    pub n_bytes: u64,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Device and number on it: the same for every name of one file.
    identity: (u64, u64),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the outputs that are in their place.
    pub n_done: u64,
    /// Those of them that an earlier run wrote.
    pub n_kept: u64,
    /// All bytes of the outputs.
    pub n_total: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of all files.
    pub n_bytes: u64,
    /// Bytes that an earlier run had written.
    pub n_kept: u64,
    /// Tensors in all files.
    pub n_tensors: usize,
    /// Elements of all tensors.
    pub n_elements: u64,
    /// Bytes of all tensors.
    pub n_tensor_bytes: u64,
}

impl InputFile {
    /// The file at `path` as it is now.
    pub fn of(path: &Path) -> Result<Self, ExportError> {
        let found = fs::metadata(path)
            .and_then(|metadata| Ok((metadata.modified()?, metadata)))
            .map_err(|error| ExportError::Io { what: "read", path: path.to_owned(), error });
        let (modified, metadata) = found?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), n_bytes: metadata.len(), modified, identity })
    }

    /// The files that a GGUF consists of.
    pub fn of_parts(gguf: &Gguf) -> Result<Vec<Self>, ExportError> {
        gguf.parts().iter().filter_map(|part| part.path()).map(Self::of).collect()
    }

    /// Whether `metadata` is this file's, by whatever name it was found.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        self.identity == (metadata.dev(), metadata.ino())
    }

    fn check_unchanged(&self) -> Result<(), ExportError> {
        match Self::of(&self.path) {
            Ok(now) if now == *self => Ok(()),
            _ => Err(ExportError::Changed { path: self.path.clone() }),
        }
    }
}

/// Writes the files. On an error nothing has changed under any final name, unless renaming itself failed.
pub fn run(
    job: &Job<'_>,
    interrupt: &AtomicBool,
    progress: &dyn Fn(Progress),
) -> Result<Summary, ExportError> {
    job.files.iter().flat_map(|file| &file.tensors).try_for_each(worker::check)?;
    let layouts: Vec<Layout> = job.files.iter().map(pieces::layout).collect();
    let targets = job.files.iter().zip(&layouts);
    let targets = targets.map(|(file, layout)| Target::new(file, layout, &job.inputs));
    let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
    let first = targets.first().expect("a job has a file");

    if job.restart {
        // Before anything is thrown away.
        check(job, &targets)?;
    }
    let facts = facts(job, &targets, &layouts);
    let journal = Journal::open(&first.journal(), &facts, job.restart)?;
    if job.restart {
        targets.iter().for_each(Target::discard);
    }
    let mut n_kept = 0;
    if !journal.is_sealed() {
        let files = match prepare(job, &targets, &layouts, journal.is_new()) {
            Ok(files) => files,
            Err(error) if journal.is_new() => return Err(journal.remove().err().unwrap_or(error)),
            Err(error) => return Err(error),
        };
        let work = Work { outputs: &job.files, targets: &targets, files: &files };
        let pieces = pieces::pieces(&job.files, &layouts);
        n_kept = match write(job, &work, &pieces, &journal, interrupt, progress) {
            Err(error) if error.is_hopeless() => {
                targets.iter().for_each(Target::discard);
                return Err(journal.remove().err().unwrap_or(error));
            }
            written => written?,
        };
        journal.seal()?;
    }
    targets.iter().try_for_each(|target| target.rename(job.force))?;
    targets.iter().try_for_each(Target::sync_folder)?;
    journal.remove()?;
    Ok(summary(&layouts, n_kept))
}

/// What a run must have in common with the interrupted one that it continues.
fn facts(job: &Job<'_>, targets: &[Target], layouts: &[Layout]) -> Vec<String> {
    let mut facts = vec![format!("gust {}", env!("GUST_VERSION"))];
    facts.push(format!("options {}", job.options.escape_debug()));
    for input in &job.inputs {
        let path = input.path.canonicalize().unwrap_or(input.path.clone());
        let age = input.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        facts.push(format!("input {path:?} of {} bytes, changed at {age} s", input.n_bytes));
    }
    for (target, layout) in targets.iter().zip(layouts) {
        let name = target.path.file_name().unwrap_or_default();
        let hash = blake3::hash(&layout.header).to_hex();
        facts.push(format!("output {name:?} of {} bytes, header {hash}", layout.n_bytes));
    }
    let mut importance = blake3::Hasher::new();
    for tensor in job.files.iter().flat_map(|file| &file.tensors) {
        let Some(weights) = tensor.importance else { continue };
        importance.update(tensor.name.as_bytes());
        for weight in weights {
            importance.update(&weight.to_le_bytes());
        }
    }
    facts.push(format!("importance {}", importance.finalize().to_hex()));
    facts
}

/// The last checks before anything is written.
fn check(job: &Job<'_>, targets: &[Target]) -> Result<(), ExportError> {
    if !job.force {
        targets.iter().try_for_each(Target::check_free)?;
    }
    target::check_together(targets)
}

/// The last checks, and the partial files; if that fails in a new run, nothing is left of them.
fn prepare(
    job: &Job<'_>,
    targets: &[Target],
    layouts: &[Layout],
    is_new: bool,
) -> Result<Vec<File>, ExportError> {
    check(job, targets)?;
    let mut files = Vec::new();
    for (target, layout) in targets.iter().zip(layouts) {
        match target.create(is_new, &layout.header) {
            Ok(file) => files.push(file),
            Err(error) => {
                if is_new {
                    targets[..files.len()].iter().for_each(Target::discard);
                }
                return Err(error);
            }
        }
    }
    Ok(files)
}

/// Brings all pieces into their places and onto the disk; the bytes that were there already.
fn write(
    job: &Job<'_>,
    work: &Work<'_>,
    pieces: &[Piece],
    journal: &Journal,
    interrupt: &AtomicBool,
    progress: &dyn Fn(Progress),
) -> Result<u64, ExportError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, results) = mpsc::channel();
    let n_kept = thread::scope(|scope| {
        for _ in 0..job.n_threads.clamp(1, pieces.len().max(1)) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                let mut buffers = Buffers::default();
                while !stop.load(Ordering::Relaxed) {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(idx) else { break };
                    let result = work.finish(piece, journal.claim(idx as u64), &mut buffers);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    // The receiver lives as long as this scope.
                    let _ = sender.send((idx, result));
                }
            });
        }
        drop(sender);
        let mut keeper = Keeper { work, pieces, journal, interrupt, progress, stop: &stop };
        keeper.keep(results)
    })?;
    for (file, target) in work.files.iter().zip(work.targets) {
        file.sync_all().map_err(|error| target.failed("write", error))?;
    }
    job.inputs.iter().try_for_each(InputFile::check_unchanged)?;
    Ok(n_kept)
}

/// Keeps the journal while workers work.
struct Keeper<'a> {
    work: &'a Work<'a>,
    pieces: &'a [Piece],
    journal: &'a Journal,
    interrupt: &'a AtomicBool,
    progress: &'a dyn Fn(Progress),
    stop: &'a AtomicBool,
}

impl Keeper<'_> {
    /// Notes results until no worker is left; the bytes that were there already.
    fn keep(
        &mut self,
        results: Receiver<(usize, Result<Finished, ExportError>)>,
    ) -> Result<u64, ExportError> {
        let size = |piece: &Piece| (piece.n_bytes + piece.n_padding) as u64;
        let n_total = self.pieces.iter().map(size).sum();
        let mut state = Progress { n_done: 0, n_kept: 0, n_total };
        let mut n_unsynced = 0;
        // Pieces are taken in order, so the first failure is the same in every run.
        let mut failure: Option<(usize, ExportError)> = None;
        let mut fail = |idx: usize, error: ExportError| {
            self.stop.store(true, Ordering::Relaxed);
            if failure.as_ref().is_none_or(|(first, _)| idx < *first) {
                failure = Some((idx, error));
            }
        };
        loop {
            match results.recv_timeout(TICK) {
                Ok((idx, Err(error))) => fail(idx, error),
                Ok((idx, Ok(finished))) => {
                    let n_bytes = size(&self.pieces[idx]);
                    state.n_done += n_bytes;
                    if finished.was_there {
                        state.n_kept += n_bytes;
                    } else {
                        n_unsynced += n_bytes;
                        let noted = self.journal.record(idx as u64, &finished.hash);
                        noted.unwrap_or_else(|error| fail(usize::MAX, error));
                    }
                    if n_unsynced >= SYNC_BYTES {
                        n_unsynced = 0;
                        self.sync().unwrap_or_else(|error| fail(usize::MAX, error));
                    }
                    (self.progress)(state);
                }
                Err(RecvTimeoutError::Timeout) => (self.progress)(state),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.interrupt.load(Ordering::Relaxed) {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        match failure {
            Some((_, error)) => Err(error),
            None if state.n_done < n_total => Err(ExportError::Interrupted),
            None => Ok(state.n_kept),
        }
    }

    /// Waits until what is written is on disk.
    fn sync(&self) -> Result<(), ExportError> {
        for (file, target) in self.work.files.iter().zip(self.work.targets) {
            file.sync_data().map_err(|error| target.failed("write", error))?;
        }
        Ok(())
    }
}

fn summary(layouts: &[Layout], n_kept: u64) -> Summary {
    let tensors = || layouts.iter().flat_map(|layout| &layout.tensors);
    Summary {
        n_bytes: layouts.iter().map(|layout| layout.n_bytes).sum(),
        n_kept,
        n_tensors: tensors().count(),
        n_elements: tensors().map(|tensor| tensor.n_elements()).sum(),
        n_tensor_bytes: tensors().map(|tensor| tensor.n_bytes).sum(),
    }
}
