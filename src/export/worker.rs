//! From a piece of the plan to bytes in its place: read, convert, look, write, hash.
//!
//! Each worker has one buffer of values and one of bytes, whatever the model's size, and gives the pages of
//! the source back behind itself. What a piece becomes depends on its rows alone, so the result is the same
//! however many workers there are.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::ExportError;
use super::pieces::Piece;
use super::target::Target;
use super::{Encoding, OutputFile, PlannedTensor};
use crate::ggml::{DType, max_value, needs_importance, quantize_rows};
use crate::gguf::{NotFinite, TensorType, not_finite};

/// What workers share.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) outputs: &'a [OutputFile<'a>],
    pub(super) targets: &'a [Target],
    /// The partial files.
    pub(super) files: &'a [File],
}

/// A worker's own memory.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// A piece that is in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) hash: [u8; 32],
    /// Whether an earlier run had written it.
    pub(super) was_there: bool,
}

impl Work<'_> {
    /// Brings a piece into its place, or finds that the bytes of hash `claim` are there.
    pub(super) fn finish(
        &self,
        piece: &Piece,
        claim: Option<&[u8; 32]>,
        buffers: &mut Buffers,
    ) -> Result<Finished, ExportError> {
        if let Some(claim) = claim
            && self.is_there(piece, claim, &mut buffers.bytes)
        {
            return Ok(Finished { hash: *claim, was_there: true });
        }
        let tensor = &self.outputs[piece.file].tensors[piece.tensor];
        let bytes = convert(tensor, piece, buffers)?;
        assert_eq!(bytes.len(), piece.n_bytes, "'{}' as the header says", tensor.name);
        let padding = vec![0; piece.n_padding];
        let end = piece.offset + piece.n_bytes as u64;
        let (file, target) = (&self.files[piece.file], &self.targets[piece.file]);
        file.write_all_at(&bytes, piece.offset)
            .and_then(|()| file.write_all_at(&padding, end))
            .map_err(|error| target.unwritten(piece.offset, error))?;
        let hash = *blake3::Hasher::new().update(&bytes).update(&padding).finalize().as_bytes();
        tensor.source.release(piece.rows.clone());
        Ok(Finished { hash, was_there: false })
    }

    /// Whether the file has bytes of this hash in the piece's place.
    fn is_there(&self, piece: &Piece, claim: &[u8; 32], bytes: &mut Vec<u8>) -> bool {
        bytes.resize(piece.n_bytes + piece.n_padding, 0);
        let read = self.files[piece.file].read_exact_at(bytes, piece.offset);
        read.is_ok() && blake3::hash(bytes).as_bytes() == claim
    }
}

/// The bytes of a piece.
fn convert<'b>(
    tensor: &'b PlannedTensor<'_>,
    piece: &Piece,
    buffers: &'b mut Buffers,
) -> Result<Cow<'b, [u8]>, ExportError> {
    let Buffers { values, bytes } = buffers;
    if is_copy(tensor) {
        let bytes = tensor.source.raw_rows(piece.rows.clone());
        return match not_finite(tensor.ty, &bytes) {
            None => Ok(bytes),
            Some(_) => Err(bad_values(tensor, piece)),
        };
    }
    let n_values = (piece.rows.end - piece.rows.start) * tensor.dims[0];
    values.resize(n_values as usize, 0.0);
    tensor.source.read_rows(piece.rows.start, values);
    let limit = limit(tensor);
    if !values.iter().all(|x| x.abs() <= limit) {
        return Err(bad_values(tensor, piece));
    }
    bytes.resize(piece.n_bytes, 0);
    quantize(tensor, piece.rows.start, values, bytes);
    match not_finite(tensor.ty, bytes) {
        None => Ok(Cow::Borrowed(bytes)),
        Some(NotFinite { n_bad, first }) => Err(ExportError::TooLarge {
            tensor: tensor.name.clone(),
            n_bad,
            row: piece.rows.start + first * tensor.ty.block_size() / tensor.dims[0],
            ty: tensor.ty,
        }),
    }
}

/// The largest value that the tensor may have; NaN and infinity are beyond every limit.
fn limit(tensor: &PlannedTensor<'_>) -> f32 {
    max_value(DType::from_id(tensor.ty.ggml_id()).expect("the types are ggml's"))
}

