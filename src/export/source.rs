//! Where the values of a tensor lie, and how rows of it are read as f32.
//!
//! One description for safetensors and GGUF: a range of a mapped file, how numbers are written there, and
//! in which order the rows are wanted. Rows are read in pieces of any size, so that no tensor has to be in
//! memory as a whole, and the pages behind them are given back.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::fp8::E4M3;
use crate::ggml::{DType, dequantize_rows};
use crate::gguf::{Gguf, TensorInfo, TensorType};
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

impl Encoding {
    /// Bytes of `n` numbers in a row; `None` if they do not fill whole blocks.
    pub fn row_bytes(&self, n: u64) -> Option<u64> {
        match self {
            Self::Ggml(ty) => ty.row_bytes(n),
            Self::F8E4m3(_) => Some(n),
        }
    }

    /// Whether rows can be read as f32: ggml converts neither integers nor its types for activations.
    pub fn is_readable(&self) -> bool {
        use TensorType as T;
        let Self::Ggml(ty) = self else { return true };
        ty.is_weight_type() && *ty != T::F8_E4M3
    }
}

impl<'a> Source<'a> {
    /// A tensor of a GGUF.
    pub fn of(gguf: &'a Gguf, tensor: &TensorInfo) -> Self {
        let start = usize::try_from(tensor.offset).expect("inside a mapped file");
        let n_bytes = usize::try_from(tensor.n_bytes).expect("inside a mapped file");
        Self {
            file: gguf.parts()[tensor.part].file(),
            range: start..start + n_bytes,
            encoding: Encoding::Ggml(tensor.ty),
            n_cols: tensor.dims[0],
            n_rows: tensor.dims[1..].iter().product(),
            order: RowOrder::AsIs,
        }
    }

    /// Reads the rows of the output from `first` on, as many as `out` has room for.
    pub fn read_rows(&self, first: u64, out: &mut [f32]) {
        let n_cols = self.n_cols as usize;
        if n_cols == 0 {
            return;
        }
        match self.order {
            RowOrder::AsIs => self.convert(first, out),
            RowOrder::Interleaved { .. } => {
                for (row, out) in (first..).zip(out.chunks_exact_mut(n_cols)) {
                    self.convert(self.order.source_row(row, self.n_rows), out);
                }
            }
        }
    }

    /// The bytes of rows of the output, as the source writes them.
    pub fn raw_rows(&self, rows: Range<u64>) -> Cow<'a, [u8]> {
        match self.order {
            RowOrder::AsIs => Cow::Borrowed(self.bytes(rows)),
            RowOrder::Interleaved { .. } => {
                let mut bytes = Vec::new();
                for row in rows {
                    let row = self.order.source_row(row, self.n_rows);
                    bytes.extend_from_slice(self.bytes(row..row + 1));
                }
                Cow::Owned(bytes)
            }
        }
    }

    /// Tells the kernel that these rows of the output have been read.
    pub fn release(&self, rows: Range<u64>) {
        self.file.release(&self.bytes_of(self.order.source_rows(rows, self.n_rows)));
    }

    /// Reads rows that lie one after another in the source, the first of which is `row`.
    fn convert(&self, row: u64, out: &mut [f32]) {
        let n_cols = self.n_cols as usize;
        let bytes = self.bytes(row..row + (out.len() / n_cols) as u64);
        match &self.encoding {
            Encoding::Ggml(ty) => {
                let dtype = DType::from_id(ty.ggml_id()).expect("the types are ggml's");
                dequantize_rows(dtype, bytes, out);
            }
            Encoding::F8E4m3(scales) => {
                let rows = bytes.chunks_exact(n_cols).zip(out.chunks_exact_mut(n_cols));
                for (row, (bytes, out)) in (row..).zip(rows) {
                    scales.apply(row, bytes, out);
                }
            }
        }
    }

    /// Where rows lie that follow one another in the source.
    fn bytes_of(&self, rows: Range<u64>) -> Range<usize> {
        let n = self.encoding.row_bytes(self.n_cols).expect("rows are whole blocks") as usize;
        self.range.start + rows.start as usize * n..self.range.start + rows.end as usize * n
    }

    fn bytes(&self, rows: Range<u64>) -> &'a [u8] {
        let range = self.bytes_of(rows);
        assert!(range.end <= self.range.end, "the rows are the tensor's");
        &self.file.as_ref()[range]
    }
}

