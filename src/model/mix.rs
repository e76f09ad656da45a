//! Quantization mixes: which element type each tensor of a quantized file has.
//!
//! A file called Q4_K_M is mostly q4_K, with more bits where they matter. One table says where, with
//! llama.cpp's names and choices, so that files made here are as large and as good as files of the same
//! name elsewhere. Choices depend on the matrix's part in its layer, on the layer, on whether keys and
//! values are shared by many heads (then V is small and gets more bits), and on whether there is an
//! importance matrix. What a user changes about a mix is `quantize::Recipe`'s.

use super::hparams::Hparams;
use super::spec::Architecture;
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
    /// What `token_embd.weight` has.
    pub embedding: TensorType,
    /// Exceptions; the first that applies counts.
    rules: &'static [Rule],
}

/// What a tensor is to the mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The matrix to logits.
    Output,
    /// The rows of tokens.
    Embedding,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values, and matrices fused with them.
    V,
    /// Attention's way back into the stream.
    O,
    /// The feed-forward network's gate.
    Gate,
    /// Its way up.
    Up,
    /// Its way down.
    Down,
    /// Everything else.
    Other,
}

/// What choices depend on, apart from the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Layout of the model; `None` for what is no language model.
    pub arch: Option<Architecture>,
    /// Layers of the model.
    pub n_layer: u32,
    /// Query heads.
    pub n_head: u32,
    /// Key and value heads.
    pub n_head_kv: u32,
    /// Whether an importance matrix is used.
    pub has_imatrix: bool,
}

/// `(part, when, type)`
type Rule = (Part, When, TensorType);

/// Which matrices of a part a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Of the first so many layers.
    First(u32),
    /// Of the first one in so many layers.
    FirstShare(u32),
    /// Of the first one in so many layers, with an importance matrix.
    FirstShareWeighted(u32),
    /// Of the first one in so many layers, without one.
    FirstShareUnweighted(u32),
    /// Without an importance matrix.
    Unweighted,
    /// Of the first and the last eighth, and every third between.
    Sensitive,
    /// Of neither the first nor the last eighth.
    Middle,
    /// Where four or more query heads share a value head.
    Shared,
}
use Part::{Down, Gate, K, O, Q, Up, V};
use When::{
    Always, First, FirstShare, FirstShareUnweighted, FirstShareWeighted, Middle, Sensitive, Shared,
    Unweighted,
};

macro_rules! mixes {
    ($($name:literal $id:literal $base:ident $output:ident $embd:ident [$($rule:expr),*];)*) => {
        /// Every mix, by size.
        pub const MIXES: &[Mix] = &[$(Mix {
            name: $name,
            file_type: $id,
            base: T::$base,
            output: T::$output,
            embedding: T::$embd,
            rules: &[$($rule),*],
        }),*];
    };
}

