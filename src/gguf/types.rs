//! Tensor element types, numbered and sized as ggml 0.28 numbers and sizes them.
//!
//! One table row per type; everything a reader needs to know about bytes follows from the row. What
//! a type's blocks mean is ggml's business (`payload.rs` knows only where their scales lie).
//! Numbers that ggml has withdrawn keep a row in [`removed`], so that an old file gets a helpful message.

use std::fmt;

macro_rules! tensor_types {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal;)*) => {
        /// An element type that a GGUF tensor can have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, missing_docs)] // The names are the documentation.
        pub enum TensorType { $($variant = $id,)* }

        impl TensorType {
            /// Every type, in ggml's order.
            pub const ALL: &[TensorType] = &[$(TensorType::$variant,)*];

            /// The type with ggml's number `id`; `None` for holes and numbers not yet given out.
            pub fn from_ggml_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// ggml's number of the type.
            pub fn ggml_id(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// The name as ggml prints it, for example `q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements in one block; a row's length must be a multiple of it.
            pub fn block_size(self) -> u64 {
                match self { $(Self::$variant => $block,)* }
            }

            /// Bytes of one block.
            pub fn type_size(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

tensor_types! {
    F32     = 0,  "f32",     1,   4;
    F16     = 1,  "f16",     1,   2;
    Q4_0    = 2,  "q4_0",    32,  18;
    Q4_1    = 3,  "q4_1",    32,  20;
    Q5_0    = 6,  "q5_0",    32,  22;
    Q5_1    = 7,  "q5_1",    32,  24;
    Q8_0    = 8,  "q8_0",    32,  34;
    Q8_1    = 9,  "q8_1",    32,  36;
    Q2_K    = 10, "q2_K",    256, 84;
    Q3_K    = 11, "q3_K",    256, 110;
    Q4_K    = 12, "q4_K",    256, 144;
    Q5_K    = 13, "q5_K",    256, 176;
    Q6_K    = 14, "q6_K",    256, 210;
    Q8_K    = 15, "q8_K",    256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    IQ2_XS  = 17, "iq2_xs",  256, 74;
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    IQ1_S   = 19, "iq1_s",   256, 50;
    IQ4_NL  = 20, "iq4_nl",  32,  18;
    IQ3_S   = 21, "iq3_s",   256, 110;
    IQ2_S   = 22, "iq2_s",   256, 82;
    IQ4_XS  = 23, "iq4_xs",  256, 136;
    I8      = 24, "i8",      1,   1;
    I16     = 25, "i16",     1,   2;
    I32     = 26, "i32",     1,   4;
    I64     = 27, "i64",     1,   8;
    F64     = 28, "f64",     1,   8;
    IQ1_M   = 29, "iq1_m",   256, 56;
    BF16    = 30, "bf16",    1,   2;
    TQ1_0   = 34, "tq1_0",   256, 54;
    TQ2_0   = 35, "tq2_0",   256, 66;
    MXFP4   = 39, "mxfp4",   32,  17;
    NVFP4   = 40, "nvfp4",   64,  36;
    Q1_0    = 41, "q1_0",    128, 18;
    Q2_0    = 42, "q2_0",    64,  18;
    F8_E4M3 = 43, "f8_e4m3", 1,   1;
}

/// What stood at a number that ggml has withdrawn, and what to do about it.
pub(crate) fn removed(id: u32) -> Option<&'static str> {
    match id {
        4 => Some("q4_2, removed from ggml in 2023; convert the model again"),
        5 => Some("q4_3, removed from ggml in 2023; convert the model again"),
        31 => Some("q4_0_4_4, removed from ggml; use the model's q4_0 file"),
        32 => Some("q4_0_4_8, removed from ggml; use the model's q4_0 file"),
        33 => Some("q4_0_8_8, removed from ggml; use the model's q4_0 file"),
        36 => Some("iq4_nl_4_4, removed from ggml; use the model's iq4_nl file"),
        37 => Some("iq4_nl_4_8, removed from ggml; use the model's iq4_nl file"),
        38 => Some("iq4_nl_8_8, removed from ggml; use the model's iq4_nl file"),
        _ => None,
    }
}

impl TensorType {
    /// The type called `name`, in any letter case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of `n_elements` in a row; `None` if they do not fill whole blocks or overflow.
    pub fn row_bytes(self, n_elements: u64) -> Option<u64> {
        let block = self.block_size();
        if !n_elements.is_multiple_of(block) {
            return None;
        }
        (n_elements / block).checked_mul(self.type_size())
    }

    /// Whether ggml's CPU backend can multiply a matrix of this type: weights may have it.
    pub fn is_weight_type(self) -> bool {
        use TensorType as T;
        !matches!(self, T::I8 | T::I16 | T::I32 | T::I64 | T::F64 | T::Q8_1 | T::Q8_K)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for TensorType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_name(name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|ty| ty.name()).collect();
            format!("unknown type '{name}'; known are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_the_type() {
        for &ty in TensorType::ALL {
            assert_eq!(TensorType::from_ggml_id(ty.ggml_id()), Some(ty));
            assert_eq!(TensorType::from_name(&ty.name().to_uppercase()), Some(ty));
        }
        assert_eq!("Q4_k".parse(), Ok(TensorType::Q4_K));
        assert!("q9_9".parse::<TensorType>().unwrap_err().contains("q4_K"));
    }

    #[test]
    fn every_low_number_is_a_type_or_a_refusal() {
        for id in (0..256).chain([u32::MAX, i32::MIN as u32]) {
            let hole = matches!(id, 4 | 5 | 31..=33 | 36..=38);
            assert_eq!(TensorType::from_ggml_id(id).is_some(), id < 44 && !hole, "{id}");
            assert_eq!(removed(id).is_some(), hole, "{id}");
        }
    }

    #[test]
    fn rows_fill_whole_blocks() {
        assert_eq!(TensorType::Q4_K.row_bytes(12_288), Some(48 * 144));
        assert_eq!(TensorType::Q4_K.row_bytes(12_289), None);
        assert_eq!(TensorType::F64.row_bytes(u64::MAX), None);
    }
}
