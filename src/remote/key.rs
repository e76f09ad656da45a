//! The key that client and worker share.
//!
//! Whoever has it can use the worker's devices and memory, and in the end run code there: it is worth as much
//! as a login. A recorded handshake lets one try out keys at leisure, so a key should be one that nobody
//! guesses; `gust worker --new-key` makes such.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Fewest characters of a key.
const MIN_CHARS: usize = 16;
/// Most bytes of a file that is read as a key.
const MAX_BYTES: u64 = 4096;
/// What the hash is for, so that the same key elsewhere gives other bytes.
const PURPOSE: &str = "gust worker 2026: key of the tunnel";
/// The environment's variable with the key itself.
const VARIABLE: &str = "GUST_WORKER_KEY";

/// A shared key, as the handshake takes it.
#[derive(Clone)]
pub struct Key(pub(super) [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("worker key {path}: {error}")]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It would be guessed.
    #[error(
        "the worker key in {origin} has {found} characters, expected at least {MIN_CHARS}; `gust worker --new-key` \
         makes one"
    )]
    Short {
        /// Where it was found.
        origin: String,
        /// How long it is.
        found: usize,
    },
    /// It is no text, or too much of it.
    #[error("the worker key in {0} is not one line of text of at most {MAX_BYTES} bytes")]
    NotText(String),
    /// Nobody gave any.
    #[error(
        "no worker key: give --worker-key FILE or set {VARIABLE}; make one with `gust worker --new-key > FILE` and \
         use it on both machines"
    )]
    Missing,
}

impl Key {
    /// The key in `file`, or else the one in the environment.
    pub fn find(file: Option<&Path>) -> Result<Self, KeyError> {
        if let Some(path) = file {
            let failed = |error| KeyError::Read { path: path.to_owned(), error };
            let mut bytes = Vec::new();
            let opened = File::open(path).map_err(failed)?;
            opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
            return Self::from_bytes(&bytes, path.display().to_string());
        }
        match std::env::var_os(VARIABLE) {
            Some(text) => Self::from_bytes(text.as_encoded_bytes(), VARIABLE.to_owned()),
            None => Err(KeyError::Missing),
        }
    }

    /// The key that is written as `bytes`; blanks and line ends around it are no part of it.
    pub fn from_bytes(bytes: &[u8], origin: String) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map(str::trim);
        let text = match text {
            Ok(text) if bytes.len() as u64 <= MAX_BYTES && !text.contains(['\n', '\0']) => text,
            _ => return Err(KeyError::NotText(origin)),
        };
        match text.chars().count() {
            found if found < MIN_CHARS => Err(KeyError::Short { origin, found }),
            _ => Ok(Key(blake3::derive_key(PURPOSE, text.as_bytes()))),
        }
    }

    /// A text that nobody guesses.
    pub fn new_text() -> io::Result<String> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Whether others on this machine can read the file, which ssh would refuse.
pub fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> Result<[u8; 32], KeyError> {
        Key::from_bytes(bytes, "here".to_owned()).map(|key| key.0)
    }

    #[test]
    fn line_ends_do_not_count_and_short_keys_are_refused() {
        let bare = key(b"0123456789abcdef").unwrap();
        assert_eq!(key(b" 0123456789abcdef\r\n").unwrap(), bare);
        assert_ne!(key(b"0123456789abcdeg").unwrap(), bare);
        assert!(matches!(key(b"0123456789abcde\n"), Err(KeyError::Short { found: 15, .. })));
        assert!(matches!(key(&[0xff; 20]), Err(KeyError::NotText(_))));
        assert!(matches!(key(&[b'a'; 5000]), Err(KeyError::NotText(_))));
        assert!(matches!(key(b"0123456789\n0123456789"), Err(KeyError::NotText(_))));
        assert_ne!(Key::new_text().unwrap(), Key::new_text().unwrap());
        assert!(key(Key::new_text().unwrap().as_bytes()).is_ok());
    }
}