/// Whether the output has the source's own bytes, if in another order of rows.
fn is_copy(tensor: &PlannedTensor<'_>) -> bool {
    tensor.source.encoding == Encoding::Ggml(tensor.ty)
}

/// Quantizes rows from `first` on; of stacked matrices each has an importance of its own.
fn quantize(tensor: &PlannedTensor<'_>, first: u64, values: &[f32], out: &mut [u8]) {
    let dtype = DType::from_id(tensor.ty.ggml_id()).expect("the types are ggml's");
    let n_cols = tensor.dims[0] as usize;
    let row_bytes = out.len() / (values.len() / n_cols);
    let n_matrix_rows = tensor.dims.get(1).copied().unwrap_or(1);
    let Some(importance) = tensor.importance.filter(|weights| weights.len() > n_cols) else {
        return quantize_rows(dtype, values, n_cols, tensor.importance, out);
    };
    let (mut row, mut values, mut out) = (first, values, out);
    while !values.is_empty() {
        let matrix = (row / n_matrix_rows) as usize;
        let n = ((matrix as u64 + 1) * n_matrix_rows - row).min((values.len() / n_cols) as u64);
        let weights = &importance[matrix * n_cols..][..n_cols];
        let (now, later) = values.split_at(n as usize * n_cols);
        let (out_now, out_later) = out.split_at_mut(n as usize * row_bytes);
        quantize_rows(dtype, now, n_cols, Some(weights), out_now);
        (row, values, out) = (row + n, later, out_later);
    }
}

/// Refuses what cannot be converted, before anything is written.
pub(super) fn check(tensor: &PlannedTensor<'_>) -> Result<(), ExportError> {
    if is_copy(tensor) {
        return Ok(());
    }
    let (name, ty) = (|| tensor.name.clone(), tensor.ty);
    if !tensor.source.encoding.is_readable() || !ty.is_weight_type() || ty == TensorType::F8_E4M3 {
        let from = match &tensor.source.encoding {
            Encoding::Ggml(ty) => ty.to_string(),
            Encoding::F8E4m3(_) => "f8_e4m3".to_owned(),
        };
        return Err(ExportError::NoConversion { tensor: name(), from, to: ty });
    }
    let dtype = DType::from_id(ty.ggml_id()).expect("the types are ggml's");
    if tensor.importance.is_none() && needs_importance(dtype) {
        return Err(ExportError::NeedsImportance { tensor: name(), ty });
    }
    Ok(())
}

/// The error about a tensor of which `piece` is the first that has bad values: counts the rest of them.
fn bad_values(tensor: &PlannedTensor<'_>, piece: &Piece) -> ExportError {
    let (source, n_cols, limit) = (&tensor.source, tensor.dims[0], limit(tensor));
    let mut n_bad = 0;
    let mut first = None;
    let step = piece.rows.end - piece.rows.start;
    let mut start = piece.rows.start;
    while start < source.n_rows {
        let rows = start..source.n_rows.min(start + step);
        let found = if is_copy(tensor) {
            not_finite(tensor.ty, &source.raw_rows(rows.clone()))
        } else {
            let mut values = vec![0.0; ((rows.end - rows.start) * n_cols) as usize];
            source.read_rows(rows.start, &mut values);
            let fits = |x: &f32| x.abs() <= limit;
            let mut bad = values.iter().zip(0..).filter(|(x, _)| !fits(x));
            bad.next().map(|(_, first)| NotFinite { n_bad: 1 + bad.count() as u64, first })
        };
        source.release(rows.clone());
        if let Some(found) = found {
            n_bad += found.n_bad;
            let block_size = if is_copy(tensor) { tensor.ty.block_size() } else { 1 };
            first.get_or_insert(rows.start + found.first * block_size / n_cols);
        }
        start = rows.end;
    }
    let what = match is_copy(tensor) {
        true if tensor.ty.block_size() > 1 => {
            format!("NaN or infinity in {} scales of blocks", tensor.ty)
        }
        false if limit < f32::MAX => {
            format!("NaN, infinity or values beyond {limit:e}, which {} cannot hold", tensor.ty)
        }
        _ => "NaN or infinity".to_owned(),
    };
    let row = first.unwrap_or(piece.rows.start);
    ExportError::NotFinite { tensor: tensor.name.clone(), n_bad, row, found: what }
}
