//! Rows of numbers to and from ggml's block formats.

use ggml_sys as sys;

use super::DType;

/// Quantizes whole rows of `n_per_row` values into `out`, which has exactly their size.
///
/// `importance` weighs the columns of every row. Types that cannot do without one
/// ([`DType::needs_importance`]) panic without.
pub fn quantize_rows(
    dtype: DType,
    values: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    assert!(n_per_row > 0 && values.len().is_multiple_of(n_per_row), "whole rows only");
    assert!(importance.is_none_or(|weights| weights.len() == n_per_row), "a weight a column");
    assert!(importance.is_some() || !dtype.needs_importance(), "{dtype:?} needs importance");
    let n_rows = values.len() / n_per_row;
    assert_eq!(out.len(), n_rows * dtype.row_size(n_per_row as i64), "room for the rows");
    // SAFETY: sizes were checked; quantize_chunk initialises its tables itself.
    unsafe {
        sys::ggml_quantize_chunk(
            dtype.0,
            values.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            n_per_row as i64,
            importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
        );
    }
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

/// Writes the f32 values of whole rows that lie one after another into `out`.
pub fn dequantize_rows(dtype: DType, rows: &[u8], out: &mut [f32]) {
    assert_eq!(rows.len(), dtype.row_size(out.len() as i64), "bytes of as many values");
    if dtype == DType::F32 {
        let bytes = rows.as_chunks::<4>().0;
        out.iter_mut().zip(bytes).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
        return;
    }
    // ggml's loops take their blocks to be aligned; a file of another format need not be.
    let copy;
    let rows = match rows.as_ptr().align_offset(4) {
        0 => rows,
        _ => {
            copy = rows.to_vec();
            &copy
        }
    };
    // SAFETY: sizes were checked; the type's traits are a static table.
    unsafe {
        let traits = &*sys::ggml_get_type_traits(dtype.0);
        let to_float = traits.to_float.expect("the caller has asked whether the type converts");
        to_float(rows.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64);
    }
}

impl DType {
    /// Whether [`quantize_rows`] takes this type only with an importance matrix.
    pub fn needs_importance(self) -> bool {
        matches!(self.0, sys::GGML_TYPE_IQ2_XXS | sys::GGML_TYPE_IQ2_XS | sys::GGML_TYPE_IQ1_S)
    }
}
