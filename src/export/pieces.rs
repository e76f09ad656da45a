//! Cuts outputs into pieces of rows, the unit of work and of the journal.
//!
//! Where the cuts lie depends on the plan alone, not on threads, so that a run can go on where another one
//! with more or fewer stopped. A piece is small enough that each worker's memory stays at some megabytes,
//! and large enough that taking, hashing and recording one costs nothing.

use std::ops::Range;

use super::{OutputFile, PlannedTensor};
use crate::gguf::{HeaderBuilder, Layout};

/// Elements of a piece, unless a single row has more.
const N_ELEMENTS: u64 = 1 << 20;

/// Some rows of one tensor, and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the output.
    pub(super) file: usize,
    /// Index of the tensor in it.
    pub(super) tensor: usize,
    /// Rows of the output.
    pub(super) rows: Range<u64>,
    /// Offset in the file.
    pub(super) offset: u64,
    /// Bytes of the rows.
    pub(super) n_bytes: usize,
    /// Zero bytes that follow the tensor's last piece, up to the next tensor or the file's end.
    pub(super) n_padding: usize,
}

/// The header of an output.
pub(super) fn layout(file: &OutputFile<'_>) -> Layout {
    let mut header = HeaderBuilder::new();
    file.metadata.iter().for_each(|(key, value)| header.set(key, value));
    file.tensors.iter().for_each(|tensor| header.tensor(&tensor.name, tensor.ty, &tensor.dims));
    header.finish()
}

/// All pieces of all outputs, in the order in which they lie.
pub(super) fn pieces(files: &[OutputFile<'_>], layouts: &[Layout]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (idx, (file, layout)) in files.iter().zip(layouts).enumerate() {
        let ends = layout.tensors[..].iter().skip(1).map(|tensor| tensor.offset);
        let ends = ends.chain([layout.n_bytes]);
        for (i, ((tensor, info), end)) in
            file.tensors.iter().zip(&layout.tensors).zip(ends).enumerate()
        {
            let n_padding = (end - info.offset - info.n_bytes) as usize;
            cut(tensor, (idx, i), info.offset, n_padding, &mut pieces);
        }
    }
    pieces
}

fn cut(
    tensor: &PlannedTensor<'_>,
    (file, idx): (usize, usize),
    offset: u64,
    n_padding: usize,
    pieces: &mut Vec<Piece>,
) {
    let (n_cols, n_rows) = (tensor.dims[0], tensor.dims[1..].iter().product::<u64>());
    let source = &tensor.source;
    assert_eq!((source.n_cols, source.n_rows), (n_cols, n_rows), "'{}' as planned", tensor.name);
    let row_bytes = tensor.ty.row_bytes(n_cols).expect("the header was built");
    if n_cols == 0 {
        return;
    }
    let step = (N_ELEMENTS / n_cols).max(1);
    let mut start = 0;
    while start < n_rows {
        let rows = start..n_rows.min(start + step);
        start = rows.end;
        pieces.push(Piece {
            file,
            tensor: idx,
            offset: offset + rows.start * row_bytes,
            n_bytes: ((rows.end - rows.start) * row_bytes) as usize,
            n_padding: if rows.end == n_rows { n_padding } else { 0 },
            rows,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Encoding, RowOrder, Source};
    use crate::gguf::TensorType;
    use crate::mapped::Bytes;

    #[test]
    fn pieces_and_headers_fill_the_files() {
        let bytes = Bytes::Owned(Vec::new());
        let tensor = |name: &str, dims: &[u64]| PlannedTensor {
            name: name.to_owned(),
            ty: TensorType::F16,
            dims: dims.to_vec(),
            source: Source {
                file: &bytes,
                range: 0..0,
                encoding: Encoding::Ggml(TensorType::F32),
                n_cols: dims[0],
                n_rows: dims[1..].iter().product(),
                order: RowOrder::AsIs,
            },
            importance: None,
        };
        let tensors = [
            tensor("many rows", &[3, 700_001]),
            tensor("none", &[0, 4]),
            tensor("no rows", &[4, 0]),
            tensor("one long row", &[1 << 21]),
            tensor("stacked", &[7, 5, 3]),
        ];
        let files = [
            OutputFile { path: "a".into(), metadata: Vec::new(), tensors: tensors.to_vec() },
            OutputFile { path: "b".into(), metadata: Vec::new(), tensors: Vec::new() },
            OutputFile { path: "c".into(), metadata: Vec::new(), tensors: tensors[4..].to_vec() },
        ];
        let layouts: Vec<Layout> = files.iter().map(layout).collect();
        let pieces = pieces(&files, &layouts);
        assert_eq!(pieces.len(), 3 + 1 + 1 + 1);
        for (idx, layout) in layouts.iter().enumerate() {
            let mut end = layout.header.len() as u64;
            for piece in pieces.iter().filter(|piece| piece.file == idx) {
                assert_eq!(piece.offset, end);
                end += (piece.n_bytes + piece.n_padding) as u64;
            }
            assert_eq!(end, layout.n_bytes);
        }
    }
}
