//! Locked files beside an output: one run at a time, known by its process.
//!
//! A locked file begins with the word that marks it as gust's and the process that holds it; the journal
//! goes on after that, other runs have no more to say. Nothing here follows a link, waits at a pipe, or
//! overwrites what someone else has put there.

use std::fs::{self, File, FileType, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::error::ExportError;

/// What such a file begins with.
pub(super) const MAGIC: [u8; 8] = *b"gustjrn1";

/// A lock for runs that have no journal: `OUT.lock`, removed when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    was_left: bool,
}

impl Lock {
    /// Takes the lock at `path`, which a dead run may have left.
    pub(crate) fn take(path: &Path) -> Result<Self, ExportError> {
        let failed = |error| ExportError::Io { what: "write", path: path.to_owned(), error };
        let file = lock(path)?;
        let mut start = [0; MAGIC.len()];
        let is_empty = file.metadata().map_err(failed)?.len() == 0;
        if !is_empty && (file.read_exact_at(&mut start, 0).is_err() || start != MAGIC) {
            return Err(ExportError::InTheWay { path: path.to_owned() });
        }
        let lock = Self { file, path: path.to_owned(), was_left: !is_empty };
        let sign = [&MAGIC[..], &std::process::id().to_le_bytes()].concat();
        lock.file.write_all_at(&sign, 0).map_err(failed)?;
        Ok(lock)
    }

    /// Whether a run that did not come to its end has left the lock, and maybe more.
    pub(crate) fn was_left(&self) -> bool {
        self.was_left
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where it stays, the next run takes it over.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens and locks the file, following no link; the file is still at `path` when it is locked.
pub(super) fn lock(path: &Path) -> Result<File, ExportError> {
    let failed = |error| ExportError::Io { what: "write", path: path.to_owned(), error };
    loop {
        check_file_or_free(path)?;
        let file = open_unlinked(path, true).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = [0; 4];
                let _ = file.read_exact_at(&mut pid, MAGIC.len() as u64);
                let (path, pid) = (path.to_owned(), u32::from_le_bytes(pid));
                return Err(ExportError::Busy { path, pid });
            }
            // Some network disks know no locks: two runs at once are then the user's own lookout.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let locked = file.metadata().map_err(failed)?;
        // Another run may have finished, and removed the file, between the two calls.
        if path.symlink_metadata().is_ok_and(|there| there.ino() == locked.ino()) {
            return Ok(file);
        }
    }
}

/// Opens for reading and writing, and creates if asked; a symbolic link there is an error, and a pipe
/// is not waited at.
pub(super) fn open_unlinked(path: &Path, create: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).custom_flags(flags).open(path)
}

/// Creates a file that was not there.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)
}

/// Refuses what a run would keep its work in, unless it is a file or nothing is there.
pub(crate) fn check_file_or_free(path: &Path) -> Result<(), ExportError> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    match kind(found.file_type()) {
        None => Ok(()),
        Some(found) => Err(ExportError::Obstacle { path: path.to_owned(), found }),
    }
}

/// What something is called that is no file.
pub(crate) fn kind(found: FileType) -> Option<&'static str> {
    match found {
        found if found.is_file() => None,
        found if found.is_dir() => Some("a folder"),
        found if found.is_symlink() => Some("a symbolic link"),
        found if found.is_fifo() => Some("a pipe"),
        found if found.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Without a child process, which while it starts shares the locks of other tests.
    pub(in crate::export) fn make_pipe(path: &Path) {
        use rustix::fs::{CWD, Mode, mknodat};
        mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn a_lock_is_taken_once_and_goes_with_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path).unwrap();
        assert!(!lock.was_left());
        let busy = Lock::take(&path).unwrap_err().to_string();
        assert!(busy.contains(&format!("process {}", std::process::id())), "{busy}");
        drop(lock);
        assert!(!path.exists());
        fs::write(&path, [&MAGIC[..], &[1, 0, 0, 0]].concat()).unwrap();
        assert!(Lock::take(&path).unwrap().was_left());
        fs::write(&path, "a letter").unwrap();
        assert!(matches!(Lock::take(&path), Err(ExportError::InTheWay { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"a letter");
    }

    #[test]
    fn what_is_no_file_is_neither_opened_nor_waited_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        make_pipe(&path("pipe"));
        for (name, found) in
            [("link", "a symbolic link"), ("folder", "a folder"), ("pipe", "a pipe")]
        {
            let text = lock(&path(name)).unwrap_err().to_string();
            assert!(text.contains(found) && text.contains("remove it"), "{text}");
        }
    }
}
