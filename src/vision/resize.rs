//! Cubic resizing as OpenCV does it, which is not how image editors do.
//!
//! Keys' kernel with a = -0.75 over four pixels, also where the picture shrinks (no antialiasing);
//! half-pixel centres; the edge goes on for ever; what overshoots is kept. Where a side has fewer pixels
//! than the kernel, OpenCV on x86 leaves Intel's library for its own code, which rounds positions to f32:
//! at pixel 4000 that moves a sample by more than we may differ.

/// Where one output sample comes from: four input samples along an axis, and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub(super) at: [usize; 4],
    pub(super) weight: [f32; 4],
}

/// The taps of every output sample along an axis; `rounded`: their positions are f32.
pub(super) fn taps(n_in: usize, n_out: usize, rounded: bool) -> Vec<Tap> {
    let scale = 1.0 / (n_out as f64 / n_in as f64);
    let tap = |i: usize| {
        let exact = (i as f64 + 0.5) * scale - 0.5;
        let position = if rounded { f64::from(exact as f32) } else { exact };
        let left = position.floor();
        let last = n_in as isize - 1;
        let at = [-1, 0, 1, 2].map(|step| (left as isize + step).clamp(0, last) as usize);
        Tap { at, weight: weights((position - left) as f32) }
    };
    (0..n_out).map(tap).collect()
}

/// Weights of the pixels at -1, 0, 1 and 2 for a position from 0 to 1. Their sum is 1.
fn weights(x: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |d: f32| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let [a, b, c] = [far(x + 1.0), near(x), near(1.0 - x)];
    [a, b, c, 1.0 - a - b - c]
}

/// Pixels of the kernel along an axis.
pub(super) const N_TAPS: usize = 4;

/// Four rows of bytes, weighted, as one row of floats.
pub(super) fn blend(rows: [&[u8]; 4], weight: [f32; 4], out: &mut [f32]) {
    let [a, b, c, d] = rows;
    let samples = a.iter().zip(b).zip(c).zip(d);
    for (out, (((&a, &b), &c), &d)) in out.iter_mut().zip(samples) {
        *out = f32::from(a) * weight[0]
            + f32::from(b) * weight[1]
            + f32::from(c) * weight[2]
            + f32::from(d) * weight[3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_size_changes_nothing() {
        for (i, tap) in taps(7, 7, false).iter().enumerate() {
            assert_eq!((tap.at[1], tap.weight), (i, [0.0, 1.0, 0.0, 0.0]));
        }
    }

    #[test]
    fn taps_stay_inside() {
        for (n_in, n_out) in [(1, 28), (2, 28), (10, 1540), (20_000, 1540), (65_535, 28), (5, 3)] {
            let taps = taps(n_in, n_out, n_in > 100);
            assert_eq!(taps.len(), n_out);
            assert!(taps.iter().flat_map(|tap| tap.at).all(|at| at < n_in));
            for tap in taps {
                assert!((tap.weight.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }
}
