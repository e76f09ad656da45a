//! `e^x` for weights of tokens: the same bits everywhere, and vectorised by the compiler.

/// `e^x` for `x <= 0`, to about 2 units in the last place; 0 below -87 and for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for inverse in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum * r + 1.0 / inverse;
    }
    let power = f32::from_bits(sum.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > -87.0 { power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn is_near_the_true_value() {
        for k in 0..=870_000 {
            let x = -1e-4 * k as f32;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(x <= -87.0 || (ours / exact - 1.0).abs() < 3e-7, "{x}: {ours} {exact}");
        }
    }

    #[test]
    fn ends_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::NAN), 0.0);
    }
}
