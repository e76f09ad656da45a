//! The files of a run: where it goes on, where it saves, how it ends.
//!
//! Until it ends a run's statistics lie in OUT.partial, an imatrix like any other over fewer chunks, replaced
//! whole each time. Only the end gives it the name that was asked for. A finished file of the same origin is
//! a beginning too, for a run over more of the text.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{CollectError, Origin};
use crate::gguf::Gguf;
use crate::quantize::{Statistics, StatisticsError};

/// Where a run writes.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    origin: Origin,
    /// Chunks that the file with the final name counts already.
    n_finished: u32,
}

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
        inputs: &[&Path],
        replace: Replace,
    ) -> Result<(Self, Statistics), CollectError> {
        // A link stays one; what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == path)) {
            return Err(CollectError::IsInput { path });
        }
        let mut run = Run { path, origin, n_finished: 0 };
        let mut statistics = Statistics::default();
        match run.read(&run.path) {
            Ok(Some(found)) if !replace.left => statistics = found,
            Ok(None) => {}
            _ if replace.other && !run.path.is_dir() => {}
            Ok(Some(_)) => return Err(run.exists("it is complete".to_owned())),
            Err(reason) => return Err(run.exists(reason)),
        }
        run.n_finished = statistics.n_chunks;
        if !replace.left {
            let partial = run.partial();
            match run.read(&partial) {
                Ok(Some(left)) if left.n_chunks > run.n_finished => statistics = left,
                Ok(_) => {}
                Err(reason) => return Err(CollectError::Left { path: partial, reason }),
            }
        }
        // Not after hours of work: whether anything can be written there.
        let new = run.new_file();
        File::create(&new)
            .and_then(|_| fs::remove_file(&new))
            .map_err(|source| CollectError::Write { path: new, source })?;
        Ok((run, statistics))
    }

    /// Chunks that the file with the final name counts already.
    pub fn n_finished(&self) -> u32 {
        self.n_finished
    }

    /// Where the statistics lie until the run ends.
    pub fn partial(&self) -> PathBuf {
        with_suffix(&self.path, ".partial")
    }

    /// Saves what has been collected; on an error what was saved before is still there.
    pub fn save(&self, statistics: &Statistics) -> Result<(), CollectError> {
        let bytes = statistics.to_gguf(&self.origin.keys())?;
        let (new, partial) = (self.new_file(), self.partial());
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &partial)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&new);
            CollectError::Write { path: new.clone(), source }
        })
    }

    /// Gives the statistics the name that was asked for.
    pub fn finish(&self, statistics: &Statistics) -> Result<(), CollectError> {
        self.save(statistics)?;
        let done = fs::rename(self.partial(), &self.path).and_then(|()| sync_folder(&self.path));
        done.map_err(|source| CollectError::Write { path: self.path.clone(), source })
    }

    fn new_file(&self) -> PathBuf {
        with_suffix(&self.path, ".partial.new")
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Makes a rename last; where folders cannot be opened, the system sees to it.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match File::open(folder.unwrap_or(Path::new("."))) {
        Ok(folder) if cfg!(unix) => folder.sync_all(),
        _ => Ok(()),
    }
}