// name, file_type, base, output, token_embd, exceptions
mixes! {
    "Q1_0"    40 Q1_0    Q6_K Q1_0    [];
    "IQ1_S"   24 IQ1_S   Q5_K Q2_K    [(V, Shared, T::Q4_K), (V, Always, T::Q2_K), (O, Always, T::IQ2_XXS),
                                       (Down, FirstShare(8), T::Q2_K)];
    "TQ1_0"   36 TQ1_0   Q6_K Q4_K    [];
    "IQ1_M"   31 IQ1_M   Q5_K Q2_K    [(V, Shared, T::Q4_K), (V, Always, T::Q2_K), (O, Always, T::IQ2_XXS),
                                       (Down, FirstShare(8), T::Q2_K)];
    "TQ2_0"   37 TQ2_0   Q6_K Q4_K    [];
    "IQ2_XXS" 19 IQ2_XXS Q5_K Q2_K    [(V, Shared, T::Q4_K), (V, Always, T::Q2_K),
                                       (Down, FirstShare(8), T::Q2_K)];
    "Q2_0"    41 Q2_0    Q6_K Q4_K    [];
    "IQ2_XS"  20 IQ2_XS  Q5_K Q2_K    [(V, Shared, T::Q4_K), (V, Always, T::Q2_K),
                                       (Down, FirstShare(8), T::Q2_K)];
    "IQ2_S"   28 IQ2_XS  Q5_K IQ3_S   [(V, Shared, T::Q4_K), (V, Always, T::IQ3_S), (O, Always, T::IQ3_S),
                                       (Down, FirstShare(8), T::IQ3_S)];
    "IQ2_M"   29 IQ2_S   Q5_K IQ3_S   [(V, Shared, T::Q4_K), (V, Always, T::IQ3_S), (O, Always, T::IQ3_S),
                                       (Down, FirstShare(8), T::IQ3_S)];
    "Q2_K_S"  21 Q2_K    Q6_K Q2_K    [(V, Shared, T::Q4_K), (Down, FirstShare(8), T::Q4_K)];
    "Q2_K"    10 Q2_K    Q6_K Q2_K    [(V, Shared, T::Q4_K), (V, Always, T::Q3_K), (O, Always, T::Q3_K),
                                       (Down, Always, T::Q3_K)];
    "IQ3_XXS" 23 IQ3_XXS Q5_K IQ3_S   [(V, Shared, T::Q4_K), (V, Unweighted, T::IQ3_S), (Q, Always, T::IQ2_S),
                                       (K, Always, T::IQ2_S), (O, Always, T::IQ3_S),
                                       (Down, FirstShareUnweighted(8), T::Q4_K), (Down, Unweighted, T::Q3_K)];
    "IQ3_XS"  22 IQ3_S   Q6_K IQ3_S   [(V, Shared, T::Q4_K), (Q, Always, T::IQ3_XXS), (K, Always, T::IQ3_XXS),
                                       (Gate, Middle, T::IQ3_XXS), (Up, Middle, T::IQ3_XXS)];
    "Q3_K_S"  11 Q3_K    Q6_K Q3_K    [];
    "IQ3_S"   26 IQ3_S   Q6_K IQ3_S   [(V, Shared, T::Q4_K)];
    "IQ3_M"   27 IQ3_S   Q6_K IQ3_S   [(V, Always, T::Q4_K), (O, Always, T::Q4_K),
                                       (Down, FirstShare(8), T::Q4_K)];
    "Q3_K_M"  12 Q3_K    Q6_K Q3_K    [(V, First(2), T::Q5_K), (V, Always, T::Q4_K), (O, Always, T::Q4_K),
                                       (Down, FirstShare(16), T::Q5_K), (Down, Always, T::Q4_K)];
    "Q3_K_L"  13 Q3_K    Q6_K Q3_K    [(V, Always, T::Q5_K), (O, Always, T::Q5_K), (Down, Always, T::Q5_K)];
    "IQ4_XS"  30 IQ4_XS  Q6_K IQ4_XS  [(V, Shared, T::Q5_K), (Down, FirstShareUnweighted(8), T::Q5_K)];
    "Q4_0"     2 Q4_0    Q6_K Q4_0    [(Down, FirstShareWeighted(8), T::Q4_1)];
    "IQ4_NL"  25 IQ4_NL  Q6_K IQ4_NL  [(V, Shared, T::Q5_K), (Down, FirstShareUnweighted(8), T::Q5_K)];
    "Q4_K_S"  14 Q4_K    Q6_K Q4_K    [(V, First(4), T::Q5_K), (Down, FirstShare(8), T::Q5_K)];
    "Q4_K_M"  15 Q4_K    Q6_K Q4_K    [(V, Sensitive, T::Q6_K), (Down, Sensitive, T::Q6_K)];
    "Q4_1"     3 Q4_1    Q6_K Q4_1    [];
    "Q5_K_S"  16 Q5_K    Q6_K Q5_K    [];
    "Q5_0"     8 Q5_0    Q6_K Q5_0    [(Down, FirstShareWeighted(8), T::Q5_1)];
    "Q5_K_M"  17 Q5_K    Q6_K Q5_K    [(V, Sensitive, T::Q6_K), (Down, Sensitive, T::Q6_K)];
    "Q5_1"     9 Q5_1    Q6_K Q5_1    [];
    "Q6_K"    18 Q6_K    Q6_K Q6_K    [];
    "Q8_0"     7 Q8_0    Q8_0 Q8_0    [];
    "F16"      1 F16     F16  F16     [];
    "BF16"    32 BF16    BF16 BF16    [];
    "F32"      0 F32     F32  F32     [];
}

