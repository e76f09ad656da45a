//! Up to sixteen super-blocks that are quantized at once, and what all formats do with them.
//!
//! Searches take the numbers turned, the same place of all super-blocks in one vector. The last
//! step, rounding with the scales as stored, goes along the rows as they lie.

use ggml_sys as sys;

use super::lanes::{Floats, LANES, Simd};

/// Numbers in a super-block.
pub(super) const QK_K: usize = 256;

/// One number for each super-block of a batch.
pub(super) type Each = [f32; LANES];

/// What stands in for the super-blocks that a short batch lacks.
static ZEROS: [f32; QK_K] = [0.0; QK_K];

/// Consecutive super-blocks, at most [`LANES`].
pub(super) struct Batch<'a> {
    pub(super) x: &'a [[f32; QK_K]],
    /// The importance of a row's columns; its rows may end within the batch.
    pub(super) importance: Option<&'a [[f32; QK_K]]>,
    /// Where in its row the first super-block stands.
    pub(super) first: usize,
}

impl Batch<'_> {
    /// The numbers, turned.
    #[inline(always)]
    pub(super) fn turned<S: Simd>(&self, s: S) -> [S::F; QK_K] {
        let mut rows = [&ZEROS; LANES];
        for (row, x) in rows.iter_mut().zip(self.x) {
            *row = x;
        }
        turn(s, rows)
    }

    /// The importance of each number, turned.
    #[inline(always)]
    pub(super) fn turned_importance<S: Simd>(&self, s: S, row: &[[f32; QK_K]]) -> [S::F; QK_K] {
        let mut rows = [&ZEROS; LANES];
        for (i, columns) in rows.iter_mut().enumerate() {
            *columns = &row[(self.first + i) % row.len()];
        }
        turn(s, rows)
    }
}

#[inline(always)]
fn turn<S: Simd>(s: S, rows: [&[f32; QK_K]; LANES]) -> [S::F; QK_K] {
    let mut turned = [s.splat(0.0); QK_K];
    for (i, vector) in turned.iter_mut().enumerate() {
        let mut lanes = [0.0; LANES];
        for (lane, row) in lanes.iter_mut().zip(rows) {
            *lane = row[i];
        }
        *vector = s.load(&lanes);
    }
    turned
}

/// The sum of the squares of all numbers, in their order.
#[inline(always)]
pub(super) fn sum_of_squares<S: Simd>(s: S, x: &[S::F]) -> S::F {
    let mut sum = s.splat(0.0);
    for &x in x {
        sum = sum + x * x;
    }
    sum
}

/// Numbers as F16 keeps them: the bits, and what they mean.
pub(super) struct Halves {
    pub(super) bits: [u16; LANES],
    pub(super) values: Each,
}

impl Halves {
    /// Rounds as ggml does.
    pub(super) fn of(values: Each) -> Self {
        let (mut bits, mut back) = ([0; LANES], [0.0; LANES]);
        // SAFETY: LANES numbers are read and written, and all arrays have that many.
        unsafe {
            sys::ggml_fp32_to_fp16_row(values.as_ptr(), bits.as_mut_ptr(), LANES as i64);
            sys::ggml_fp16_to_fp32_row(bits.as_ptr(), back.as_mut_ptr(), LANES as i64);
        }
        Self { bits, values: back }
    }
}

/// How the numbers of a sub-block become levels: `(x + min) / scale`, from `low` to `high`, with `-low`
/// added.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    pub(super) low: f32,
    pub(super) high: f32,
}

/// The levels of a super-block, with its scales and minima of `N` numbers each. Where a scale is zero,
/// ggml leaves what its search had, which is lane `lane` of `searched`.
#[inline(always)]
pub(super) fn levels<S: Simd, const N: usize>(
    s: S,
    rounding: Rounding,
    x: &[f32; QK_K],
    scales: &[(f32, f32)],
    searched: &[S::F; QK_K],
    lane: usize,
) -> [u8; QK_K] {
    let (low, high) = (s.splat(rounding.low), s.splat(rounding.high));
    let mut levels = [0; QK_K];
    let vectors = levels.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0);
    for (i, (out, x)) in vectors.enumerate() {
        let (scale, min) = scales[i * LANES / N];
        if scale == 0.0 {
            for (level, vector) in out.iter_mut().zip(&searched[i * LANES..]) {
                *level = vector.store_u8()[lane];
            }
            continue;
        }
        let level = ((s.load(x) + s.splat(min)) / s.splat(scale)).nearest();
        *out = (level.min(high).max(low) - low).store_u8();
    }
    levels
}
