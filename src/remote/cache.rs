//! Weights that a worker has received before, on its disk, by their hash.
//!
//! One file a piece, named by the BLAKE3 of its bytes and checked against it when read, so that nothing but the
//! right bytes ever comes out: a file that was cut short or altered is a file that is not there. Pieces are
//! written beside their place and renamed. What was not used longest goes first when there is no room.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blake3::Hash;

/// Most bytes by default.
const DEFAULT_LIMIT: u64 = 200 << 30;
/// Bytes that stay free on the disk.
const MARGIN: u64 = 4 << 30;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cache of weights {path}: {error}; choose another with --cache DIR, or none with --no-cache"
)]
pub struct CacheError {
    /// The folder.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

/// A folder of pieces.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Most bytes, unless the disk decides.
    limit: Option<u64>,
    n_bytes: u64,
    /// Counts uses; the higher, the later.
    clock: u64,
    /// The clock when the present client came.
    came: u64,
    pieces: HashMap<Hash, Piece>,
    by_use: BTreeMap<u64, Hash>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    n_bytes: u64,
    used: u64,
}

impl Cache {
    /// Opens the cache in `folder`, which is made if it is not there, with at most `limit` bytes.
    pub fn open(folder: &Path, limit: Option<u64>) -> Result<Self, CacheError> {
        let failed = |error| CacheError { path: folder.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut cache = Cache {
            folder: folder.to_owned(),
            limit,
            n_bytes: 0,
            clock: 0,
            came: 0,
            pieces: HashMap::new(),
            by_use: BTreeMap::new(),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().len() == 2 {
                scan(&entry.path(), &mut found).map_err(failed)?;
            }
        }
        found.sort_by_key(|(time, ..)| *time);
        for (_, hash, n_bytes) in found {
            cache.insert(hash, n_bytes);
        }
        cache.begin();
        Ok(cache)
    }

    /// A client begins: what it uses stays while it is there. Weights are read in the same order at each start,
    /// and what was used longest ago would just be what is wanted next.
    pub(super) fn begin(&mut self) {
        self.came = self.clock;
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that are kept.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Whether a piece seems to be there.
    pub(super) fn has(&self, hash: &Hash) -> bool {
        self.pieces.contains_key(hash)
    }

    /// Reads a piece of `n` bytes into `out`; `false` if it is not there as it should be.
    pub(super) fn read(&mut self, hash: &Hash, n: usize, out: &mut Vec<u8>) -> bool {
        if !self.has(hash) {
            return false;
        }
        out.clear();
        let path = self.path(hash);
        let is_right = File::open(&path).is_ok_and(|mut file| {
            // The time of use, for the next start.
            let _ = file.set_modified(SystemTime::now());
            let read = (&mut file).take(n as u64 + 1).read_to_end(out);
            read.is_ok() && out.len() == n && blake3::hash(out) == *hash
        });
        self.remove(hash);
        match is_right {
            true => self.insert(*hash, n as u64),
            false => drop(fs::remove_file(&path)),
        }
        is_right
    }

    /// Keeps a piece, for which others may have to go.
    pub(super) fn write(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        let n = bytes.len() as u64;
        let limit = match self.limit {
            Some(limit) => limit,
            None => DEFAULT_LIMIT.min(self.n_bytes + free(&self.folder)?.saturating_sub(MARGIN)),
        };
        if n > limit {
            return Ok(());
        }
        while self.n_bytes + n > limit {
            match self.by_use.first_key_value() {
                Some((&used, &oldest)) if used <= self.came => {
                    let _ = fs::remove_file(self.path(&oldest));
                    self.remove(&oldest);
                }
                _ => return Ok(()),
            }
        }
        let path = self.path(&hash);
        let folder = path.parent().unwrap_or(&self.folder);
        if let Err(error) = DirBuilder::new().mode(0o700).create(folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let partial = path.with_extension(format!("part{}", std::process::id()));
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written?;
        self.remove(&hash);
        self.insert(hash, n);
        Ok(())
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        let name = hash.to_hex();
        self.folder.join(&name[..2]).join(name.as_str())
    }

    fn insert(&mut self, hash: Hash, n_bytes: u64) {
        self.clock += 1;
        self.n_bytes += n_bytes;
        self.pieces.insert(hash, Piece { n_bytes, used: self.clock });
        self.by_use.insert(self.clock, hash);
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some(piece) = self.pieces.remove(hash) {
            self.n_bytes -= piece.n_bytes;
            self.by_use.remove(&piece.used);
        }
    }
}

/// Bytes free on the disk of `folder`.
fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The pieces in one folder, by their time of use. What an earlier run left unfinished is removed; what is of
/// others, or of a worker beside this one, is left alone.
fn scan(folder: &Path, found: &mut Vec<(SystemTime, Hash, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        if !folder.file_name().and_then(|own| own.to_str()).is_some_and(|own| name.starts_with(own))
        {
            continue;
        }
        // Another worker may have removed it meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        match (Hash::from_hex(name), unfinished(name)) {
            (Ok(hash), _) if metadata.is_file() => {
                found.push((metadata.modified()?, hash, metadata.len()));
            }
            (_, Some(pid)) if !is_running(pid) => drop(fs::remove_file(entry.path())),
            _ => {}
        }
    }
    Ok(())
}

/// The process that writes, or wrote, a piece under this name.
fn unfinished(name: &str) -> Option<i32> {
    let (hash, pid) = name.split_once(".part")?;
    Hash::from_hex(hash).ok().and_then(|_| pid.parse().ok())
}

fn is_running(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bytes_come_out_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("weights");
        let bytes = |i: u8| vec![i; 1000];
        let hashes: Vec<_> = (0..4).map(|i| blake3::hash(&bytes(i))).collect();
        let mut cache = Cache::open(&folder, Some(3500)).unwrap();
        for i in 0..3 {
            cache.write(hashes[usize::from(i)], &bytes(i)).unwrap();
        }
        let mut out = Vec::new();
        assert!(cache.read(&hashes[0], 1000, &mut out));
        assert_eq!(out, bytes(0));
        assert!(!cache.read(&hashes[3], 1000, &mut out));
        // The second is used longest ago; but what a client uses stays while it is there.
        cache.write(hashes[3], &bytes(3)).unwrap();
        assert_eq!((cache.n_bytes(), cache.has(&hashes[3])), (3000, false));
        cache.begin();
        cache.write(hashes[3], &bytes(3)).unwrap();
        assert_eq!((cache.n_bytes(), cache.has(&hashes[1])), (3000, false));
        assert!(!cache.path(&hashes[1]).exists());

        // Another start finds them, and leaves files of others alone.
        let theirs = cache.path(&hashes[0]).with_file_name("movie.part1.rar");
        fs::write(&theirs, "a film").unwrap();
        let left = cache.path(&hashes[0]).with_extension("part999999999");
        fs::write(&left, "half").unwrap();
        // Altered, cut and grown files do not count.
        let mut cache = Cache::open(&folder, None).unwrap();
        assert_eq!((cache.n_bytes(), theirs.exists(), left.exists()), (3000, true, false));
        fs::write(cache.path(&hashes[0]), vec![9; 1000]).unwrap();
        fs::write(cache.path(&hashes[2]), vec![2; 999]).unwrap();
        assert!(cache.has(&hashes[0]) && !cache.read(&hashes[0], 1000, &mut out));
        assert!(!cache.read(&hashes[2], 1000, &mut out) && !cache.has(&hashes[2]));
        assert!(cache.read(&hashes[3], 1000, &mut out));
        assert_eq!(cache.n_bytes(), 1000);
        // One that is larger than all there may be is not kept, and no other goes for it.
        let mut cache = Cache::open(&folder, Some(500)).unwrap();
        cache.write(hashes[0], &bytes(0)).unwrap();
        assert_eq!((cache.n_bytes(), cache.has(&hashes[3])), (1000, true));
    }
}
