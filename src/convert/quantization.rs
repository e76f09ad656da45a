//! 8-bit floats of a checkpoint: what its configuration says of them, and their scales.
//!
//! The type of a tensor tells whether it is quantized. The configuration is needed for one thing only, the
//! size of the blocks that share a scale; and to refuse every other kind of quantization by name.

use std::sync::Arc;

use super::error::CheckpointError;
use super::index::Shard;
use super::json::Section;
use super::safetensors::{Dtype, StoredTensor, quoted};
use crate::export::{Encoding, RowOrder, Scales, Source};
use crate::gguf::TensorType;

/// How many numbers share a scale where a matrix has more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fp8 {
    /// All of them.
    Tensor,
    /// Those of a row.
    Rows,
    /// Those of a block of rows and columns.
    Blocks(u32, u32),
}

/// Rows and columns of a block where scales fit it and nothing else is stated: the only size in use.
pub(super) const UNSTATED_BLOCK: u64 = 128;
const MAX_BLOCK: u32 = 1 << 20;

impl Fp8 {
    /// Reads `quantization_config`; without one, or with tensors that it excepts, a scale is a number.
    pub(super) fn of(config: &Section<'_>) -> Result<Self, CheckpointError> {
        const KEY: &str = "quantization_config";
        let Some(section) = config.section(KEY)? else { return Ok(Self::Tensor) };
        Self::of_section(&section)
    }

    /// Reads an object of the kind that Hugging Face's `quantization_config` is.
    pub(super) fn of_section(section: &Section<'_>) -> Result<Self, CheckpointError> {
        match section.str("quant_method")? {
            Some("fp8") => {
                if section.str("fmt")?.is_some_and(|format| format != "e4m3") {
                    return Err(section.wrong("fmt", "e4m3"));
                }
                block(section, "weight_block_size").map(|block| {
                    block.map_or(Self::Tensor, |(rows, cols)| Self::Blocks(rows, cols))
                })
            }
            Some("compressed-tensors") => Self::of_groups(section),
            _ => Err(section.wrong("quant_method", "fp8 or compressed-tensors")),
        }
    }

    fn of_groups(section: &Section<'_>) -> Result<Self, CheckpointError> {
        if section.str("format")? != Some("float-quantized") {
            return Err(section.wrong("format", "float-quantized, that is FP8"));
        }
        let groups = section.section("config_groups")?;
        let groups = section.need("config_groups", groups)?;
        let mut found = None;
        for name in groups.keys() {
            let group = groups.section(name)?;
            let group = groups.need(name, group)?;
            let weights = group.section("weights")?;
            let weights = group.need("weights", weights)?;
            let fp8 = Self::of_weights(&weights)?;
            if found.is_some_and(|other| other != fp8) {
                return Err(section.wrong("config_groups", "groups that are quantized alike"));
            }
            found = Some(fp8);
        }
        section.need("config_groups", found)
    }

    fn of_weights(weights: &Section<'_>) -> Result<Self, CheckpointError> {
        if weights.int("num_bits", 1, 64)? != Some(8) {
            return Err(weights.wrong("num_bits", "8"));
        }
        if weights.str("type")? != Some("float") {
            return Err(weights.wrong("type", "float"));
        }
        weights.refuse(&["group_size"], "scales by groups of columns")?;
        match weights.str("strategy")? {
            Some("tensor") => Ok(Self::Tensor),
            Some("channel") => Ok(Self::Rows),
            Some("block") => match block(weights, "block_structure")? {
                Some((rows, cols)) => Ok(Self::Blocks(rows, cols)),
                None => Err(weights.wrong("block_structure", "rows and columns of a block")),
            },
            _ => Err(weights.wrong("strategy", "tensor, channel or block")),
        }
    }

    /// The scales that `stored` holds for a matrix of `n_rows` × `n_cols`; where the size of a block is not
    /// stated, it may be guessed from their shape.
    fn scales(
        self,
        shard: &Shard,
        stored: &StoredTensor,
        [n_rows, n_cols]: [u64; 2],
        may_guess: bool,
    ) -> Result<Scales, String> {
        let scales = values(shard, stored)?;
        if let [scale] = scales[..] {
            return Ok(Scales::Tensor(scale));
        }
        let guess = UNSTATED_BLOCK;
        let fits_guess = stored.shape == [n_rows.div_ceil(guess), n_cols.div_ceil(guess)];
        let (block_rows, block_cols) = match self {
            Self::Tensor if may_guess && fits_guess => (guess, guess),
            Self::Tensor => (n_rows, n_cols),
            Self::Rows => (1, n_cols),
            Self::Blocks(rows, cols) => (rows.into(), cols.into()),
        };
        let expected = [n_rows.div_ceil(block_rows), n_cols.div_ceil(block_cols)];
        let is_column = matches!(self, Self::Rows) && stored.shape == [n_rows];
        if stored.shape != expected && !is_column {
            let found = &stored.shape;
            let hint = match self {
                Self::Tensor => "; the configuration states no weight_block_size (rows, columns)",
                _ => "",
            };
            return Err(format!(
                "wrong shape; expected {expected:?} or one number, found {found:?}{hint}"
            ));
        }
        Ok(Scales::Blocks { n_rows: block_rows, n_cols: block_cols, scales: scales.into() })
    }
}

