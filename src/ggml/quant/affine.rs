//! Q2_K, Q4_K and Q5_K: sub-blocks with a scale and a minimum, both in few bits of two F16.
//!
//! The formats share one path (scales of sub-blocks by [`search`], their levels, the super-block's two
//! numbers, rounding) and differ in its parameters and in how bytes are packed.

use super::batch::{Batch, Each, Halves, QK_K, Rounding, levels, sum_of_squares};
use super::lanes::{Floats, LANES, Simd};
use super::search::{self, Affine};

/// What distinguishes a format up to its packing.
struct Format {
    /// Without importance, and with.
    plain: Affine,
    weighted: Affine,
    /// The highest level of a scale or minimum.
    top: f32,
    /// Without importance, a number weighs `|x|` plus the root mean square of its sub-block.
    root_mean: bool,
    /// With importance, by how much the mean square of the super-block counts.
    sigma: f32,
}

const fn affine(n_max: f32, r_min: f32, r_delta: f32, n_steps: i32) -> Affine {
    Affine { n_max, r_min, r_delta, n_steps, absolute: false, clamps_first: false }
}

const fn weighted(n_max: f32) -> Affine {
    Affine { clamps_first: true, ..affine(n_max, -0.9, 0.05, 36) }
}

const Q2_K: Format = Format {
    plain: Affine { absolute: true, ..affine(3.0, -0.5, 0.1, 15) },
    weighted: weighted(3.0),
    top: 15.0,
    root_mean: false,
    sigma: 1.0,
};

const Q4_K: Format = Format {
    plain: affine(15.0, -1.0, 0.1, 20),
    weighted: weighted(15.0),
    top: 63.0,
    root_mean: true,
    sigma: 2.0,
};

const Q5_K: Format =
    Format { plain: affine(31.0, -0.5, 0.1, 15), weighted: weighted(31.0), ..Q4_K };

/// Scales and minima of a batch with `SUBS` sub-blocks to a super-block.
struct Scaled<const SUBS: usize> {
    d: Halves,
    d_min: Halves,
    scales: [Each; SUBS],
    mins: [Each; SUBS],
}

impl<const SUBS: usize> Scaled<SUBS> {
    /// The levels of scales and of minima of one super-block.
    #[inline(always)]
    fn of(&self, lane: usize) -> ([u8; SUBS], [u8; SUBS]) {
        let (mut scales, mut mins) = ([0; SUBS], [0; SUBS]);
        for j in 0..SUBS {
            scales[j] = self.scales[j][lane] as u8;
            mins[j] = self.mins[j][lane] as u8;
        }
        (scales, mins)
    }

    /// The scales and minima of one super-block as a reader computes them.
    #[inline(always)]
    fn values(&self, lane: usize, scales: [u8; SUBS], mins: [u8; SUBS]) -> [(f32, f32); SUBS] {
        let (d, d_min) = (self.d.values[lane], self.d_min.values[lane]);
        let mut values = [(0.0, 0.0); SUBS];
        for j in 0..SUBS {
            values[j] = (d * f32::from(scales[j]), d_min * f32::from(mins[j]));
        }
        values
    }
}

