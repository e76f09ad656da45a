//! The files of a run: where it goes on, where it saves, how it ends.
//!
//! Until it ends a run's statistics lie in OUT.partial, an imatrix like any other over fewer chunks, replaced
//! whole each time. Only the end gives it the name that was asked for. A finished file of the same origin is
//! a beginning too, for a run over more of the text. Places are checked and locked as `export` does it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{CollectError, Origin};
use crate::export::{
    ExportError, InputFile, Lock, beside, check_file_or_free, check_place, create_new, sync_folder,
};
use crate::gguf::Gguf;
use crate::quantize::{Statistics, StatisticsError};

/// Where a run writes.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    origin: Origin,
    /// Chunks that the file with the final name counts already.
    n_finished: u32,
    /// Whether something under the final name may be replaced.
    may_replace: bool,
    /// Held as long as the run is.
    _lock: Lock,
}

/// What a run writes beside its output: what it has saved, what it is saving, and that it runs.
const BESIDE: [&str; 3] = ["partial", "partial.new", "lock"];

/// What becomes of files that are in a run's way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replace {
    /// A file of another origin under the final name is replaced, at the end.
    pub other: bool,
    /// What an earlier run has left is thrown away.
    pub left: bool,
}

impl Run {
    /// A run that writes `path` and may not replace `inputs`, with what an earlier one of the same origin
    /// has left to go on from.
    pub fn open(
        path: &Path,
        origin: Origin,
        inputs: &[InputFile],
        replace: Replace,
    ) -> Result<(Self, Statistics), CollectError> {
        check_place(path, &BESIDE, inputs)?;
        // A link would lead its reader to a file that is no longer written.
        check_file_or_free(path)?;
        let lock = Lock::take(&beside(path, "lock"))?;
        let is_after_a_kill = lock.was_left();
        let path = path.to_owned();
        let mut run = Run { path, origin, n_finished: 0, may_replace: replace.other, _lock: lock };
        let mut statistics = Statistics::default();
        match run.read(&run.path) {
            Ok(Some(found)) if !replace.left => statistics = found,
            Ok(None) => {}
            _ if replace.other => {}
            Ok(Some(_)) => return Err(run.exists("it is complete".to_owned())),
            Err(reason) => return Err(run.exists(reason)),
        }
        run.n_finished = statistics.n_chunks;
        run.may_replace |= run.n_finished > 0;
        if !replace.left {
            let partial = run.partial();
            match run.read(&partial) {
                Ok(Some(left)) if left.n_chunks > run.n_finished => statistics = left,
                Ok(_) => {}
                Err(reason) => return Err(CollectError::Left { path: partial, reason }),
            }
        }
        run.check_new_file(is_after_a_kill)?;
        Ok((run, statistics))
    }

    /// Whether anything can be written, found out before hours of work. A file that is there is only
    /// removed if a killed run may have left it.
    fn check_new_file(&self, is_after_a_kill: bool) -> Result<(), CollectError> {
        let new = self.new_file();
        if is_after_a_kill {
            let _ = fs::remove_file(&new);
        }
        let tried = create_new(&new).and_then(|_| fs::remove_file(&new));
        tried.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => {
                ExportError::Obstacle { path: new, found: "a file" }.into()
            }
            _ => CollectError::Write { path: new, source },
        })
    }

    /// Chunks that the file with the final name counts already.
    pub fn n_finished(&self) -> u32 {
        self.n_finished
    }

    /// Where the statistics lie until the run ends.
    pub fn partial(&self) -> PathBuf {
        beside(&self.path, "partial")
    }

    /// Saves what has been collected; on an error what was saved before is still there.
    pub fn save(&self, statistics: &Statistics) -> Result<(), CollectError> {
        let bytes = statistics.to_gguf(&self.origin.keys())?;
        let (new, partial) = (self.new_file(), self.partial());
        let failed = |source| CollectError::Write { path: new.clone(), source };
        let mut file = create_new(&new).map_err(failed)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&new, &partial)).map_err(|source| {
            let _ = fs::remove_file(&new);
            failed(source)
        })
    }

    /// Gives the statistics the name that was asked for.
    pub fn finish(&self, statistics: &Statistics) -> Result<(), CollectError> {
        self.save(statistics)?;
        check_file_or_free(&self.path)?;
        if !self.may_replace && self.path.exists() {
            return Err(self.exists("it has appeared since this run began".to_owned()));
        }
        let done = fs::rename(self.partial(), &self.path).and_then(|()| sync_folder(&self.path));
        done.map_err(|source| CollectError::Write { path: self.path.clone(), source })
    }

    fn new_file(&self) -> PathBuf {
        beside(&self.path, "partial.new")
    }

    fn exists(&self, reason: String) -> CollectError {
        CollectError::Exists { path: self.path.clone(), reason }
    }

    /// The statistics in a file of this origin; `None` where there is no file, or why it can't be used.
    fn read(&self, path: &Path) -> Result<Option<Statistics>, String> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let gguf = Gguf::open(path).map_err(|error| error.to_string())?;
        match self.origin.difference(&gguf) {
            Some(difference) => Err(difference),
            None => Statistics::from_gguf(&gguf)
                .map(Some)
                .map_err(|error: StatisticsError| error.to_string()),
        }
    }
}
