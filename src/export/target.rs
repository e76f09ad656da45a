//! The files on disk: whether they may be written, their partial forms, and the renaming at the end.
//!
//! An output is written as `NAME.partial` beside its place and renamed when all outputs are complete and on
//! disk, so under a final name there is either what was there before or the whole new file. A symbolic
//! link counts as an output that exists: with `--force` the link itself is replaced, and the file it points
//! to stays as it is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::OutputFile;
use super::error::ExportError;
use super::job::InputFile;
use super::journal::open_unlinked;
use crate::gguf::Layout;

/// Where one output goes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    partial: PathBuf,
    folder: PathBuf,
    n_bytes: u64,
}

impl Target {
    /// Checks what can be known without writing anything.
    pub(super) fn new(
        output: &OutputFile<'_>,
        layout: &Layout,
        inputs: &[InputFile],
    ) -> Result<Self, ExportError> {
        let path = output.path.clone();
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            return Err(ExportError::NoFolder { path, folder });
        }
        let found = match fs::metadata(&path).map(|found| found.file_type()) {
            Ok(kind) if kind.is_file() => None,
            Ok(kind) if kind.is_dir() => Some("a folder"),
            Ok(_) => Some("a device, pipe or socket"),
            Err(_) if path.file_name().is_none() => Some("a folder"),
            Err(_) => None,
        };
        if let Some(found) = found {
            return Err(ExportError::NotAFile { path, found });
        }
        let target =
            Self { partial: beside(&path, "partial"), path, folder, n_bytes: layout.n_bytes };
        for path in [&target.path, &target.partial, &target.journal()] {
            // Links are followed here: writing to one end of a link harms what is at the other.
            let Ok(found) = fs::metadata(path) else { continue };
            if let Some(input) = inputs.iter().find(|input| input.is(&found)) {
                let (path, input) = (path.clone(), input.path.clone());
                return Err(ExportError::IsInput { path, input });
            }
        }
        Ok(target)
    }

    /// Where the journal of a run lies whose first output this is.
    pub(super) fn journal(&self) -> PathBuf {
        beside(&self.path, "journal")
    }

    /// Refuses to replace anything, a dangling link included.
    pub(super) fn check_free(&self) -> Result<(), ExportError> {
        match self.path.symlink_metadata() {
            Ok(_) => Err(ExportError::Exists { path: self.path.clone() }),
            Err(_) => Ok(()),
        }
    }

    /// Creates the partial file in full size, without taking room on disk yet, or opens the one of an
    /// earlier run.
    pub(super) fn create(&self, is_new: bool, header: &[u8]) -> Result<File, ExportError> {
        if is_new && self.partial.symlink_metadata().is_ok() {
            return Err(ExportError::InTheWay { path: self.partial.clone() });
        }
        let create = || -> io::Result<File> {
            let file = open_unlinked(&self.partial, true)?;
            file.set_len(self.n_bytes)?;
            file.write_all_at(header, 0)?;
            #[cfg(target_os = "linux")]
            if !is_new {
                // What an earlier run wrote shall be compared as the disk has it: the cache still shows
                // pages that could not be written.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            }
            Ok(file)
        };
        create().map_err(|error| {
            if is_new {
                self.discard();
            }
            self.failed("create", error)
        })
    }

    /// Deletes the partial file.
    pub(super) fn discard(&self) {
        // Where it cannot be deleted it is in the way of the next run, which says so.
        let _ = fs::remove_file(&self.partial);
    }

    /// Gives the finished file its name, unless an earlier run already did.
    pub(super) fn rename(&self, force: bool) -> Result<(), ExportError> {
        if !self.partial.exists() && self.path.metadata().is_ok_and(|m| m.len() == self.n_bytes) {
            return Ok(());
        }
        if !force {
            self.check_free()?;
        }
        fs::rename(&self.partial, &self.path).map_err(|error| self.failed("rename", error))
    }

    /// Brings the new name to disk.
    pub(super) fn sync_folder(&self) -> Result<(), ExportError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        match synced {
            // Some network disks know no such thing.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced.map_err(|error| self.failed("rename", error)),
        }
    }

    /// An error about the partial file.
    pub(super) fn failed(&self, what: &'static str, error: io::Error) -> ExportError {
        ExportError::Io { what, path: self.partial.clone(), error }
    }

    /// An error while writing the partial file.
    pub(super) fn unwritten(&self, byte: u64, error: io::Error) -> ExportError {
        ExportError::Write { path: self.partial.clone(), byte, error }
    }
}

/// `path` with `.extension` after its whole name.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Refuses two outputs of one name, and outputs that would not fit on their disks.
pub(super) fn check_together(targets: &[Target]) -> Result<(), ExportError> {
    for (idx, target) in targets.iter().enumerate() {
        let place = |target: &Target| {
            let folder = target.folder.canonicalize().unwrap_or(target.folder.clone());
            folder.join(target.path.file_name().unwrap_or_default())
        };
        if targets[..idx].iter().any(|other| place(other) == place(target)) {
            return Err(ExportError::Twice { path: target.path.clone() });
        }
    }
    let mut disks: Vec<(u64, &Path, u64)> = Vec::new();
    for target in targets {
        let Ok(folder) = target.folder.metadata() else { continue };
        let there = target.partial.metadata().map_or(0, |partial| partial.blocks() * 512);
        let needs = target.n_bytes.saturating_sub(there);
        match disks.iter_mut().find(|(device, ..)| *device == folder.dev()) {
            Some((_, _, sum)) => *sum += needs,
            None => disks.push((folder.dev(), &target.folder, needs)),
        }
    }
    for (_, folder, needs) in disks {
        let Ok(disk) = rustix::fs::statvfs(folder) else { continue };
        let free = disk.f_bavail * disk.f_frsize;
        // Disks without a size of their own say 0 for everything.
        if disk.f_blocks > 0 && free < needs {
            return Err(ExportError::NoSpace { folder: folder.to_owned(), needs, free });
        }
    }
    Ok(())
}
