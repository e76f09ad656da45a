//! Reads weights for one purpose: to find numbers that are not finite.
//!
//! Elements of float types are looked at themselves, blocks of quantized types by their scales: a
//! bad scale spoils its whole block. Everything else about blocks is left to ggml.

use super::error::{GgufError, Item, Problem};
use super::file::Gguf;
use super::tensors::TensorInfo;
use super::types::TensorType;

/// How a number inside a block is written.
#[derive(Debug, Clone, Copy)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
    /// Power of two in one byte, 255 is NaN.
    E8m0,
    /// Four exponent and three mantissa bits, 0x7f and 0xff are NaN.
    E4m3,
    /// F16 in the high four bits of each of four 16-bit words.
    Nibbles,
}

/// The numbers of a block: how they are written and where they start.
fn floats(ty: TensorType) -> (Float, &'static [usize]) {
    use TensorType as T;
    match ty {
        T::F32 => (Float::F32, &[0]),
        T::F64 => (Float::F64, &[0]),
        T::BF16 => (Float::Bf16, &[0]),
        T::F8_E4M3 => (Float::E4m3, &[0]),
        T::MXFP4 => (Float::E8m0, &[0]),
        T::NVFP4 => (Float::E4m3, &[0, 1, 2, 3]),
        T::Q8_K => (Float::F32, &[0]),
        T::IQ1_M => (Float::Nibbles, &[48]),
        T::Q4_1 | T::Q5_1 | T::Q8_1 | T::Q4_K | T::Q5_K => (Float::F16, &[0, 2]),
        T::Q2_K => (Float::F16, &[80, 82]),
        T::Q3_K => (Float::F16, &[108]),
        T::Q6_K => (Float::F16, &[208]),
        T::TQ1_0 => (Float::F16, &[52]),
        T::TQ2_0 => (Float::F16, &[64]),
        T::I8 | T::I16 | T::I32 | T::I64 => (Float::F16, &[]),
        T::F16 | T::Q4_0 | T::Q5_0 | T::Q8_0 | T::Q1_0 | T::Q2_0 => (Float::F16, &[0]),
        T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S => (Float::F16, &[0]),
        T::IQ1_S | T::IQ4_NL | T::IQ4_XS => (Float::F16, &[0]),
    }
}

impl Float {
    /// Whether the number that starts `bytes` is NaN or infinite.
    fn is_bad(self, bytes: &[u8]) -> bool {
        let word = |idx: usize| u16::from_le_bytes([bytes[idx], bytes[idx + 1]]);
        match self {
            Self::F16 => word(0) & 0x7c00 == 0x7c00,
            Self::Bf16 => word(0) & 0x7f80 == 0x7f80,
            Self::F32 => word(2) & 0x7f80 == 0x7f80,
            Self::F64 => word(6) & 0x7ff0 == 0x7ff0,
            Self::E8m0 => bytes[0] == 255,
            Self::E4m3 => bytes[0] & 0x7f == 0x7f,
            // The exponent of an F16 is five bits: all of the highest nibble but its sign bit, and
            // the upper half of the next nibble.
            Self::Nibbles => word(6) & 0x7000 == 0x7000 && word(4) & 0xc000 == 0xc000,
        }
    }
}

/// Blocks (elements, where a type has no blocks) with a number that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotFinite {
    /// How many there are.
    pub(crate) n_bad: u64,
    /// Index of the first.
    pub(crate) first: u64,
}

/// Looks at whole blocks of `ty`; `None` if all numbers are finite.
pub(crate) fn not_finite(ty: TensorType, bytes: &[u8]) -> Option<NotFinite> {
    let (float, starts) = floats(ty);
    let size = usize::try_from(ty.type_size()).expect("blocks have at most 292 bytes");
    let is_bad = |block: &[u8]| starts.iter().any(|&start| float.is_bad(&block[start..]));
    let blocks = bytes.chunks_exact(size);
    let mut bad = blocks.enumerate().filter(|(_, block)| is_bad(block)).map(|(idx, _)| idx as u64);
    let first = bad.next()?;
    Some(NotFinite { n_bad: 1 + bad.count() as u64, first })
}

impl Gguf {
    /// Reads every tensor and refuses the first that contains NaN or infinity. `on_progress` is
    /// told the bytes of each tensor that is done.
    pub fn check_payload(&self, on_progress: impl Fn(u64)) -> Result<(), GgufError> {
        for tensor in self.tensors() {
            self.check_tensor(tensor)?;
            on_progress(tensor.n_bytes);
        }
        Ok(())
    }

    fn check_tensor(&self, tensor: &TensorInfo) -> Result<(), GgufError> {
        let found = not_finite(tensor.ty, self.data(tensor));
        let part = &self.parts()[tensor.part];
        let start = tensor.offset as usize;
        part.release(&(start..start + tensor.n_bytes as usize));
        let Some(NotFinite { n_bad, first }) = found else { return Ok(()) };

        let row = first * tensor.ty.block_size() / tensor.dims[0];
        let what = if tensor.ty.block_size() > 1 { " scales of blocks" } else { "" };
        let found = format!("NaN or infinity in {}{what}", tensor.ty);
        let problem = Problem::Payload { n_bad, row, found };
        let byte = tensor.offset + first * tensor.ty.type_size();
        Err(GgufError::new(part.label(), problem)
            .at(byte)
            .about(|| Item::Tensor(tensor.name.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_found() {
        let f16 = |bits: u16| Float::F16.is_bad(&bits.to_le_bytes());
        assert!(f16(0x7c00) && f16(0xfc00) && f16(0x7e00) && !f16(0x7bff) && !f16(0));
        for (x, bad) in [(f32::NAN, true), (f32::NEG_INFINITY, true), (f32::MAX, false)] {
            assert_eq!(Float::F32.is_bad(&x.to_le_bytes()), bad, "{x}");
            assert_eq!(Float::Bf16.is_bad(&x.to_le_bytes()[2..]), bad, "{x}");
            assert_eq!(Float::F64.is_bad(&f64::from(x).to_le_bytes()), bad, "{x}");
        }
        assert!(Float::E8m0.is_bad(&[255]) && !Float::E8m0.is_bad(&[254]));
        assert!(Float::E4m3.is_bad(&[0x7f]) && !Float::E4m3.is_bad(&[0x7e]));
    }

    #[test]
    fn scales_of_iq1_m_lie_in_four_nibbles() {
        for bits in [0x7c00u16, 0xfc01, 0x7bff, 0x3c00, 0x4000] {
            let nibble = |shift: u32| ((bits >> shift) & 0xf) << 12;
            let words = [nibble(0), nibble(4), nibble(8), nibble(12)];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(Float::Nibbles.is_bad(&bytes), bits & 0x7c00 == 0x7c00, "{bits:04x}");
        }
    }

    #[test]
    fn scales_lie_inside_their_blocks() {
        for &ty in TensorType::ALL {
            let (float, starts) = floats(ty);
            let size = match float {
                Float::F16 | Float::Bf16 => 2,
                Float::F32 => 4,
                Float::F64 | Float::Nibbles => 8,
                Float::E8m0 | Float::E4m3 => 1,
            };
            assert!(starts.iter().all(|start| start + size <= ty.type_size() as usize), "{ty}");
        }
    }
}
