//! Names of requests: told in headers, logs, and the ids of answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a request: 24 hexadecimal digits, never twice, not to be guessed from another one.
///
/// It stands in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// A new name.
    pub(crate) fn new() -> Self {
        static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
            let mut key = [0; 32];
            for (k, part) in key.chunks_exact_mut(8).enumerate() {
                // Each state is seeded by the system.
                part.copy_from_slice(&RandomState::new().hash_one(k).to_le_bytes());
            }
            key
        });
        static N: AtomicU64 = AtomicU64::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&KEY, &n.to_le_bytes());
        Self(hash.to_hex()[..24].to_owned())
    }

    /// Its digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
