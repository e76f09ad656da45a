//! The file of a base model's predictions, which others are compared with.
//!
//! Little-endian: the magic, `n_vocab` u32, `n_ctx` u32, `n_windows` u32, the windows' tokens as u32,
//! then per prediction two f32 (the largest log-probability and the step) and `n_vocab` u16: how many
//! steps each log-probability lies below the largest. 16 bits over at most 24 nats are 0.0004 nats.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::Windows;
use crate::tokenizer::TokenId;

const MAGIC: &[u8; 8] = b"gustkl\x00\x01";

/// Log-probabilities further below the largest are stored as this far: e⁻²⁴ is 4·10⁻¹¹.
const RANGE_NATS: f32 = 24.0;

/// Whatever keeps a base file from being written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BaseError {
    #[error("{}: the file of predictions can't be read or written to its end", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: not a file of base predictions; write one with --kl-base", path.display())]
    Magic { path: PathBuf },
    #[error("{}: made with {what} {found}, this run has {expected}", path.display())]
    Mismatch { path: PathBuf, what: &'static str, found: u32, expected: u32 },
    #[error("{}: made from another text; use the same text file and --ctx", path.display())]
    Text { path: PathBuf },
}

/// Writes predictions beside the wanted file and renames at the end.
#[derive(Debug)]
pub struct BaseWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
}

impl BaseWriter {
    /// Starts a file for predictions of `windows` over `n_vocab` tokens.
    pub fn create(path: &Path, windows: &Windows, n_vocab: u32) -> Result<Self, BaseError> {
        let mut partial = path.to_owned().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .map_err(|source| BaseError::Io { path: partial.clone(), source })?;
        let mut writer = BaseWriter { path: path.to_owned(), partial, file: BufWriter::new(file) };
        let mut head = MAGIC.to_vec();
        for n in [n_vocab, windows.n_ctx() as u32, windows.len() as u32] {
            head.extend(n.to_le_bytes());
        }
        head.extend(windows.tokens().iter().flat_map(|id| id.to_le_bytes()));
        writer.write(&head)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BaseError> {
        let path = &self.partial;
        self.file.write_all(bytes).map_err(|source| BaseError::Io { path: path.clone(), source })
    }

    /// Appends one prediction's log-probabilities.
    pub fn push(&mut self, log_probs: &[f32]) -> Result<(), BaseError> {
        let max = log_probs.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
        let min = log_probs.iter().fold(max, |min, &x| min.min(x)).max(max - RANGE_NATS);
        let step = ((max - min) / f32::from(u16::MAX)).max(f32::MIN_POSITIVE);
        let mut row = Vec::with_capacity(8 + 2 * log_probs.len());
        row.extend(max.to_le_bytes());
        row.extend(step.to_le_bytes());
        // A cast of what lies beyond the range saturates, as it should.
        let steps = log_probs.iter().map(|&x| ((max - x) / step).round() as u16);
        row.extend(steps.flat_map(u16::to_le_bytes));
        self.write(&row)
    }

    /// Gives the file its name.
    pub fn finish(mut self) -> Result<(), BaseError> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|source| BaseError::Io { path: self.path, source })
    }
}

/// Reads predictions in the order in which they were written.
#[derive(Debug)]
pub struct BaseReader {
    path: PathBuf,
    file: BufReader<File>,
    row: Vec<u8>,
}

impl BaseReader {
    /// Opens a file and checks that it belongs to `windows` and `n_vocab`.
    pub fn open(path: &Path, windows: &Windows, n_vocab: u32) -> Result<Self, BaseError> {
        let file =
            File::open(path).map_err(|source| BaseError::Io { path: path.to_owned(), source })?;
        let row = vec![0; 8 + 2 * n_vocab as usize];
        let mut reader = BaseReader { path: path.to_owned(), file: BufReader::new(file), row };
        let mut magic = [0; 8];
        if reader.read(&mut magic).is_err() || &magic != MAGIC {
            return Err(BaseError::Magic { path: reader.path });
        }
        reader.expect("a vocabulary of", n_vocab)?;
        reader.expect("--ctx", windows.n_ctx() as u32)?;
        reader.expect("--chunks", windows.len() as u32)?;
        for &id in windows.tokens() {
            if reader.u32()? != id {
                return Err(BaseError::Text { path: reader.path });
            }
        }
        Ok(reader)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), BaseError> {
        let path = &self.path;
        self.file.read_exact(bytes).map_err(|source| BaseError::Io { path: path.clone(), source })
    }

    fn u32(&mut self) -> Result<TokenId, BaseError> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn expect(&mut self, what: &'static str, expected: u32) -> Result<(), BaseError> {
        let found = self.u32()?;
        if found != expected {
            return Err(BaseError::Mismatch { path: self.path.clone(), what, found, expected });
        }
        Ok(())
    }

    /// The next prediction's log-probabilities.
    pub fn next_into(&mut self, log_probs: &mut Vec<f32>) -> Result<(), BaseError> {
        let mut row = std::mem::take(&mut self.row);
        let read = self.read(&mut row);
        let float =
            |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let (max, step) = (float(0), float(4));
        log_probs.clear();
        let steps = row[8..].as_chunks::<2>().0;
        log_probs.extend(steps.iter().map(|&b| max - step * f32::from(u16::from_le_bytes(b))));
        self.row = row;
        read
    }
}
