//! Rows of numbers to and from ggml's block formats.
//!
//! All functions are free of locks but for the first use of an IQ type, whose tables ggml builds
//! inside a critical section of its own; any number of threads may convert rows at once.

use ggml_sys as sys;

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
    let rows = Rows::new(dtype, values, n_per_row, importance, out.len());
    by_ggml(dtype, &rows, out);
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

fn by_ggml(dtype: DType, rows: &Rows<'_>, out: &mut [u8]) {
    let n_rows = rows.values.len() / rows.n_per_row;
    // SAFETY: Rows::new checked that values, importance and out have the sizes that ggml derives from
    // n_rows and n_per_row; quantize_chunk initialises its tables itself.
    unsafe {
        sys::ggml_quantize_chunk(
            dtype.0,
            rows.values.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            rows.n_per_row as i64,
            rows.importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
        );
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