/// Short names for the usual mix of a kind.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

impl Part {
    /// What the tensor `name` is.
    pub fn of(name: &str) -> Self {
        match name {
            "output.weight" => return Self::Output,
            "token_embd.weight" => return Self::Embedding,
            _ => {}
        }
        const PARTS: &[(&str, Part)] = &[
            ("attn_qkv.weight", V),
            ("attn_v.weight", V),
            ("attn_k.weight", K),
            ("attn_q.weight", Q),
            ("attn_output.weight", O),
            ("ffn_up", Up),
            ("ffn_gate", Gate),
            ("ffn_down", Down),
        ];
        PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Self::Other, |&(_, part)| part)
    }
}

impl Facts {
    /// Facts of the model of this shape.
    pub fn of(hparams: &Hparams, has_imatrix: bool) -> Self {
        let &Hparams { arch, n_layer, n_head, n_head_kv, .. } = hparams;
        Self { arch: Some(arch), n_layer, n_head, n_head_kv, has_imatrix }
    }

    /// Query heads that share a key and value head.
    fn n_shared(&self) -> u32 {
        self.n_head / self.n_head_kv.max(1)
    }

    /// Whether llama.cpp counts the model among the Llama 2 70B, whose V it gives more bits.
    fn is_llama_70b(&self) -> bool {
        self.arch == Some(Architecture::Llama)
            && self.n_layer == 80
            && self.n_head != self.n_head_kv
    }
}

impl Mix {
    /// The mix called `name`, in any letter case.
    pub fn from_name(name: &str) -> Option<&'static Mix> {
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
        let name = alias.map_or(name, |(_, name)| name);
        MIXES.iter().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }

    /// The type for number `i` of `n` matrices of a part, by layers, with rows of `n_cols` elements.
    ///
    /// It may not fit the rows: [`fitting`].
    pub fn wanted(&self, part: Part, i: u32, n: u32, n_cols: u64, facts: &Facts) -> TensorType {
        match part {
            Part::Output if !n_cols.is_multiple_of(self.base.block_size()) => return T::Q8_0,
            Part::Output => return self.output,
            Part::Embedding => return self.embedding,
            _ => {}
        }
        let applies = |rule: &&Rule| rule.0 == part && rule.1.holds(i, n, facts);
        let ty = self.rules.iter().find(applies).map_or(self.base, |rule| rule.2);
        let raised = part == V && facts.is_llama_70b() && !self.is_below_3_bits();
        if raised && matches!(ty, T::Q3_K | T::Q4_K) { T::Q5_K } else { ty }
    }

    /// The type of the tensor `name` of shape `dims` in a model with an output matrix of its own, all of
    /// whose layers have the same matrices. Vectors stay F32.
    pub fn tensor_type(&self, name: &str, dims: &[u64], facts: &Facts) -> TensorType {
        if dims.len() < 2 {
            return T::F32;
        }
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let layer = layer.unwrap_or(0);
        fitting(self.wanted(Part::of(name), layer, facts.n_layer, dims[0], facts), dims[0])
    }

    /// Whether the mix is of the IQ1 and IQ2 kind.
    fn is_below_3_bits(&self) -> bool {
        matches!(self.base, T::IQ1_S | T::IQ1_M | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S)
    }
}

impl When {
    fn holds(self, i: u32, n: u32, facts: &Facts) -> bool {
        let in_first_share = |share: u32| i < n / share;
        let eighth = n / 8;
        match self {
            Always => true,
            First(n_first) => i < n_first,
            FirstShare(share) => in_first_share(share),
            FirstShareWeighted(share) => facts.has_imatrix && in_first_share(share),
            FirstShareUnweighted(share) => !facts.has_imatrix && in_first_share(share),
            Unweighted => !facts.has_imatrix,
            Sensitive => i < eighth || i >= 7 * n / 8 || (i - eighth) % 3 == 2,
            Middle => i >= eighth && i < 7 * n / 8,
            Shared => facts.n_shared() >= 4,
        }
    }
}

