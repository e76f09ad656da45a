//! The searches for the scale of a sub-block, as ggml-quants.c has them, over lanes.
//!
//! Each follows its C function line by line: the same operations in the same order, a branch turned
//! into a choice per lane, an early return into a mask. What C leaves in `L` is computed once at the
//! end, from the last scale that was taken.

use super::lanes::{Floats, ROUNDER, Simd};

/// Sub-blocks with nothing above this are all zero to ggml.
pub(super) const GROUP_MAX_EPS: f32 = 1e-15;

/// Parameters of `make_qkx2_quants` and `make_qkx3_quants`: levels are `(x − min) / scale`.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) n_max: f32,
    pub(super) r_min: f32,
    pub(super) r_delta: f32,
    pub(super) n_steps: i32,
    /// The error is the absolute difference, not its square.
    pub(super) absolute: bool,
    /// `make_qkx3_quants`: levels are clamped before they are rounded.
    pub(super) clamps_first: bool,
}

/// `make_qkx2_quants` or `make_qkx3_quants`: the scale, and what is to be subtracted.
#[inline(always)]
pub(super) fn affine<S: Simd, const N: usize>(
    s: S,
    search: Affine,
    x: &[S::F; N],
    w: &[S::F; N],
    levels: &mut [S::F; N],
) -> (S::F, S::F) {
    let (zero, n_max) = (s.splat(0.0), s.splat(search.n_max));
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        min = x[i].min(min);
        max = x[i].max(max);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    min = zero.min(min);
    let varied = max.gt(min);
    let iscale = n_max / (max - min);
    let mut scale = s.splat(1.0) / iscale;
    let mut best_error = zero;
    for i in 0..N {
        let l = (iscale * (x[i] - min)).nearest().max(zero).min(n_max);
        best_error = best_error + w[i] * error(search, scale * l + min - x[i]);
    }
    // C rounds an infinity to level 0 here, but to the highest level where it clamps first.
    let finite = s.splat(f32::INFINITY).gt(iscale);
    let mut taken = if search.clamps_first { iscale.or(finite, zero) } else { iscale };
    let mut taken_min = min;
    for step in 0..=search.n_steps {
        let range = search.r_min + search.r_delta * step as f32 + search.n_max;
        let iscale = s.splat(range) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..N {
            let l = level(s, search, iscale * (x[i] - min));
            levels[i] = l;
            let wl = w[i] * l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l;
            sum_xl = sum_xl + wl * x[i];
        }
        let d = sum_w * sum_l2 - sum_l * sum_l;
        let this_scale = (sum_w * sum_xl - sum_x * sum_l) / d;
        let this_min = (sum_l2 * sum_x - sum_l * sum_xl) / d;
        let above = this_min.gt(zero);
        let this_scale = (sum_xl / sum_l2).or(above, this_scale);
        let this_min = zero.or(above, this_min);
        let mut this_error = zero;
        for i in 0..N {
            let diff = this_scale * levels[i] + this_min - x[i];
            this_error = this_error + w[i] * error(search, diff);
        }
        let better = varied & d.gt(zero) & best_error.gt(this_error);
        best_error = this_error.or(better, best_error);
        taken = iscale.or(better, taken);
        taken_min = min.or(better, taken_min);
        scale = this_scale.or(better, scale);
        min = this_min.or(better, min);
    }
    for i in 0..N {
        levels[i] = level(s, search, taken * (x[i] - taken_min)).or(varied, zero);
    }
    (scale.or(varied, zero), -min)
}

#[inline(always)]
fn level<S: Simd>(s: S, search: Affine, v: S::F) -> S::F {
    let (zero, n_max) = (s.splat(0.0), s.splat(search.n_max));
    if search.clamps_first {
        let rounder = s.splat(ROUNDER);
        v.max(zero).min(n_max) + rounder - rounder
    } else {
        v.nearest().max(zero).min(n_max)
    }
}

#[inline(always)]
fn error<F: Floats>(search: Affine, diff: F) -> F {
    if search.absolute { diff.abs() } else { diff * diff }
}

/// `make_qx_quants` with weights: the scale of levels from `-n_max` to `n_max - 1`, which are stored
/// with `n_max` added.
#[inline(always)]
pub(super) fn symmetric<S: Simd, const N: usize>(
    s: S,
    n_max: f32,
    x: &[S::F; N],
    w: &[S::F; N],
    levels: &mut [S::F; N],
) -> S::F {
    let (zero, low, high) = (s.splat(0.0), s.splat(-n_max), s.splat(n_max - 1.0));
    let (max, amax) = largest(s, x);
    let mut taken = low / max;
    let mut scale = zero;
    let mut best = zero;
    for step in -10..=9i32 {
        // The first step is the plain scale, which is taken in any case.
        let range = match step {
            -10 => -n_max,
            0 => continue,
            _ => -(n_max + 0.1 * step as f32),
        };
        let iscale = s.splat(range) / max;
        let (mut sum_lx, mut sum_l2) = (zero, zero);
        for i in 0..N {
            let l = (iscale * x[i]).nearest().min(high).max(low);
            sum_lx = sum_lx + w[i] * x[i] * l;
            sum_l2 = sum_l2 + w[i] * l * l;
        }
        if step == -10 {
            scale = (sum_lx / sum_l2).or(sum_l2.ne(zero), zero);
            best = scale * sum_lx;
            continue;
        }
        let better = sum_l2.gt(zero) & (sum_lx * sum_lx).gt(best * sum_l2);
        let this_scale = sum_lx / sum_l2;
        scale = this_scale.or(better, scale);
        best = (this_scale * sum_lx).or(better, best);
        taken = iscale.or(better, taken);
    }
    let nothing = s.splat(GROUP_MAX_EPS).gt(amax);
    for i in 0..N {
        let l = (taken * x[i]).nearest().min(high).max(low);
        levels[i] = zero.or(nothing, s.splat(n_max) + l);
    }
    zero.or(nothing, scale)
}

