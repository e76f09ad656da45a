//! What an interrupted run has done, for the next one.
//!
//! A file beside the first output: what the run was to do, in words (the facts), and a record for every
//! finished piece with the hash of its bytes. A record is a claim, not a proof: the next run reads the piece
//! again and compares hashes, so neither a power loss that kept the journal but not the data, nor a damaged
//! file, can get into the result, and data need not reach the disk in any order. Records carry a checksum
//! of their own; the first bad one ends the journal. The file is locked while a run writes it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::ExportError;
use super::lock::{MAGIC, lock};

/// Magic, process id and length of the facts.
const N_START: usize = 16;
/// Number of the piece, hash of its bytes, first bytes of the hash of both.
const N_RECORD: usize = 8 + 32 + 8;
/// The record that says that everything is written and files are being renamed.
const SEAL: u64 = u64::MAX;
/// More than a journal of the largest model has; the rest would be ignored and done again.
const MAX_BYTES: u64 = 256 << 20;

/// An open, locked journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Hash of the facts: records of another run do not fit.
    key: [u8; 32],
    /// Hashes of finished pieces, by the piece's number.
    claims: HashMap<u64, [u8; 32]>,
    is_new: bool,
    is_sealed: bool,
}

impl Journal {
    /// Opens the journal at `path` or begins one. `facts` say what the run is to do; a journal of
    /// another one is refused, or discarded with `restart`.
    pub(super) fn open(path: &Path, facts: &[String], restart: bool) -> Result<Self, ExportError> {
        let failed = |what, error| ExportError::Io { what, path: path.to_owned(), error };
        let mut file = lock(path)?;
        let mut bytes = Vec::new();
        let mut reader = (&mut file).take(MAX_BYTES);
        reader.read_to_end(&mut bytes).map_err(|error| failed("read", error))?;
        let n = bytes.len().min(MAGIC.len());
        if bytes[..n] != MAGIC[..n] && !restart {
            return Err(ExportError::InTheWay { path: path.to_owned() });
        }
        let text = facts.join("\n");
        let key = *blake3::hash(text.as_bytes()).as_bytes();
        let mut journal = Self {
            file,
            path: path.to_owned(),
            key,
            claims: HashMap::new(),
            is_new: true,
            is_sealed: false,
        };
        match old_facts(&bytes) {
            Some((old, records)) if !restart => {
                if let Some((was, is)) = difference(old, facts) {
                    let journal = path.to_owned();
                    return Err(match (input_of(&was), input_of(&is)) {
                        (Some(input), Some(now)) if input == now => {
                            ExportError::OtherInput { journal, input: input.to_owned() }
                        }
                        _ => ExportError::OtherRun { journal, was, is },
                    });
                }
                journal.is_new = false;
                let n_valid = journal.read(records);
                journal.go_on((bytes.len() - records.len() + n_valid) as u64)
            }
            // No facts that hold together: the first run ended before it wrote anything else.
            _ => journal.begin(&text).inspect_err(|_| drop(std::fs::remove_file(path))),
        }
        .map_err(|error| failed("write", error))?;
        Ok(journal)
    }

    /// Whether no earlier run stands behind it.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether an earlier run has finished all pieces and begun to rename.
    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// The hash that an earlier run claims piece `idx` to have.
    pub(super) fn claim(&self, idx: u64) -> Option<&[u8; 32]> {
        self.claims.get(&idx)
    }

    /// Notes that piece `idx` is in its place, with the hash of its bytes.
    pub(super) fn record(&self, idx: u64, hash: &[u8; 32]) -> Result<(), ExportError> {
        self.append(idx, hash).map_err(|error| ExportError::Io {
            what: "write",
            path: self.path.clone(),
            error,
        })
    }

    /// Says, safely on disk, that everything is written.
    pub(super) fn seal(&self) -> Result<(), ExportError> {
        self.append(SEAL, &[0; 32])
            .and_then(|()| self.file.sync_all())
            .map_err(|error| ExportError::Io { what: "write", path: self.path.clone(), error })
    }

    /// Deletes the file.
    pub(super) fn remove(self) -> Result<(), ExportError> {
        std::fs::remove_file(&self.path).map_err(|error| ExportError::Io {
            what: "remove",
            path: self.path.clone(),
            error,
        })
    }

    fn append(&self, idx: u64, hash: &[u8; 32]) -> io::Result<()> {
        let mut record = [0; N_RECORD];
        record[..8].copy_from_slice(&idx.to_le_bytes());
        record[8..40].copy_from_slice(hash);
        let check = self.check(&record[..40]);
        record[40..].copy_from_slice(&check);
        (&self.file).write_all(&record)
    }

