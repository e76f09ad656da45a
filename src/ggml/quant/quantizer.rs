//! Who quantizes: ggml, or code of ours for instructions that the processor has.
//!
//! All give the same bytes; tests and `cargo bench --bench quantize` hold them against each other.

use super::{DType, Rows, sys};
#[cfg(target_arch = "x86_64")]
use super::{
    affine,
    batch::{Batch, QK_K},
    lanes::{LANES, Simd},
    symmetric,
    x86::{Avx2, Avx512},
};

/// One way to quantize, which this processor can go.
#[derive(Clone, Copy)]
pub struct Quantizer(Code);

#[derive(Clone, Copy)]
enum Code {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Ggml,
}

impl Quantizer {
    /// All that this processor can, the fastest first and ggml last.
    pub fn all() -> impl Iterator<Item = Quantizer> {
        #[cfg(target_arch = "x86_64")]
        let ours = [Avx512::detect().map(Code::Avx512), Avx2::detect().map(Code::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let ours: [Option<Code>; 0] = [];
        ours.into_iter().flatten().chain([Code::Ggml]).map(Quantizer)
    }

    /// The instructions it needs, or whose it is.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(_) => "AVX2",
            Code::Ggml => "ggml",
        }
    }

    /// [`quantize_rows`](super::quantize_rows) this way; types that it does not know are ggml's.
    pub fn quantize_rows(
        self,
        dtype: DType,
        values: &[f32],
        n_per_row: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        let rows = Rows::new(dtype, values, n_per_row, importance, out.len());
        let known = match self.0 {
            // SAFETY: the token exists only where the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(s) => unsafe { avx512(s, dtype, &rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(s) => unsafe { avx2(s, dtype, &rows, out) },
            Code::Ggml => false,
        };
        if !known {
            by_ggml(dtype, &rows, out);
        }
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(s: Avx512, dtype: DType, rows: &Rows<'_>, out: &mut [u8]) -> bool {
    quantize(s, dtype, rows, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(s: Avx2, dtype: DType, rows: &Rows<'_>, out: &mut [u8]) -> bool {
    quantize(s, dtype, rows, out)
}

/// Says whether it knows the type. All of it is inlined into a function that enables the
/// instructions; a closure that takes vectors would not be.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn quantize<S: Simd>(s: S, dtype: DType, rows: &Rows<'_>, out: &mut [u8]) -> bool {
    match dtype.0 {
        sys::GGML_TYPE_Q2_K => {
            for (batch, out) in batches(rows, out) {
                affine::q2_k(s, &batch, out);
            }
        }
        sys::GGML_TYPE_Q3_K => {
            for (batch, out) in batches(rows, out) {
                symmetric::q3_k(s, &batch, out);
            }
        }
        sys::GGML_TYPE_Q4_K => {
            for (batch, out) in batches(rows, out) {
                affine::q4_k(s, &batch, out);
            }
        }
        sys::GGML_TYPE_Q5_K => {
            for (batch, out) in batches(rows, out) {
                affine::q5_k(s, &batch, out);
            }
        }
        sys::GGML_TYPE_Q6_K => {
            for (batch, out) in batches(rows, out) {
                symmetric::q6_k(s, &batch, out);
            }
        }
        _ => return false,
    }
    true
}

/// Cuts rows, and the blocks to be written, into batches.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn batches<'a, const BYTES: usize>(
    rows: &'a Rows<'_>,
    out: &'a mut [u8],
) -> impl Iterator<Item = (Batch<'a>, &'a mut [[u8; BYTES]])> {
    let x = rows.values.as_chunks::<QK_K>().0.chunks(LANES);
    let out = out.as_chunks_mut::<BYTES>().0.chunks_mut(LANES);
    let importance = rows.importance.map(|columns| columns.as_chunks::<QK_K>().0);
    let batch = move |(i, (x, out))| (Batch { x, importance, first: i * LANES }, out);
    x.zip(out).enumerate().map(batch)
}