/// Two sizes of at least 1; `None` where the key is absent.
fn block(section: &Section<'_>, key: &str) -> Result<Option<(u32, u32)>, CheckpointError> {
    let Some(value) = section.get(key) else { return Ok(None) };
    let size = |value: &serde_json::Value| {
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
        size.filter(|size| (1..=MAX_BLOCK).contains(size))
    };
    match value.as_array().map(Vec::as_slice) {
        Some([rows, cols]) => match (size(rows), size(cols)) {
            (Some(rows), Some(cols)) => Ok(Some((rows, cols))),
            _ => Err(section.wrong(key, &format!("two sizes, 1 to {MAX_BLOCK}"))),
        },
        _ => Err(section.wrong(key, "two sizes, of rows and columns")),
    }
}

/// The numbers of a tensor of scales, which must be usable as such.
fn values(shard: &Shard, stored: &StoredTensor) -> Result<Vec<f32>, String> {
    let ty = match stored.dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        dtype => {
            let found = dtype.name();
            return Err(format!("wrong dtype; expected BF16, F16 or F32, found {found}"));
        }
    };
    let n_cols: u64 = stored.shape.iter().product();
    let source = Source {
        file: &shard.bytes,
        range: stored.range.clone(),
        encoding: Encoding::Ggml(ty),
        n_cols,
        n_rows: 1,
        order: RowOrder::AsIs,
    };
    let mut values = vec![0.0; n_cols as usize];
    source.read_rows(0, &mut values);
    match values.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
        Some(wrong) => Err(format!("expected scales above 0, found {wrong}")),
        None if values.is_empty() => Err("no number".to_owned()),
        None => Ok(values),
    }
}

/// How the numbers of a weight are written, with the scale that stands beside it, if any does.
pub(super) fn encoding(
    weight: &StoredTensor,
    scale: Option<(&Shard, &StoredTensor)>,
    fp8: Fp8,
    may_guess: bool,
) -> Result<Encoding, String> {
    let name = quoted(&weight.name);
    let ty = match weight.dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        Dtype::Other(dtype) => {
            return Err(format!(
                "tensor {name}: dtype {dtype} cannot be converted; expected F32, F16, BF16 or F8_E4M3"
            ));
        }
        Dtype::F8E4m3 => {
            let Some((shard, stored)) = scale else {
                return Err(format!("tensor {name}: F8_E4M3 without a scale beside it"));
            };
            let [n_rows, n_cols] = weight.shape[..] else {
                let shape = &weight.shape;
                return Err(format!(
                    "tensor {name}: F8_E4M3 of shape {shape:?}; expected a matrix"
                ));
            };
            let scales = fp8.scales(shard, stored, [n_rows, n_cols], may_guess);
            let scales = scales.map_err(|problem| {
                format!("tensor {}, the scale of {name}: {problem}", quoted(&stored.name))
            })?;
            return Ok(Encoding::F8E4m3(scales));
        }
    };
    match scale {
        None => Ok(Encoding::Ggml(ty)),
        Some((_, stored)) => Err(format!(
            "tensor {}: a scale of {name}, which is {} and needs none",
            quoted(&stored.name),
            weight.dtype.name()
        )),
    }
}

/// One row of what is encoded so.
pub(super) fn row_of(encoding: &Encoding, row: u64, row_cols: u64) -> Encoding {
    match encoding {
        Encoding::F8E4m3(Scales::Blocks { n_rows, n_cols, scales }) => {
            let n = row_cols.div_ceil(*n_cols) as usize;
            let first = (row / n_rows) as usize * n;
            let scales: Arc<[f32]> = scales[first..first + n].into();
            Encoding::F8E4m3(Scales::Blocks { n_rows: 1, n_cols: *n_cols, scales })
        }
        other => other.clone(),
    }
}