/// Scales of a batch, and the levels that the search had.
#[inline(always)]
fn scaled<S: Simd, const N: usize, const SUBS: usize>(
    s: S,
    format: &Format,
    batch: &Batch<'_>,
    searched: &mut [S::F; QK_K],
) -> Scaled<SUBS> {
    let zero = s.splat(0.0);
    let x = batch.turned(s);
    let x = x.as_chunks::<N>().0;
    let searched = searched.as_chunks_mut::<N>().0;
    let (mut scales, mut mins) = ([zero; SUBS], [zero; SUBS]);
    let mut w = [zero; N];
    if let Some(importance) = batch.importance {
        let importance = batch.turned_importance(s, importance);
        let importance = importance.as_chunks::<N>().0;
        let mut sums = [zero; SUBS];
        let sum = sum_of_squares(s, x.as_flattened());
        let sigma2 = s.splat(format.sigma) * sum / s.splat(QK_K as f32);
        for j in 0..SUBS {
            for i in 0..N {
                w[i] = importance[j][i] * (sigma2 + x[j][i] * x[j][i]).sqrt();
                sums[j] = sums[j] + w[i];
            }
            (scales[j], mins[j]) = search::affine(s, format.weighted, &x[j], &w, &mut searched[j]);
        }
        let (d, scales) = search::positive(s, format.top, &scales, &sums);
        let (d_min, mins) = search::positive(s, format.top, &mins, &sums);
        return stored(d, d_min, scales, mins);
    }
    for j in 0..SUBS {
        let mean = match format.root_mean {
            true => (sum_of_squares(s, &x[j]) / s.splat(N as f32)).sqrt(),
            false => zero,
        };
        for i in 0..N {
            w[i] = mean + x[j][i].abs();
        }
        (scales[j], mins[j]) = search::affine(s, format.plain, &x[j], &w, &mut searched[j]);
    }
    let (d, scales) = stepped(s, format.top, scales);
    let (d_min, mins) = stepped(s, format.top, mins);
    stored(d, d_min, scales, mins)
}

/// Levels of `values`, the largest of which gets level `top`, and the step between levels.
#[inline(always)]
fn stepped<S: Simd, const SUBS: usize>(
    s: S,
    top: f32,
    values: [S::F; SUBS],
) -> (S::F, [S::F; SUBS]) {
    let (zero, top) = (s.splat(0.0), s.splat(top));
    let mut max = zero;
    for value in values {
        max = value.max(max);
    }
    let inverse = (top / max).or(max.gt(zero), zero);
    let mut levels = values;
    for level in &mut levels {
        *level = (inverse * *level).nearest_u8();
    }
    (max / top, levels)
}

#[inline(always)]
fn stored<F: Floats, const SUBS: usize>(
    d: F,
    d_min: F,
    scales: [F; SUBS],
    mins: [F; SUBS],
) -> Scaled<SUBS> {
    let mut scaled = Scaled {
        d: Halves::of(d.store()),
        d_min: Halves::of(d_min.store()),
        scales: [[0.0; LANES]; SUBS],
        mins: [[0.0; LANES]; SUBS],
    };
    for j in 0..SUBS {
        scaled.scales[j] = scales[j].store();
        scaled.mins[j] = mins[j].store();
    }
    scaled
}

/// Bytes of a block: `scales[16] qs[64] d dmin`.
pub(super) const Q2_K_BYTES: usize = 84;

#[inline(always)]
pub(super) fn q2_k<S: Simd>(s: S, batch: &Batch<'_>, out: &mut [[u8; Q2_K_BYTES]]) {
    let mut searched = [s.splat(0.0); QK_K];
    let scaled = scaled::<S, 16, 16>(s, &Q2_K, batch, &mut searched);
    for (lane, (block, x)) in out.iter_mut().zip(batch.x).enumerate() {
        let (mut scales, mut mins) = scaled.of(lane);
        for j in 0..16 {
            block[j] = scales[j] | mins[j] << 4;
            (scales[j], mins[j]) = (block[j] & 15, block[j] >> 4);
        }
        let values = scaled.values(lane, scales, mins);
        let rounding = Rounding { low: 0.0, high: 3.0 };
        let levels = levels::<S, 16>(s, rounding, x, &values, &searched, lane);
        pack_2_bits(&levels, &mut block[16..80]);
        block[80..82].copy_from_slice(&scaled.d.bits[lane].to_le_bytes());
        block[82..84].copy_from_slice(&scaled.d_min.bits[lane].to_le_bytes());
    }
}

/// Four levels to a byte, 32 apart.
#[inline(always)]
pub(super) fn pack_2_bits(levels: &[u8; QK_K], out: &mut [u8]) {
    for (half, out) in levels.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let mut packed = [0; 32];
        for l in 0..32 {
            packed[l] = half[l] | half[l + 32] << 2 | half[l + 64] << 4 | half[l + 96] << 6;
        }
        *out = packed;
    }
}

