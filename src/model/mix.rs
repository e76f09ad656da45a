//! Quantization mixes: which element type each tensor of a quantized file has.
//!
//! A file called Q4_K_M is mostly q4_K, with more bits where they matter. One table says where, with
//! llama.cpp's names and choices, so that files made here are as large and as good as files of the same
//! name elsewhere. The choices for attn_v are those for four or more query heads per key head, as every
//! model of the family has; the IQ4 mixes are those of files made with an importance matrix, as the
//! published ones are. Mixes below 4 bits of the IQ kind are left out: ggml cannot quantize to their
//! types without such a matrix.

use crate::gguf::TensorType;
use TensorType as T;

/// Types for all tensors of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mix {
    /// Name, as it stands in file names.
    pub name: &'static str,
    /// Value of `general.file_type`.
    pub file_type: u32,
    /// What every matrix has for which nothing else is said.
    pub base: TensorType,
    /// What `output.weight` has; where it is missing, `token_embd.weight` in its stead.
    pub output: TensorType,
    /// Exceptions; the first that applies counts.
    rules: &'static [Rule],
}

/// `(end of the matrix's name, layers, type)`
type Rule = (&'static str, Layers, TensorType);

/// Which layers a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    All,
    /// So many from the input on.
    First(u32),
    /// One in so many, from the input on.
    FirstShare(u32),
    /// The first and the last eighth, and every third between.
    Sensitive,
}
use Layers::{All, First, FirstShare, Sensitive};

const V: &str = ".attn_v.weight";
const O: &str = ".attn_output.weight";
const DOWN: &str = ".ffn_down.weight";

macro_rules! mixes {
    ($($name:literal $file_type:literal $base:ident $output:ident [$($rule:expr),*];)*) => {
        /// Every mix, largest last.
        pub const MIXES: &[Mix] = &[$(Mix {
            name: $name,
            file_type: $file_type,
            base: T::$base,
            output: T::$output,
            rules: &[$($rule),*],
        }),*];
    };
}

mixes! {
    "Q2_K"   10 Q2_K   Q6_K [(V, All, T::Q4_K), (O, All, T::Q3_K), (DOWN, All, T::Q3_K)];
    "Q3_K_S" 11 Q3_K   Q6_K [];
    "Q3_K_M" 12 Q3_K   Q6_K [(V, First(2), T::Q5_K), (V, All, T::Q4_K), (O, All, T::Q4_K),
                             (DOWN, FirstShare(16), T::Q5_K), (DOWN, All, T::Q4_K)];
    "Q3_K_L" 13 Q3_K   Q6_K [(V, All, T::Q5_K), (O, All, T::Q5_K), (DOWN, All, T::Q5_K)];
    "IQ4_XS" 30 IQ4_XS Q6_K [(V, All, T::Q5_K)];
    "Q4_0"    2 Q4_0   Q6_K [];
    "IQ4_NL" 25 IQ4_NL Q6_K [(V, All, T::Q5_K)];
    "Q4_K_S" 14 Q4_K   Q6_K [(V, First(4), T::Q5_K), (DOWN, FirstShare(8), T::Q5_K)];
    "Q4_K_M" 15 Q4_K   Q6_K [(V, Sensitive, T::Q6_K), (DOWN, Sensitive, T::Q6_K)];
    "Q5_K_S" 16 Q5_K   Q6_K [];
    "Q5_K_M" 17 Q5_K   Q6_K [(V, Sensitive, T::Q6_K), (DOWN, Sensitive, T::Q6_K)];
    "Q6_K"   18 Q6_K   Q6_K [];
    "Q8_0"    7 Q8_0   Q8_0 [];
    "F16"     1 F16    F16  [];
    "BF16"   32 BF16   BF16 [];
}

