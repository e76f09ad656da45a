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
use super::lock::{self, open_unlinked};
use crate::gguf::Layout;

/// Longest name that disks know, in bytes.
const MAX_NAME: usize = 255;

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
        check_place(&path, &["partial", "journal"], inputs)?;
        let (partial, folder) = (beside(&path, "partial"), folder_of(&path));
        Ok(Self { partial, path, folder, n_bytes: layout.n_bytes })
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
        sync_folder(&self.path).map_err(|error| self.failed("rename", error))
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

/// Checks what can be known about an output at `path`, and what is written beside it under more
/// `extensions`, without writing anything.
pub(crate) fn check_place(
    path: &Path,
    extensions: &[&str],
    inputs: &[InputFile],
) -> Result<(), ExportError> {
    if path == Path::new("-") {
        let found = "standard output, which cannot be written in pieces";
        return Err(ExportError::NotAFile { path: path.to_owned(), found });
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(ExportError::NoFolder { path: path.to_owned(), folder });
    }
    // With a slash at its end a name is a folder's, which is not there.
    let ends_open = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let found = match fs::metadata(path) {
        Ok(found) => lock::kind(found.file_type()),
        Err(_) if ends_open => {
            let (path, folder) = (path.to_owned(), path.to_owned());
            return Err(ExportError::NoFolder { path, folder });
        }
        Err(_) if path.file_name().is_none() => Some("a folder"),
        Err(_) => None,
    };
    if let Some(found) = found {
        return Err(ExportError::NotAFile { path: path.to_owned(), found });
    }
    let besides: Vec<PathBuf> = extensions.iter().map(|ext| beside(path, ext)).collect();
    let n_more = extensions.iter().map(|ext| 1 + ext.len()).max().unwrap_or(0);
    let most = MAX_NAME - n_more;
    if path.file_name().is_some_and(|name| name.len() > most) {
        return Err(ExportError::LongName { path: path.to_owned(), most });
    }
    for place in [path.to_owned()].iter().chain(&besides) {
        // Links are followed here: writing to one end of a link harms what is at the other.
        let Ok(found) = fs::metadata(place) else { continue };
        if let Some(input) = inputs.iter().find(|input| input.is(&found)) {
            let (path, input) = (place.clone(), input.path.clone());
            return Err(ExportError::IsInput { path, input });
        }
    }
    besides.iter().try_for_each(|path| lock::check_file_or_free(path))
}

/// The folder that `path` lies in.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Brings a new name in a folder to disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path)).and_then(|folder| folder.sync_all()) {
        // Some network disks know no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// `path` with `.extension` after its whole name.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
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
