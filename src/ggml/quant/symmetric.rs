//! Q3_K and Q6_K: sub-blocks of 16 with a scale of either sign, in few bits of one F16.

use super::affine::pack_2_bits;
use super::batch::{Batch, Each, Halves, QK_K, Rounding, levels, sum_of_squares};
use super::lanes::{Floats, LANES, Simd};
use super::search::{self, GROUP_MAX_EPS};

/// Sub-blocks to a super-block, and numbers to a sub-block.
const N: usize = 16;

/// Bytes of a block: `hmask[32] qs[64] scales[12] d`.
pub(super) const Q3_K_BYTES: usize = 110;
/// Bytes of a block: `ql[128] qh[64] scales[16] d`.
pub(super) const Q6_K_BYTES: usize = 210;

/// The scale of largest size, the first of them, and its size.
#[inline(always)]
fn largest<S: Simd>(s: S, scales: &[S::F; N]) -> (S::F, S::F) {
    let (mut max, mut max_abs) = (s.splat(0.0), s.splat(0.0));
    for scale in scales {
        let abs = scale.abs();
        max = scale.or(abs.gt(max_abs), max);
        max_abs = abs.max(max_abs);
    }
    (max, max_abs)
}

#[inline(always)]
fn stored<F: Floats>(vectors: &[F; N]) -> [Each; N] {
    let mut each = [[0.0; LANES]; N];
    for j in 0..N {
        each[j] = vectors[j].store();
    }
    each
}

/// The scales of one super-block as a reader computes them; there are no minima.
#[inline(always)]
fn values(d: f32, scales: &[i8; N]) -> [(f32, f32); N] {
    scales.map(|scale| (d * f32::from(scale), 0.0))
}

#[inline(always)]
pub(super) fn q6_k<S: Simd>(s: S, batch: &Batch<'_>, out: &mut [[u8; Q6_K_BYTES]]) {
    let zero = s.splat(0.0);
    let mut searched = [zero; QK_K];
    let mut scales = [zero; N];
    let x = batch.turned(s);
    let x = x.as_chunks::<N>().0;
    {
        let searched = searched.as_chunks_mut::<N>().0;
        if let Some(importance) = batch.importance {
            let w = batch.turned_importance(s, importance);
            let w = w.as_chunks::<N>().0;
            for j in 0..N {
                scales[j] = search::symmetric(s, 32.0, &x[j], &w[j], &mut searched[j]);
            }
        } else {
            for j in 0..N {
                let mut w = x[j];
                for w in &mut w {
                    *w = *w * *w;
                }
                scales[j] = search::symmetric(s, 32.0, &x[j], &w, &mut searched[j]);
            }
        }
    }
    let (max, max_abs) = largest(s, &scales);
    let iscale = s.splat(-128.0) / max;
    let d = Halves::of((s.splat(1.0) / iscale).store());
    for scale in &mut scales {
        *scale = (iscale * *scale).nearest().min(s.splat(127.0));
    }
    let (scales, max_abs) = (stored(&scales), max_abs.store());
    let rounding = Rounding { low: -32.0, high: 31.0 };
    for (lane, (block, x)) in out.iter_mut().zip(batch.x).enumerate() {
        if max_abs[lane] < GROUP_MAX_EPS {
            block.fill(0);
            continue;
        }
        let scales = scales.map(|scale| scale[lane] as i32 as i8);
        let values = values(d.values[lane], &scales);
        let levels = levels::<S, N>(s, rounding, x, &values, &searched, lane);
        pack_6_bits(&levels, block);
        for j in 0..N {
            block[192 + j] = scales[j] as u8;
        }
        block[208..].copy_from_slice(&d.bits[lane].to_le_bytes());
    }
}

