//! The bytes of one file of weights: mapped, compiled in, or in memory.
//!
//! The only `unsafe` outside ggml stands here, around the two calls that need it. Nothing above
//! this file knows where bytes come from.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapMut};

/// Read-only bytes that outlive everything parsed from them.
#[derive(Debug)]
pub enum Bytes {
    /// A mapped file, page-aligned.
    Mapped(Mmap),
    /// Memory that no file backs: page-aligned, and lost when released.
    Anonymous(MmapMut),
    /// Compiled into the program.
    Static(&'static [u8]),
    /// Memory of no particular alignment.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps the whole file.
    ///
    /// A mapping is only as stable as the file: who truncates a model in use ends the process with
    /// SIGBUS, and who overwrites it changes weights under the computation. No program can prevent
    /// that; every path that replaces a file (download tools, package managers, our own writers)
    /// writes a new file and renames it, which leaves the mapped one intact.
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and private to this value; that the file keeps its
        // length and content while it is mapped is the contract described above.
        let mapping = unsafe { Mmap::map(file) }?;
        Ok(Self::Mapped(mapping))
    }

    /// Keeps a mapped file's pages in memory; of no effect on other bytes.
    pub fn lock(&self) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Self::Mapped(mapping) => mapping.lock(),
            _ => Ok(()),
        }
    }

    /// Tells the kernel that `range` will not be read soon; it stays readable, from disk.
    pub fn release(&self, range: &Range<usize>) {
        let Self::Mapped(mapping) = self else { return };
        if range.start >= range.end || range.end > mapping.len() {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            let n = range.end - range.start;
            // SAFETY: the mapping is shared, read-only and backed by a file, so dropped pages come
            // back unchanged from the file on the next access; no write can be lost.
            let advised = unsafe { mapping.unchecked_advise_range(advice, range.start, n) };
            // Advice that the kernel declines costs memory, not correctness.
            drop(advised);
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping,
            Self::Anonymous(mapping) => mapping,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}
