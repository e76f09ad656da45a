//! Rows of numbers to and from ggml's block formats.

use ggml_sys as sys;

use super::DType;

/// Quantizes whole rows of `n_per_row` values, without an importance matrix.
pub fn quantize_rows(dtype: DType, values: &[f32], n_per_row: usize) -> Vec<u8> {
    assert!(n_per_row > 0 && values.len().is_multiple_of(n_per_row), "whole rows only");
    let n_rows = values.len() / n_per_row;
    let mut out = vec![0u8; n_rows * dtype.row_size(n_per_row as i64)];
    // SAFETY: out has the size that ggml_row_size gives for these rows; quantize_chunk initialises
    // its tables itself.
    unsafe {
        sys::ggml_quantize_chunk(
            dtype.0,
            values.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            n_per_row as i64,
            std::ptr::null(),
        );
    }
    out
}

/// The f32 values of a row of `n` elements.
pub fn dequantize_row(dtype: DType, row: &[u8], n: usize) -> Vec<f32> {
    assert_eq!(row.len(), dtype.row_size(n as i64), "one whole row");
    if dtype == DType::F32 {
        return row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    }
    let mut out = vec![0f32; n];
    // SAFETY: sizes were checked; the type's traits are a static table.
    unsafe {
        let traits = &*sys::ggml_get_type_traits(dtype.0);
        let to_float = traits.to_float.expect("every storage type but F32 converts to float");
        to_float(row.as_ptr().cast(), out.as_mut_ptr(), n as i64);
    }
    out
}