impl Scales {
    /// The values of one row.
    fn apply(&self, row: u64, codes: &[u8], out: &mut [f32]) {
        let look_up = |codes: &[u8], out: &mut [f32], scale: f32| {
            out.iter_mut().zip(codes).for_each(|(x, &code)| *x = E4M3[usize::from(code)] * scale);
        };
        match self {
            Self::Tensor(scale) => look_up(codes, out, *scale),
            Self::Blocks { n_rows, n_cols, scales } => {
                let width = *n_cols as usize;
                let n_blocks = codes.len().div_ceil(width);
                let scales = &scales[(row / n_rows) as usize * n_blocks..];
                let blocks = codes.chunks(width).zip(out.chunks_mut(width));
                for ((codes, out), &scale) in blocks.zip(scales) {
                    look_up(codes, out, scale);
                }
            }
        }
    }
}

impl RowOrder {
    /// Rows of the source that hold at least those of the output.
    fn source_rows(self, rows: Range<u64>, n_rows: u64) -> Range<u64> {
        match self {
            Self::AsIs => rows,
            Self::Interleaved { n_head } => {
                let n = n_rows / n_head;
                rows.start / n * n..rows.end.div_ceil(n) * n
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &Bytes, encoding: Encoding, n_cols: u64, order: RowOrder) -> Source<'_> {
        let n = file.as_ref().len();
        let n_rows = n as u64 / encoding.row_bytes(n_cols).unwrap();
        Source { file, range: 0..n, encoding, n_cols, n_rows, order }
    }

    fn read(source: &Source<'_>, first: u64, n_rows: usize) -> Vec<f32> {
        let mut out = vec![0.0; n_rows * source.n_cols as usize];
        source.read_rows(first, &mut out);
        out
    }

    #[test]
    fn rows_of_heads_are_interleaved() {
        let file = Bytes::Owned((0..8u8).collect());
        let encoding = Encoding::Ggml(TensorType::I8);
        let order = RowOrder::Interleaved { n_head: 2 };
        let source = source(&file, encoding, 1, order);
        assert_eq!(*source.raw_rows(0..8), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(*source.raw_rows(3..6), [3, 4, 6]);
        assert_eq!(order.source_rows(3..6, 8), 0..8);
        assert_eq!(order.source_rows(4..6, 8), 4..8);
    }

    #[test]
    fn pieces_are_the_whole_in_every_float_type() {
        let values: Vec<f32> = (0..24).map(|i| i as f32 - 7.5).collect();
        let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()[2..].to_vec()).collect();
        for (ty, bytes) in [(TensorType::F32, f32s), (TensorType::BF16, bf16s)] {
            // Not aligned to anything in the file.
            let file = Bytes::Owned([&[0u8], &bytes[..]].concat());
            for order in [RowOrder::AsIs, RowOrder::Interleaved { n_head: 3 }] {
                let (encoding, range) = (Encoding::Ggml(ty), 1..bytes.len() + 1);
                let source = Source { file: &file, range, encoding, n_cols: 2, n_rows: 12, order };
                let whole = read(&source, 0, 12);
                let rows = (0..12).map(|row| order.source_row(row, 12) as usize);
                let expected = rows.flat_map(|row| values[2 * row..2 * row + 2].to_vec());
                assert_eq!(whole, expected.collect::<Vec<_>>(), "{ty}");
                let pieces = [read(&source, 0, 5), read(&source, 5, 4), read(&source, 9, 3)];
                assert_eq!(pieces.concat(), whole, "{ty}");
            }
        }
    }

    #[test]
    fn eight_bit_floats_are_multiplied_by_their_block() {
        // 1.0, and with a set sign bit -1.0.
        let file = Bytes::Owned([0x38, 0xb8].repeat(15));
        let tensor = Encoding::F8E4m3(Scales::Tensor(3.0));
        assert_eq!(read(&source(&file, tensor, 5, RowOrder::AsIs), 4, 1), [3., -3., 3., -3., 3.]);
        let scales = (1..=6).map(|x| x as f32).collect();
        let blocks = Encoding::F8E4m3(Scales::Blocks { n_rows: 4, n_cols: 2, scales });
        let source = source(&file, blocks, 5, RowOrder::AsIs);
        assert_eq!(read(&source, 3, 2), [-1., 1., -2., 2., -3., 4., -4., 5., -5., 6.]);
    }
}
