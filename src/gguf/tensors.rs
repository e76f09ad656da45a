//! Reads the tensor list of one file and proves that every tensor's bytes lie inside the file.
//!
//! Names, ranks, types and sizes are checked entry by entry; then the data ranges of all entries
//! together. Gaps and any order are legal, overlaps are not. Which tensors a model needs is
//! `model::spec`'s knowledge.

use std::collections::HashMap;

use super::error::{GgufError, Item, Problem, escape};
use super::file::Wanted;
use super::read::{self, Cursor};
use super::types::{self, TensorType};

/// ggml stores names in 64 bytes with a final NUL.
pub(super) const MAX_NAME_LEN: u64 = 63;
/// Where tensor data starts and every tensor's offset are multiples of this, unless the file says
/// otherwise.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the model.
    pub name: String,
    /// Element type.
    pub ty: TensorType,
    /// Elements per dimension in ggml's order, the contiguous one first; one to four of them.
    pub dims: Vec<u64>,
    /// Index of the part that holds the data.
    pub part: usize,
    /// Offset of the data from the start of the part's file, in bytes.
    pub offset: u64,
    /// Size of the data in bytes.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product() // Checked against overflow when read.
    }

    /// The dimensions as messages show them: `256 × 4096`.
    pub fn shape(&self) -> String {
        shape(&self.dims)
    }
}

/// Dimensions as messages show them: `256 × 4096`.
pub(crate) fn shape(dims: &[u64]) -> String {
    dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ")
}

/// The alignment that `metadata` asks for.
fn alignment(metadata: &super::Metadata) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    match metadata.u32(KEY)?.unwrap_or(DEFAULT_ALIGNMENT) {
        x if x.is_power_of_two() && (8..=65_536).contains(&x) => Ok(x.into()),
        found => Err(metadata.error(KEY, Problem::Alignment { found })),
    }
}

/// The tensors of one file, and where their data lies in it.
pub(super) struct List {
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) alignment: u64,
    pub(super) data_start: u64,
    /// The end of the last tensor's data.
    pub(super) data_end: u64,
}

/// Reads the tensor list at `cursor` of a file of so many bytes.
pub(super) fn list(
    cursor: &mut Cursor<'_>,
    preamble: &read::Preamble,
    part: usize,
    extent: (u64, Wanted),
) -> Result<List, GgufError> {
    let alignment = alignment(&preamble.metadata)?;
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut index = HashMap::new();
    for idx in 0..preamble.n_tensors {
        let at = cursor.pos();
        let tensor = entry(cursor, idx, part, alignment)?;
        if let Some(first) = index.insert(tensor.name.clone(), idx) {
            let problem = Problem::DuplicateTensor { first, second: idx };
            return Err(cursor.error(problem).at(at).about(|| Item::Tensor(tensor.name)));
        }
        tensors.push(tensor);
    }
    let data_start = cursor.pos().next_multiple_of(alignment);
    let data_end = place(cursor, &mut tensors, data_start, extent)?;
    Ok(List { tensors, alignment, data_start, data_end })
}

/// One entry of the list; its offset still counts from the start of the data.
fn entry(
    cursor: &mut Cursor<'_>,
    idx: u64,
    part: usize,
    alignment: u64,
) -> Result<TensorInfo, GgufError> {
    let name = name(cursor).map_err(|error| error.about(|| Item::TensorIdx(idx)))?;
    let tensor = entry_after_name(cursor, part, alignment);
    let tensor = tensor.map_err(|error| error.about(|| Item::Tensor(name.clone())))?;
    Ok(TensorInfo { name, ..tensor })
}

fn name(cursor: &mut Cursor<'_>) -> Result<String, GgufError> {
    let at = cursor.pos();
    let n = cursor.u64("tensor name length")?;
    if n > MAX_NAME_LEN {
        let (most, why) = (MAX_NAME_LEN, "ggml's limit");
        let problem = Problem::Count { what: "bytes of tensor name", found: n, most, why };
        return Err(cursor.error(problem).at(at));
    }
    let bytes = cursor.take(n, "tensor name")?;
    read::name("tensor", bytes).map_err(|problem| cursor.error(problem).at(at))
}

