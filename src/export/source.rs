//! Where the values of a tensor lie, and how rows of it are read as f32.
//!
//! One description for safetensors and GGUF: a range of a mapped file, how numbers are written there, and
//! in which order the rows are wanted. Rows are read in pieces of any size, so that no tensor has to be in
//! memory as a whole, and the pages behind them are given back.

use std::ops::Range;
use std::sync::Arc;

use crate::gguf::TensorType;
use crate::mapped::Bytes;

/// How numbers are written.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoding {
    /// As ggml writes them.
    Ggml(TensorType),
    /// 8-bit floats (E4M3FN), to be multiplied by scales.
    F8E4m3(Scales),
}

/// What the 8-bit floats of a matrix are multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// One number for all.
    Tensor(f32),
    /// One number for each block of `n_rows` × `n_cols`; blocks at the edges may be smaller.
    Blocks {
        /// Rows in a block.
        n_rows: u64,
        /// Columns in a block.
        n_cols: u64,
        /// Row by row of blocks.
        scales: Arc<[f32]>,
    },
}

/// In which order the rows of a matrix are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As they lie.
    AsIs,
    /// Of each of `n_head` heads first the two halves' first rows, then their second ones: from the
    /// half-split order of rotary embeddings, Hugging Face's, to interleaved pairs.
    Interleaved {
        /// Heads that the rows belong to; rows per head are even.
        n_head: u64,
    },
}

/// The values of one tensor.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// The file that holds it.
    pub file: &'a Bytes,
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// How they are written.
    pub encoding: Encoding,
    /// Elements in a row.
    pub n_cols: u64,
    /// Rows, over all further dimensions.
    pub n_rows: u64,
    /// Order of the rows in the output.
    pub order: RowOrder,
}

impl RowOrder {
    /// The row of the source that becomes row `row` of `n_rows`.
    pub fn source_row(self, row: u64, n_rows: u64) -> u64 {
        match self {
            Self::AsIs => row,
            Self::Interleaved { n_head } => {
                let n = n_rows / n_head;
                let (head, i) = (row / n, row % n);
                head * n + (i % 2) * (n / 2) + i / 2
            }
        }
    }
}
