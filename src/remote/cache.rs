//! Weights that a worker has received before, on its disk, by their hash.
//!
//! One file a piece, named by the BLAKE3 of its bytes and checked against it when read, so that nothing but the
//! right bytes ever comes out: a file that was cut short or altered is a file that is not there. Pieces are
//! written beside their place and renamed. What was not used longest goes first when there is no room.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
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
        Ok(cache)
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
        while self.n_bytes + n > limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { return Ok(()) };
            let _ = fs::remove_file(self.path(&oldest));
            self.remove(&oldest);
        }
        let path = self.path(&hash);
        let folder = path.parent().unwrap_or(&self.folder);
        if let Err(error) = DirBuilder::new().mode(0o700).create(folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let partial = path.with_extension(format!("part{}", std::process::id()));
        let written = File::create(&partial)
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

/// The pieces in one folder, by their time of use. What an earlier run left unfinished is removed.
fn scan(folder: &Path, found: &mut Vec<(SystemTime, Hash, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, metadata) = (entry.file_name(), entry.metadata()?);
        let name = name.to_str().unwrap_or_default();
        match Hash::from_hex(name) {
            Ok(hash) if metadata.is_file() => {
                found.push((metadata.modified()?, hash, metadata.len()));
            }
            _ if name.contains(".part") => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    Ok(())
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
        // The second is used longest ago.
        cache.write(hashes[3], &bytes(3)).unwrap();
        assert_eq!((cache.n_bytes(), cache.has(&hashes[1])), (3000, false));
        assert!(!cache.path(&hashes[1]).exists());

        // Another start finds them. Altered, cut and grown files do not count.
        let mut cache = Cache::open(&folder, None).unwrap();
        assert_eq!(cache.n_bytes(), 3000);
        fs::write(cache.path(&hashes[0]), vec![9; 1000]).unwrap();
        fs::write(cache.path(&hashes[2]), vec![2; 999]).unwrap();
        assert!(cache.has(&hashes[0]) && !cache.read(&hashes[0], 1000, &mut out));
        assert!(!cache.read(&hashes[2], 1000, &mut out) && !cache.has(&hashes[2]));
        assert!(cache.read(&hashes[3], 1000, &mut out));
        assert_eq!(cache.n_bytes(), 1000);
        // One that is larger than all there may be is not kept, and nothing else either.
        let mut cache = Cache::open(&folder, Some(500)).unwrap();
        cache.write(hashes[0], &bytes(0)).unwrap();
        assert_eq!(cache.n_bytes(), 0);
    }
}
