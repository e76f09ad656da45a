//! `2^x` for weights of tokens: the same bits everywhere, and vectorised by the compiler.

/// `2^x` for `x <= 0`, within 1e-6 of the true value; 0 below -126 and for NaN.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// `ln(2)^n / n!` from n = 6 down to 1.
    const TERMS: [f32; 6] = [
        1.540_353e-4,
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        0.240_226_5,
        std::f32::consts::LN_2,
    ];
    let clamped = if x > -126.0 { x } else { -126.0 };
    let rounded = clamped + ROUND;
    let fraction = clamped - (rounded - ROUND);
    let mut sum = 0.0;
    for term in TERMS {
        sum = (sum + term) * fraction;
    }
    let power = f32::from_bits((sum + 1.0).to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > -126.0 { power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp2;

    #[test]
    fn is_near_the_true_value() {
        for k in 0..126_000 {
            let x = -1e-3 * k as f32;
            let (ours, exact) = (f64::from(exp2(x)), f64::from(x).exp2());
            assert!((ours / exact - 1.0).abs() < 1e-6, "{x}: {ours} {exact}");
        }
    }

    #[test]
    fn ends_are_exact() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-126.5), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(f32::NAN), 0.0);
    }
}