fn entry_after_name(
    cursor: &mut Cursor<'_>,
    part: usize,
    alignment: u64,
) -> Result<TensorInfo, GgufError> {
    let n_dims_at = cursor.pos();
    let n_dims = cursor.u32("number of dimensions")?;
    if !(1..=4).contains(&n_dims) {
        return Err(cursor.error(Problem::NDims { found: n_dims }).at(n_dims_at));
    }
    let dims_at = cursor.pos();
    let mut dims = Vec::with_capacity(4);
    for _ in 0..n_dims {
        dims.push(cursor.u64("dimension")?);
    }
    let type_at = cursor.pos();
    let type_id = cursor.u32("tensor type")?;
    let offset_at = cursor.pos();
    let offset = cursor.u64("data offset")?;

    let Some(ty) = TensorType::from_ggml_id(type_id) else {
        let found = match types::removed(type_id) {
            Some(what) => format!("{type_id} ({what})"),
            None => type_id.to_string(),
        };
        return Err(cursor.error(Problem::TensorType { found }).at(type_at));
    };
    let n_bytes = size(&dims, ty).map_err(|problem| cursor.error(problem).at(dims_at))?;
    if !offset.is_multiple_of(alignment) {
        let problem = Problem::Unaligned { found: offset, alignment };
        return Err(cursor.error(problem).at(offset_at));
    }
    Ok(TensorInfo { name: String::new(), ty, dims, part, offset, n_bytes })
}

/// Bytes of a tensor. ggml counts in signed 64-bit numbers, so sizes stay below 2^63.
fn size(dims: &[u64], ty: TensorType) -> Result<u64, Problem> {
    let bad = |fault: &str| Problem::Dims { dims: shape(dims), fault: fault.to_owned() };
    if dims.contains(&0) {
        return Err(bad("a dimension is 0"));
    }
    let most = i64::MAX as u64;
    let product = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    if product.is_none_or(|n| n > most) {
        return Err(bad("2^63 elements or more"));
    }
    if !dims[0].is_multiple_of(ty.block_size()) {
        let (ty, row, block) = (ty.name(), dims[0], ty.block_size());
        return Err(Problem::RowBlock { ty, row, block });
    }
    let n_rows = dims[1..].iter().product::<u64>();
    ty.row_bytes(dims[0])
        .and_then(|row| row.checked_mul(n_rows))
        .filter(|&n| n <= most)
        .ok_or_else(|| bad("2^63 bytes or more"))
}

/// Turns offsets into positions in the file; refuses what leaves the file or overlaps.
fn place(
    cursor: &Cursor<'_>,
    tensors: &mut [TensorInfo],
    data_start: u64,
    (file_len, wanted): (u64, Wanted),
) -> Result<u64, GgufError> {
    let fail = |tensor: &TensorInfo, problem| {
        Err(cursor.error(problem).about(|| Item::Tensor(tensor.name.clone())))
    };
    for tensor in tensors.iter_mut() {
        let relative = tensor.offset;
        let start = relative.checked_add(data_start);
        let Some(end) = start.and_then(|start| start.checked_add(tensor.n_bytes)) else {
            return fail(tensor, Problem::Offset { found: relative, file_len });
        };
        tensor.offset = end - tensor.n_bytes;
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    let mut data_end = data_start;
    for pair in by_offset.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let a_end = a.offset + a.n_bytes;
        if a_end > b.offset {
            let (a_start, b_start) = (a.offset, b.offset);
            let (b, b_end) = (escape(b.name.as_bytes()), b.offset + b.n_bytes);
            return fail(a, Problem::Overlap { a_start, a_end, b, b_start, b_end });
        }
    }
    for tensor in by_offset {
        let (start, end) = (tensor.offset, tensor.offset + tensor.n_bytes);
        if end > file_len && wanted == Wanted::All {
            let missing = end - file_len;
            return fail(tensor, Problem::Truncated { start, end, file_len, missing });
        }
        data_end = data_end.max(end);
    }
    Ok(data_end)
}