/// Writes `ql` and `qh`.
#[inline(always)]
fn pack_6_bits(levels: &[u8; QK_K], block: &mut [u8; Q6_K_BYTES]) {
    for (half, l) in levels.as_chunks::<128>().0.iter().enumerate() {
        let (mut low, mut high) = ([0; 64], [0; 32]);
        for i in 0..32 {
            let (a, b, c, d) = (l[i], l[i + 32], l[i + 64], l[i + 96]);
            low[i] = a & 15 | c << 4;
            low[i + 32] = b & 15 | d << 4;
            high[i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
        }
        block[64 * half..][..64].copy_from_slice(&low);
        block[128 + 32 * half..][..32].copy_from_slice(&high);
    }
}

#[inline(always)]
pub(super) fn q3_k<S: Simd>(s: S, batch: &Batch<'_>, out: &mut [[u8; Q3_K_BYTES]]) {
    let zero = s.splat(0.0);
    let mut searched = [zero; QK_K];
    let (d, scales) = match batch.importance {
        None => q3_k_plain(s, batch, &mut searched),
        Some(importance) => q3_k_weighted(s, batch, importance, &mut searched),
    };
    let (d, scales) = (Halves::of(d.store()), stored(&scales));
    let rounding = Rounding { low: -4.0, high: 3.0 };
    for (lane, (block, x)) in out.iter_mut().zip(batch.x).enumerate() {
        let scales = scales.map(|scale| scale[lane] as u8);
        pack_scales(&scales, &mut block[96..108]);
        let scales = scales.map(|scale| scale as i8 - 32);
        let values = values(d.values[lane], &scales);
        let mut levels = levels::<S, N>(s, rounding, x, &values, &searched, lane);
        let mut high = [0; 32];
        for (bit, group) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for i in 0..32 {
                high[i] |= (group[i] >> 2) << bit;
                group[i] &= 3;
            }
        }
        block[..32].copy_from_slice(&high);
        pack_2_bits(&levels, &mut block[32..96]);
        block[108..].copy_from_slice(&d.bits[lane].to_le_bytes());
    }
}

/// The step between scales, and the levels of the scales, 0 to 63.
#[inline(always)]
fn q3_k_plain<S: Simd>(s: S, batch: &Batch<'_>, searched: &mut [S::F; QK_K]) -> (S::F, [S::F; N]) {
    let zero = s.splat(0.0);
    let mut scales = [zero; N];
    let x = batch.turned(s);
    for (j, levels) in searched.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        scales[j] = search::symmetric_by_level(s, 4.0, &x.as_chunks().0[j], levels);
    }
    let (max, _) = largest(s, &scales);
    let some = max.ne(zero);
    let iscale = s.splat(-32.0) / max;
    for scale in &mut scales {
        // C keeps the low byte, with its sign, before it limits the range.
        let level = (iscale * *scale).nearest();
        let level = (level + s.splat(128.0)).nearest_u8() - s.splat(128.0);
        let level = level.min(s.splat(31.0)).max(s.splat(-32.0)) + s.splat(32.0);
        *scale = level.or(some, zero);
    }
    ((s.splat(1.0) / iscale).or(some, zero), scales)
}

/// As [`q3_k_plain`], with importance.
#[inline(always)]
fn q3_k_weighted<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[[f32; QK_K]],
    searched: &mut [S::F; QK_K],
) -> (S::F, [S::F; N]) {
    let zero = s.splat(0.0);
    let (mut scales, mut sums, mut w) = ([zero; N], [zero; N], [zero; N]);
    let x = batch.turned(s);
    let importance = batch.turned_importance(s, importance);
    let sigma2 = s.splat(2.0) * sum_of_squares(s, &x) / s.splat(QK_K as f32);
    let (x, importance) = (x.as_chunks::<N>().0, importance.as_chunks::<N>().0);
    for (j, levels) in searched.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        for i in 0..N {
            w[i] = importance[j][i] * (sigma2 + x[j][i] * x[j][i]).sqrt();
            sums[j] = sums[j] + w[i];
        }
        scales[j] = search::symmetric(s, 4.0, &x[j], &w, levels);
    }
    let mut levels = [zero; N];
    let d = search::symmetric(s, 32.0, &scales, &sums, &mut levels);
    (d, levels)
}

/// Six bits of each scale: low halves by twos, then the high bits by fours.
#[inline(always)]
fn pack_scales(scales: &[u8; N], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = scales[j] & 15 | scales[j + 8] << 4;
        out[j + 4] = scales[j + 4] & 15 | scales[j + 12] << 4;
        out[j + 8] = (0..4).fold(0, |bits, k| bits | (scales[j + 4 * k] >> 4) << (2 * k));
    }
}