/// The number farthest from zero, the first of them, and its distance.
#[inline(always)]
fn largest<S: Simd, const N: usize>(s: S, x: &[S::F; N]) -> (S::F, S::F) {
    let (mut max, mut amax) = (s.splat(0.0), s.splat(0.0));
    for &x in x {
        let ax = x.abs();
        max = x.or(ax.gt(amax), max);
        amax = ax.max(amax);
    }
    (max, amax)
}

/// `make_q3_quants` with `do_rmse`: as [`symmetric`], but weighted with `x²` and found by trying other
/// levels, one number after the other.
#[inline(always)]
pub(super) fn symmetric_by_level<S: Simd, const N: usize>(
    s: S,
    n_max: f32,
    x: &[S::F; N],
    levels: &mut [S::F; N],
) -> S::F {
    let (zero, low, high) = (s.splat(0.0), s.splat(-n_max), s.splat(n_max - 1.0));
    let (max, amax) = largest(s, x);
    let nothing = s.splat(GROUP_MAX_EPS).gt(amax);
    let iscale = low / max;
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let l = (iscale * x[i]).nearest().min(high).max(low);
        levels[i] = l;
        let w = x[i] * x[i];
        sum_lx = sum_lx + w * x[i] * l;
        sum_l2 = sum_l2 + w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (x, l) = (x[i], levels[i]);
            let w = x * x;
            let slx = sum_lx - w * x * l;
            let sl2 = sum_l2 - w * l * l;
            let tried = slx.gt(zero);
            let new = (x * sl2 / slx).nearest().min(high).max(low);
            let slx = slx + w * x * new;
            let sl2 = sl2 + w * new * new;
            let better = (slx * slx * sum_l2).gt(sum_lx * sum_lx * sl2);
            let better = tried & new.ne(l) & sl2.gt(zero) & better;
            levels[i] = new.or(better, l);
            sum_lx = slx.or(better, sum_lx);
            sum_l2 = sl2.or(better, sum_l2);
            changed |= S::F::any(better);
        }
        if !changed {
            break;
        }
    }
    for level in levels {
        *level = zero.or(nothing, *level + s.splat(n_max));
    }
    let scale = (sum_lx / sum_l2).or(sum_l2.gt(zero), zero);
    zero.or(nothing, scale)
}

/// `make_qp_quants`: the scale of levels from 0 to `n_max`, for numbers that should not be negative.
#[inline(always)]
pub(super) fn positive<S: Simd, const N: usize>(
    s: S,
    n_max: f32,
    x: &[S::F; N],
    w: &[S::F; N],
) -> (S::F, [S::F; N]) {
    let (zero, one, high) = (s.splat(0.0), s.splat(1.0), s.splat(n_max));
    let mut levels = [zero; N];
    let mut max = zero;
    for &x in x {
        max = max.max(x);
    }
    let nothing = s.splat(GROUP_MAX_EPS).gt(max);
    let mut iscale = high / max;
    let scale = one / iscale;
    let mut best = zero;
    for i in 0..N {
        let diff = x[i] - scale * (iscale * x[i]).nearest_u8();
        best = best + w[i] * diff * diff;
    }
    for step in -4..=4i32 {
        if step == 0 {
            continue;
        }
        let this_iscale = s.splat(0.1 * step as f32 + n_max) / max;
        let this_scale = one / this_iscale;
        let mut mse = zero;
        for i in 0..N {
            let diff = x[i] - this_scale * (this_iscale * x[i]).nearest().min(high);
            mse = mse + w[i] * diff * diff;
        }
        let better = best.gt(mse);
        best = mse.or(better, best);
        iscale = this_iscale.or(better, iscale);
    }
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let l = (iscale * x[i]).nearest().min(high);
        levels[i] = l.nearest_u8();
        sum_lx = sum_lx + w[i] * x[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (x, w, l) = (x[i], w[i], levels[i]);
            let slx = sum_lx - w * x * l;
            let sl2 = sum_l2 - w * l * l;
            let tried = slx.gt(zero) & sl2.gt(zero);
            let new = (x * sl2 / slx).nearest().min(high);
            let slx = slx + w * x * new;
            let sl2 = sl2 + w * new * new;
            let better = (slx * slx * sum_l2).gt(sum_lx * sum_lx * sl2);
            let better = tried & new.ne(l) & better;
            levels[i] = new.nearest_u8().or(better, l);
            sum_lx = slx.or(better, sum_lx);
            sum_l2 = sl2.or(better, sum_l2);
            changed |= S::F::any(better);
        }
        if !changed {
            break;
        }
    }
    for level in &mut levels {
        *level = zero.or(nothing, *level);
    }
    let scale = (sum_lx / sum_l2).or(sum_l2.gt(zero), zero);
    (zero.or(nothing, scale), levels)
}