/// Bytes of a block: `d dmin scales[12] qs[128]`.
pub(super) const Q4_K_BYTES: usize = 144;

#[inline(always)]
pub(super) fn q4_k<S: Simd>(s: S, batch: &Batch<'_>, out: &mut [[u8; Q4_K_BYTES]]) {
    let mut searched = [s.splat(0.0); QK_K];
    let scaled = scaled::<S, 32, 8>(s, &Q4_K, batch, &mut searched);
    // With importance C does not limit the levels, and packs what it has.
    let top = if batch.importance.is_some() { 255 } else { 63 };
    let rounding = Rounding { low: 0.0, high: 15.0 };
    for (lane, (block, x)) in out.iter_mut().zip(batch.x).enumerate() {
        let values = pack_header(&scaled, lane, top, block);
        let levels = levels::<S, 32>(s, rounding, x, &values, &searched, lane);
        for (l, out) in levels.as_chunks::<64>().0.iter().zip(block[16..].as_chunks_mut::<32>().0) {
            let mut packed = [0; 32];
            for i in 0..32 {
                packed[i] = l[i] | l[i + 32] << 4;
            }
            *out = packed;
        }
    }
}

/// Bytes of a block: `d dmin scales[12] qh[32] qs[128]`.
pub(super) const Q5_K_BYTES: usize = 176;

#[inline(always)]
pub(super) fn q5_k<S: Simd>(s: S, batch: &Batch<'_>, out: &mut [[u8; Q5_K_BYTES]]) {
    let mut searched = [s.splat(0.0); QK_K];
    let scaled = scaled::<S, 32, 8>(s, &Q5_K, batch, &mut searched);
    let rounding = Rounding { low: 0.0, high: 31.0 };
    for (lane, (block, x)) in out.iter_mut().zip(batch.x).enumerate() {
        let values = pack_header(&scaled, lane, 63, block);
        let levels = levels::<S, 32>(s, rounding, x, &values, &searched, lane);
        let mut high = [0; 32];
        let low = block[48..].as_chunks_mut::<32>().0;
        for (n, (l, out)) in levels.as_chunks::<64>().0.iter().zip(low).enumerate() {
            let mut packed = [0; 32];
            for i in 0..32 {
                packed[i] = l[i] & 15 | l[i + 32] << 4;
                high[i] |= (l[i] >> 4) << (2 * n) | (l[i + 32] >> 4) << (2 * n + 1);
            }
            *out = packed;
        }
        block[16..48].copy_from_slice(&high);
    }
}

/// Writes `d dmin scales[12]` of Q4_K and Q5_K; gives what a reader finds there.
#[inline(always)]
fn pack_header(scaled: &Scaled<8>, lane: usize, top: u8, block: &mut [u8]) -> [(f32, f32); 8] {
    let (mut scales, mut mins) = scaled.of(lane);
    block[..2].copy_from_slice(&scaled.d.bits[lane].to_le_bytes());
    block[2..4].copy_from_slice(&scaled.d_min.bits[lane].to_le_bytes());
    let packed = &mut block[4..16];
    for j in 0..8 {
        let (scale, min) = (scales[j].min(top), mins[j].min(top));
        if j < 4 {
            packed[j] = scale;
            packed[j + 4] = min;
        } else {
            packed[j + 4] = scale & 15 | (min & 15) << 4;
            packed[j - 4] |= (scale >> 4) << 6;
            packed[j] |= (min >> 4) << 6;
        }
    }
    for j in 0..4 {
        (scales[j], mins[j]) = (packed[j] & 63, packed[j + 4] & 63);
        scales[j + 4] = packed[j + 8] & 15 | (packed[j] >> 6) << 4;
        mins[j + 4] = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4;
    }
    scaled.values(lane, scales, mins)
}
