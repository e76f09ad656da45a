//! Sixteen numbers side by side: what the searches need of a vector unit.
//!
//! A lane is one super-block, and every operation is one IEEE operation per lane, in the order in which
//! ggml's C code does it for that super-block alone. No operation here fuses, reorders or
//! approximates, so whatever is computed with lanes has ggml's bits.
//!
//! A vector can only be made by a [`Simd`] token, and a token only where the processor has the
//! instructions; that is why operations on vectors are safe.

use std::ops::{Add, BitAnd, Div, Mul, Neg, Sub};

/// Numbers in a vector, and super-blocks in a batch.
pub(super) const LANES: usize = 16;

/// Proof that the processor has an instruction set, and the source of its vectors.
pub(super) trait Simd: Copy {
    /// Its vector.
    type F: Floats;
    /// The same number in all lanes.
    fn splat(self, value: f32) -> Self::F;
    /// One number for each lane.
    fn load(self, values: &[f32; LANES]) -> Self::F;
}

/// [`LANES`] numbers. Methods are inlined into the function that enables the instructions.
pub(super) trait Floats:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// A truth value per lane.
    type Mask: Copy + BitAnd<Output = Self::Mask>;
    fn store(self) -> [f32; LANES];
    /// Whole numbers from 0 to 255.
    fn store_u8(self) -> [u8; LANES];
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    /// `self < other ? self : other`: the other one if either is not a number.
    fn min(self, other: Self) -> Self;
    /// `self > other ? self : other`: the other one if either is not a number.
    fn max(self, other: Self) -> Self;
    fn gt(self, other: Self) -> Self::Mask;
    /// Not equal, or one is not a number.
    fn ne(self, other: Self) -> Self::Mask;
    /// `self` where the mask holds, `other` elsewhere.
    fn or(self, mask: Self::Mask, other: Self) -> Self;
    /// Whether the mask holds anywhere.
    fn any(mask: Self::Mask) -> bool;
    /// ggml's `nearest_int`, as a float: it adds 1.5·2²³ and takes the mantissa, so halves go to the
    /// even number, and what is not below 2²² becomes the same nonsense as in C.
    fn nearest(self) -> Self;
    /// The low byte of `nearest_int`, which is what C keeps of it in a `uint8_t`.
    fn nearest_u8(self) -> Self;
}

/// 1.5·2²³: adding it to a number below 2²² leaves the nearest integer in the mantissa.
pub(super) const ROUNDER: f32 = 12_582_912.0;