    fn check(&self, bytes: &[u8]) -> [u8; 8] {
        let hash = blake3::keyed_hash(&self.key, bytes);
        *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    /// Takes over records up to the first bad one; how many bytes they have.
    fn read(&mut self, records: &[u8]) -> usize {
        let mut n_valid = 0;
        for record in records.as_chunks::<N_RECORD>().0 {
            if self.check(&record[..40]) != record[40..] {
                break;
            }
            n_valid += N_RECORD;
            let idx = u64::from_le_bytes(*record.first_chunk().expect("longer"));
            let hash: [u8; 32] = *record[8..].first_chunk().expect("longer");
            self.is_sealed |= idx == SEAL;
            self.claims.insert(idx, hash);
        }
        n_valid
    }

    /// Cuts off what is torn and signs with this process.
    fn go_on(&mut self, n_valid: u64) -> io::Result<()> {
        self.file.write_all_at(&std::process::id().to_le_bytes(), MAGIC.len() as u64)?;
        self.file.set_len(n_valid)?;
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(n_valid)).map(drop)
    }

    fn begin(&mut self, facts: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        let mut start = MAGIC.to_vec();
        start.extend(std::process::id().to_le_bytes());
        start.extend((facts.len() as u32).to_le_bytes());
        start.extend(facts.as_bytes());
        start.extend(self.key);
        self.file.write_all(&start)?;
        // Before any output is begun: an output beside no valid journal is not ours.
        self.file.sync_all()
    }
}

/// The facts of an older journal and its records; `None` if they do not hold together.
fn old_facts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let n = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize;
    let (facts, rest) = bytes.get(N_START..)?.split_at_checked(n)?;
    let (key, records) = rest.split_at_checked(32)?;
    let holds = blake3::hash(facts).as_bytes() == key;
    holds.then_some((std::str::from_utf8(facts).ok()?, records))
}

/// The path of a fact about an input, in its quotes.
fn input_of(fact: &str) -> Option<&str> {
    let (path, _) = fact.strip_prefix("input ")?.rsplit_once(" of ")?;
    Some(path)
}

/// The first fact in which two runs differ.
fn difference(old: &str, facts: &[String]) -> Option<(String, String)> {
    let mut old = old.split('\n');
    let mut new = facts.iter();
    loop {
        match (old.next(), new.next()) {
            (None, None) => return None,
            (Some(was), Some(is)) if was == is => {}
            (was, is) => {
                let say = |fact: Option<&str>| fact.unwrap_or("nothing more").to_owned();
                return Some((say(was), say(is.map(String::as_str))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(options: &str) -> Vec<String> {
        vec!["gust 1".to_owned(), format!("options {options}")]
    }

    fn hash(x: u8) -> [u8; 32] {
        [x; 32]
    }

    #[test]
    fn a_torn_tail_is_dropped_and_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let facts = facts("a");
        let journal = Journal::open(&path, &facts, false).unwrap();
        assert!(journal.is_new());
        (0..3).for_each(|idx| journal.record(idx, &hash(idx as u8)).unwrap());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let start = whole.len() - 3 * N_RECORD;
        for n in 0..whole.len() {
            std::fs::write(&path, &whole[..n]).unwrap();
            let journal = Journal::open(&path, &facts, false).unwrap();
            let n_whole = n.saturating_sub(start) / N_RECORD;
            assert_eq!((journal.is_new(), journal.claims.len()), (n < start, n_whole), "{n}");
            journal.record(2, &hash(9)).unwrap();
            drop(journal);
            let journal = Journal::open(&path, &facts, false).unwrap();
            assert_eq!((journal.is_new(), journal.claim(2)), (false, Some(&hash(9))), "{n}");
        }
    }

    #[test]
    fn no_flipped_bit_goes_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let facts = facts("a");
        let journal = Journal::open(&path, &facts, false).unwrap();
        journal.record(0, &hash(7)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for at in N_START - 4..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let journal = Journal::open(&path, &facts, false).unwrap();
            assert!(journal.claims.is_empty(), "{at}");
        }
    }

    #[test]
    fn another_run_is_refused_or_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal");
        let journal = Journal::open(&path, &facts("a"), false).unwrap();
        journal.record(0, &hash(7)).unwrap();
        let busy = Journal::open(&path, &facts("a"), false).unwrap_err().to_string();
        assert!(busy.contains(&format!("process {}", std::process::id())), "{busy}");
        drop(journal);
        let other = Journal::open(&path, &facts("b"), false).unwrap_err().to_string();
        assert!(other.contains("'options a'") && other.contains("'options b'"), "{other}");
        let journal = Journal::open(&path, &facts("b"), true).unwrap();
        assert!(journal.is_new() && journal.claim(0).is_none());
        drop(journal);
        std::fs::write(&path, "a letter").unwrap();
        let error = Journal::open(&path, &facts("a"), false).unwrap_err();
        assert!(matches!(error, ExportError::InTheWay { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["x.journal", "other"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(Journal::open(&path, &facts("a"), false).is_err());
        assert!(!other.exists());
    }
}