impl Mix {
    /// The mix called `name`, in any letter case.
    pub fn from_name(name: &str) -> Option<&'static Mix> {
        MIXES.iter().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }

    /// The type of the tensor `name` of shape `dims` in a model of `n_layer` layers.
    ///
    /// `tied` says that the model has no `output.weight`. Vectors stay F32.
    pub fn tensor_type(&self, name: &str, dims: &[u64], n_layer: u32, tied: bool) -> TensorType {
        if dims.len() < 2 {
            return T::F32;
        }
        let is_output = name == "output.weight" || tied && name == "token_embd.weight";
        let wanted = if is_output { self.output } else { self.layer_type(name, n_layer) };
        for_rows(wanted, dims[0])
    }

    fn layer_type(&self, name: &str, n_layer: u32) -> TensorType {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let Some(layer) = layer else { return self.base };
        let applies = |rule: &&Rule| name.ends_with(rule.0) && rule.1.contain(layer, n_layer);
        self.rules.iter().find(applies).map_or(self.base, |rule| rule.2)
    }
}

impl Layers {
    fn contain(self, layer: u32, n_layer: u32) -> bool {
        match self {
            All => true,
            First(n) => layer < n,
            FirstShare(n) => layer < n_layer / n,
            Sensitive => {
                let eighth = n_layer / 8;
                layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2
            }
        }
    }
}

/// `ty`, or its nearest substitute where a row of `n` elements does not fill its blocks.
fn for_rows(ty: TensorType, n: u64) -> TensorType {
    if n.is_multiple_of(ty.block_size()) {
        return ty;
    }
    let substitute = match ty {
        T::Q2_K | T::Q3_K => T::Q4_0,
        T::IQ4_XS => T::IQ4_NL,
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        _ => T::F16,
    };
    if n.is_multiple_of(substitute.block_size()) { substitute } else { T::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{expected_tensors, medium_3_5};

    /// Decimal gigabytes of Mistral Medium 3.5 in each mix, as the published files have them.
    const GB: &[(&str, f64)] = &[
        ("Q2_K", 46.58),
        ("Q3_K_S", 54.36),
        ("Q3_K_M", 60.61),
        ("Q3_K_L", 66.06),
        ("IQ4_XS", 67.07),
        ("Q4_0", 70.75),
        ("IQ4_NL", 70.89),
        ("Q4_K_S", 71.24),
        ("Q4_K_M", 74.89),
        ("Q5_K_S", 86.18),
        ("Q5_K_M", 88.31),
        ("Q6_K", 102.57),
        ("Q8_0", 132.85),
        ("F16", 250.06),
        ("BF16", 250.06),
    ];

    #[test]
    fn medium_3_5_is_as_large_as_published() {
        let hparams = medium_3_5();
        let is_there = |name: &str| !name.contains("rope_freqs") && name.ends_with(".weight");
        for (mix, &(name, gb)) in MIXES.iter().zip(GB) {
            assert_eq!(mix.name, name);
            let n: u64 = expected_tensors(&hparams)
                .iter()
                .filter(|tensor| is_there(&tensor.name))
                .map(|tensor| {
                    let ty = mix.tensor_type(&tensor.name, &tensor.dims, hparams.n_layer, false);
                    let n_rows: u64 = tensor.dims[1..].iter().product();
                    ty.row_bytes(tensor.dims[0]).unwrap() * n_rows
                })
                .sum();
            assert!((n as f64 / 1e9 - gb).abs() < 0.006, "{name}: {n} bytes, not {gb} GB");
        }
        assert_eq!(MIXES.len(), GB.len());
    }

    #[test]
    fn narrow_rows_and_tied_heads_get_what_fits() {
        let mix = Mix::from_name("q4_k_m").unwrap();
        let ty = |name: &str, n: u64, tied| mix.tensor_type(name, &[n, 8], 8, tied);
        assert_eq!(ty("blk.0.ffn_up.weight", 256, false), T::Q4_K);
        assert_eq!(ty("blk.0.ffn_up.weight", 128, false), T::Q5_0);
        assert_eq!(ty("blk.0.ffn_down.weight", 128, false), T::Q8_0);
        assert_eq!(ty("blk.0.ffn_up.weight", 20, false), T::F16);
        assert_eq!(ty("token_embd.weight", 256, false), T::Q4_K);
        assert_eq!(ty("token_embd.weight", 256, true), T::Q6_K);
        assert_eq!(mix.tensor_type("output_norm.weight", &[256], 8, false), T::F32);
    }
}
