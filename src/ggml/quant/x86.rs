//! The vectors of x86-64: one AVX-512 register, or two of AVX2.
//!
//! The reference in these files is ggml built for plain x86-64, whose compiler has no fused
//! multiply-add to use; elsewhere compilers fuse, and ggml's own code is the only one with its bits.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, Div, Mul, Neg, Sub};

use super::lanes::{Floats, LANES, ROUNDER, Simd};

/// The bits of [`ROUNDER`] whose mantissa is zero but for the byte that is kept.
const ROUNDER_BITS: i32 = ROUNDER.to_bits() as i32;
/// The exponent of [`ROUNDER`].
const EXPONENT: i32 = 0x4b00_0000;
const MANTISSA: i32 = 0x007f_ffff;

/// AVX-512 F is there.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// AVX2 is there.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        all.then_some(Avx512(()))
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

/// One register of 16.
#[derive(Clone, Copy)]
pub(super) struct Wide(__m512);

/// Two registers of 8.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

/// Lane masks of a [`Pair`].
#[derive(Clone, Copy)]
pub(super) struct PairMask(__m256, __m256);

/// A mask of a [`Wide`].
#[derive(Clone, Copy)]
pub(super) struct WideMask(__mmask16);

// SAFETY (all `unsafe` below): the intrinsics ask for nothing but the instruction set. Its token was at
// hand where the first vector was made, and there is no other way to a vector.

macro_rules! operators {
    ($($trait:ident $method:ident $wide:ident $half:ident;)*) => {$(
        impl $trait for Wide {
            type Output = Wide;
            #[inline(always)]
            fn $method(self, other: Wide) -> Wide {
                // SAFETY: see above.
                Wide(unsafe { $wide(self.0, other.0) })
            }
        }
        impl $trait for Pair {
            type Output = Pair;
            #[inline(always)]
            fn $method(self, other: Pair) -> Pair {
                // SAFETY: see above.
                unsafe { Pair($half(self.0, other.0), $half(self.1, other.1)) }
            }
        }
    )*};
}

operators! {
    Add add _mm512_add_ps _mm256_add_ps;
    Sub sub _mm512_sub_ps _mm256_sub_ps;
    Mul mul _mm512_mul_ps _mm256_mul_ps;
    Div div _mm512_div_ps _mm256_div_ps;
}

impl Neg for Wide {
    type Output = Wide;
    #[inline(always)]
    fn neg(self) -> Wide {
        // SAFETY: see above.
        Wide(unsafe { _mm512_xor_ps(self.0, _mm512_set1_ps(-0.0)) })
    }
}

impl Neg for Pair {
    type Output = Pair;
    #[inline(always)]
    fn neg(self) -> Pair {
        // SAFETY: see above.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Pair(_mm256_xor_ps(self.0, sign), _mm256_xor_ps(self.1, sign))
        }
    }
}

impl BitAnd for WideMask {
    type Output = WideMask;
    #[inline(always)]
    fn bitand(self, other: WideMask) -> WideMask {
        WideMask(self.0 & other.0)
    }
}

impl BitAnd for PairMask {
    type Output = PairMask;
    #[inline(always)]
    fn bitand(self, other: PairMask) -> PairMask {
        // SAFETY: see above.
        unsafe { PairMask(_mm256_and_ps(self.0, other.0), _mm256_and_ps(self.1, other.1)) }
    }
}

impl Simd for Avx512 {
    type F = Wide;

