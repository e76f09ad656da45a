//! Rows of numbers to and from ggml's block formats.
//!
//! ggml's quantizers take one number at a time and are what a conversion waits for. On x86-64 the
//! K-quants therefore have vector code of our own (`affine`, `symmetric`, over `search` and `lanes`),
//! which does the same arithmetic in the same order for 16 super-blocks at once and gives the same
//! bytes. Everything else, and every other processor, is ggml's.
//!
//! All functions are free of locks but for the first use of an IQ type, whose tables ggml builds
//! inside a critical section of its own; any number of threads may convert rows at once.

#[cfg(target_arch = "x86_64")]
mod affine;
#[cfg(target_arch = "x86_64")]
mod batch;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod quantizer;
#[cfg(target_arch = "x86_64")]
mod search;
#[cfg(target_arch = "x86_64")]
mod symmetric;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use ggml_sys as sys;

pub use quantizer::Quantizer;

use super::DType;

/// Quantizes whole rows of `n_per_row` values into `out`, which has exactly their size.
///
/// `importance` weighs the error of each column, as an importance matrix holds it for the tensor. The
/// bytes are those of `ggml_quantize_chunk`.
pub fn quantize_rows(
    dtype: DType,
    values: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let fastest = Quantizer::all().next().expect("ggml is always there");
    fastest.quantize_rows(dtype, values, n_per_row, importance, out);
}

/// Whether ggml can quantize to this type only with an importance matrix.
pub fn needs_importance(dtype: DType) -> bool {
    // SAFETY: compares the number of a type with three others.
    unsafe { sys::ggml_quantize_requires_imatrix(dtype.0) }
}

/// Rows whose sizes have been checked.
struct Rows<'a> {
    values: &'a [f32],
    n_per_row: usize,
    importance: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    fn new(
        dtype: DType,
        values: &'a [f32],
        n_per_row: usize,
        importance: Option<&'a [f32]>,
        n_out: usize,
    ) -> Self {
        assert!(n_per_row > 0 && values.len().is_multiple_of(n_per_row), "whole rows only");
        let n_rows = values.len() / n_per_row;
        assert_eq!(n_out, n_rows * dtype.row_size(n_per_row as i64), "room for exactly these rows");
        match importance {
            Some(columns) => assert_eq!(columns.len(), n_per_row, "a number for each column"),
            None => assert!(!needs_importance(dtype), "{dtype:?} takes an importance matrix"),
        }
        Self { values, n_per_row, importance }
    }
}

/// The f32 values of whole blocks, `out.len()` of them; rows may follow each other.
pub fn dequantize_rows(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), dtype.row_size(out.len() as i64), "the bytes of exactly these values");
    if dtype == DType::F32 {
        for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        return;
    }
    // ggml's loops take their blocks to be aligned; a file of another format need not be.
    let copy;
    let bytes = match bytes.as_ptr().align_offset(4) {
        0 => bytes,
        _ => {
            copy = bytes.to_vec();
            &copy
        }
    };
    // SAFETY: sizes were checked; the type's traits are a static table.
    unsafe {
        let traits = &*sys::ggml_get_type_traits(dtype.0);
        let to_float = traits.to_float.expect("every storage type but F32 converts to float");
        to_float(bytes.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64);
    }
}