/// `ty`, or its nearest substitute where rows of `n` elements do not fill its blocks.
pub fn fitting(ty: TensorType, n: u64) -> TensorType {
    if n.is_multiple_of(ty.block_size()) {
        return ty;
    }
    let substitute = match ty {
        T::Q2_K | T::Q3_K | T::TQ1_0 | T::TQ2_0 | T::Q1_0 | T::Q2_0 => T::Q4_0,
        T::IQ1_S | T::IQ1_M | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S => T::IQ4_NL,
        T::IQ3_XXS | T::IQ3_S | T::IQ4_XS => T::IQ4_NL,
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

    /// Decimal gigabytes of Mistral Medium 3.5 in each mix, made with an importance matrix (but for Q4_0),
    /// as the published files have them. Mixes that nobody publishes have 0.
    const GB: &[(&str, f64)] = &[
        ("Q1_0", 0.0),
        ("IQ1_S", 27.19),
        ("TQ1_0", 0.0),
        ("IQ1_M", 29.61),
        ("TQ2_0", 0.0),
        ("IQ2_XXS", 33.66),
        ("Q2_0", 0.0),
        ("IQ2_XS", 37.31),
        ("IQ2_S", 39.73),
        ("IQ2_M", 42.97),
        ("Q2_K_S", 0.0),
        ("Q2_K", 46.58),
        ("IQ3_XXS", 48.36),
        ("IQ3_XS", 0.0),
        ("Q3_K_S", 54.36),
        ("IQ3_S", 0.0),
        ("IQ3_M", 0.0),
        ("Q3_K_M", 60.61),
        ("Q3_K_L", 66.06),
        ("IQ4_XS", 67.07),
        ("Q4_0", 70.75),
        ("IQ4_NL", 70.89),
        ("Q4_K_S", 71.24),
        ("Q4_K_M", 74.89),
        ("Q4_1", 0.0),
        ("Q5_K_S", 86.18),
        ("Q5_0", 0.0),
        ("Q5_K_M", 88.31),
        ("Q5_1", 0.0),
        ("Q6_K", 102.57),
        ("Q8_0", 132.85),
        ("F16", 250.06),
        ("BF16", 250.06),
        ("F32", 500.10),
    ];

    #[test]
    fn medium_3_5_is_as_large_as_published() {
        let hparams = medium_3_5();
        let is_there = |name: &str| !name.contains("rope_freqs") && name.ends_with(".weight");
        let mut last = 0;
        for (mix, &(name, gb)) in MIXES.iter().zip(GB) {
            assert_eq!(mix.name, name);
            let facts = Facts::of(&hparams, name != "Q4_0");
            let n: u64 = expected_tensors(&hparams)
                .iter()
                .filter(|tensor| is_there(&tensor.name))
                .map(|tensor| {
                    let ty = mix.tensor_type(&tensor.name, &tensor.dims, &facts);
                    let n_rows: u64 = tensor.dims[1..].iter().product();
                    ty.row_bytes(tensor.dims[0]).unwrap() * n_rows
                })
                .sum();
            assert!(
                gb == 0.0 || (n as f64 / 1e9 - gb).abs() < 0.006,
                "{name}: {n} bytes, not {gb} GB"
            );
            assert!(n >= last, "{name}: {n} bytes, {last} before it");
            last = n;
        }
        assert_eq!(MIXES.len(), GB.len());
    }

    #[test]
    fn narrow_rows_get_what_fits() {
        let mix = Mix::from_name("q4_k").unwrap();
        assert_eq!(mix.name, "Q4_K_M");
        let facts = Facts { n_layer: 8, ..Facts::of(&medium_3_5(), false) };
        let ty = |name: &str, n: u64| mix.tensor_type(name, &[n, 8], &facts);
        assert_eq!(ty("blk.0.ffn_up.weight", 256), T::Q4_K);
        assert_eq!(ty("blk.0.ffn_up.weight", 128), T::Q5_0);
        assert_eq!(ty("blk.0.ffn_down.weight", 128), T::Q8_0);
        assert_eq!(ty("blk.0.ffn_up.weight", 20), T::F16);
        assert_eq!(ty("token_embd.weight", 256), T::Q4_K);
        assert_eq!(mix.tensor_type("output_norm.weight", &[256], &facts), T::F32);
    }
}