    #[inline(always)]
    fn splat(self, value: f32) -> Wide {
        // SAFETY: see above.
        Wide(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Wide {
        // SAFETY: 16 numbers are read, and 16 are there.
        Wide(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
}

impl Simd for Avx2 {
    type F = Pair;

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: see above.
        unsafe { Pair(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Pair {
        // SAFETY: twice 8 numbers are read, and 16 are there.
        unsafe {
            Pair(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(LANES / 2)))
        }
    }
}

impl Floats for Wide {
    type Mask = WideMask;

    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: 16 numbers are written, and there is room for 16.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) };
        values
    }

    #[inline(always)]
    fn store_u8(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: 16 bytes are written, and there is room for 16.
        unsafe {
            let packed = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed);
        }
        bytes
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        Wide(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        Wide(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Wide(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Wide(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn gt(self, other: Self) -> WideMask {
        // SAFETY: see above.
        WideMask(unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn ne(self, other: Self) -> WideMask {
        // SAFETY: see above.
        WideMask(unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn or(self, mask: WideMask, other: Self) -> Self {
        // SAFETY: see above.
        Wide(unsafe { _mm512_mask_blend_ps(mask.0, other.0, self.0) })
    }

    #[inline(always)]
    fn any(mask: WideMask) -> bool {
        mask.0 != 0
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        self.rounded(MANTISSA, EXPONENT)
    }

    #[inline(always)]
    fn nearest_u8(self) -> Self {
        self.rounded(0xff, ROUNDER_BITS)
    }
}

impl Wide {
    /// The bits `keep` of the rounded number, under the exponent in `rest`, less the rounder.
    #[inline(always)]
    fn rounded(self, keep: i32, rest: i32) -> Self {
        /// `a & b | c`
        const AND_OR: i32 = 0xea;
        // SAFETY: see above.
        unsafe {
            let rounder = _mm512_set1_ps(ROUNDER);
            let bits = _mm512_castps_si512(_mm512_add_ps(self.0, rounder));
            let (keep, rest) = (_mm512_set1_epi32(keep), _mm512_set1_epi32(rest));
            let bits = _mm512_ternarylogic_epi32::<AND_OR>(bits, keep, rest);
            Wide(_mm512_sub_ps(_mm512_castsi512_ps(bits), rounder))
        }
    }
}

impl Floats for Pair {
    type Mask = PairMask;

    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: twice 8 numbers are written, and there is room for 16.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), self.0);
            _mm256_storeu_ps(values.as_mut_ptr().add(LANES / 2), self.1);
        }
        values
    }

    #[inline(always)]
    fn store_u8(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: 16 bytes are written, and there is room for 16.
        unsafe {
            // Packing goes within halves of a register, so quarters are put right in between.
            let (a, b) = (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
            let (a, b) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm_packus_epi16(a, b));
        }
        bytes
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Pair(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn gt(self, other: Self) -> PairMask {
        // SAFETY: see above.
        unsafe {
            PairMask(
                _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0),
                _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    fn ne(self, other: Self) -> PairMask {
        // SAFETY: see above.
        unsafe {
            PairMask(
                _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, other.0),
                _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    fn or(self, mask: PairMask, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Pair(
                _mm256_blendv_ps(other.0, self.0, mask.0),
                _mm256_blendv_ps(other.1, self.1, mask.1),
            )
        }
    }

    #[inline(always)]
    fn any(mask: PairMask) -> bool {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_or_ps(mask.0, mask.1)) != 0 }
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        self.rounded(MANTISSA, EXPONENT)
    }

    #[inline(always)]
    fn nearest_u8(self) -> Self {
        self.rounded(0xff, ROUNDER_BITS)
    }
}

impl Pair {
    /// The bits `keep` of the rounded number, under the exponent in `rest`, less the rounder.
    #[inline(always)]
    fn rounded(self, keep: i32, rest: i32) -> Self {
        // SAFETY: see above.
        unsafe {
            let rounder = _mm256_set1_ps(ROUNDER);
            let keep = _mm256_castsi256_ps(_mm256_set1_epi32(keep));
            let rest = _mm256_castsi256_ps(_mm256_set1_epi32(rest));
            let a = _mm256_and_ps(_mm256_add_ps(self.0, rounder), keep);
            let b = _mm256_and_ps(_mm256_add_ps(self.1, rounder), keep);
            Pair(
                _mm256_sub_ps(_mm256_or_ps(a, rest), rounder),
                _mm256_sub_ps(_mm256_or_ps(b, rest), rounder),
            )
        }
    }
}
