//! The tensors of all files, each under its GGUF name, compared with those that the model must have.
//!
//! They come in the order in which llama.cpp's converter writes them: files by name, and the tensors of a
//! file by name. All faults are told together.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::checkpoint::Kind;
use super::description::Description;
use super::error::CheckpointError;
use super::index::Shard;
use super::layout::Layout;
use super::names::{Meaning, meaning};
use super::quantization::{encoding, row_of};
use super::safetensors::{StoredTensor, quoted};
use crate::export::{Encoding, RowOrder};
use crate::gguf::{TensorType, shape};
use crate::mapped::Bytes;
use crate::model::{ExpectedTensor, TypeClass, expected_tensors, expected_vision_tensors};

/// Name of the one row of the embedding that the vision tower's file repeats.
const IMG_BREAK: &str = "v.token_embd.img_break";

/// A tensor of the output.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// In ggml's order.
    pub(super) dims: Vec<u64>,
    /// The file that holds it.
    pub(super) shard: usize,
    /// Its bytes, where they are not the file's own.
    pub(super) own: Option<Bytes>,
    pub(super) range: Range<usize>,
    pub(super) encoding: Encoding,
    pub(super) order: RowOrder,
}

/// Everything that can be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) text: Vec<Entry>,
    pub(super) vision: Vec<Entry>,
}

/// Finds the tensors that `description` asks for.
pub(super) fn collect(
    dir: &Path,
    layout: Layout,
    description: &Description,
    break_id: Option<u32>,
    shards: &[Shard],
) -> Result<Plan, CheckpointError> {
    let expected = expected(description);
    let (scales, mut faults) = scales(layout, shards);
    let mut found: HashMap<String, &str> = HashMap::new();
    let mut plan = Plan { text: Vec::new(), vision: Vec::new() };
    for (i, shard) in shards.iter().enumerate() {
        for tensor in &shard.tensors {
            let gguf = match meaning(layout, &tensor.name) {
                Meaning::Tensor(gguf) => gguf,
                Meaning::ScaleOf(_) | Meaning::Unused => continue,
                Meaning::Unknown => {
                    faults.push(format!("tensor {}: unknown", quoted(&tensor.name)));
                    continue;
                }
            };
            let Some(wanted) = expected.get(&gguf) else {
                faults.push(format!("tensor {}: this model has no {gguf}", quoted(&tensor.name)));
                continue;
            };
            if let Some(first) = found.insert(gguf, &tensor.name) {
                let (first, second) = (quoted(first), quoted(&tensor.name));
                faults.push(format!("tensors {first} and {second} are both {}", wanted.name));
                continue;
            }
            let scale = scales.get(tensor.name.as_str()).copied();
            let entry = dims(tensor, wanted).and_then(|dims| {
                let encoding = encoding(tensor, scale, description.fp8)?;
                let order = order(layout, description, &wanted.name);
                entry(shard, i, tensor, &wanted.name, dims, encoding, order)
            });
            match entry {
                Ok(entry) => {
                    if let (Some(id), "token_embd.weight") = (break_id, wanted.name.as_str()) {
                        plan.vision.push(break_row(&entry, id));
                    }
                    let is_vision = entry.name.starts_with("v.") || entry.name.starts_with("mm.");
                    if is_vision { &mut plan.vision } else { &mut plan.text }.push(entry);
                }
                Err(fault) => faults.push(fault),
            }
        }
    }
    let mut missing: Vec<_> = expected
        .values()
        .filter(|wanted| wanted.required && !found.contains_key(&wanted.name))
        .map(|wanted| format!("{}: missing; expected {}", wanted.name, shape(&wanted.dims)))
        .collect();
    missing.sort();
    faults.extend(missing);
    match faults.is_empty() {
        true => Ok(plan),
        false => Err(CheckpointError::Tensors { folder: dir.to_owned(), faults }),
    }
}

/// Every tensor that a checkpoint of this description has or may have.
fn expected(description: &Description) -> HashMap<String, ExpectedTensor> {
    let hparams = &description.hparams;
    let mut expected = expected_tensors(hparams);
    if let Some(projector) = &description.projector {
        expected.extend(expected_vision_tensors(projector));
    }
    let is_eagle = description.kind == Kind::Eagle;
    if is_eagle {
        let n_embd = u64::from(hparams.n_embd);
        expected.push(ExpectedTensor {
            name: "fc.weight".to_owned(),
            dims: vec![2 * n_embd, n_embd],
            class: TypeClass::Weight,
            required: true,
        });
    }
    for tensor in &mut expected {
        match tensor.name.as_str() {
            "output.weight" => tensor.required = !description.may_be_tied,
            // The head shares its model's.
            "token_embd.weight" if is_eagle => tensor.required = false,
            "mm.1.bias" | "mm.2.bias" => tensor.required = description.has_projector_bias,
            _ => {}
        }
    }
    expected.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

type Stored<'a> = (&'a Shard, &'a StoredTensor);

/// The scale of each weight that has one, by the weight's name in the checkpoint.
fn scales<'a>(layout: Layout, shards: &'a [Shard]) -> (HashMap<String, Stored<'a>>, Vec<String>) {
    let all = || shards.iter().flat_map(|shard| shard.tensors.iter().map(move |t| (shard, t)));
    let names: HashSet<&str> = all().map(|(_, tensor)| tensor.name.as_str()).collect();
    let mut scales: HashMap<String, Stored<'a>> = HashMap::new();
    let mut faults = Vec::new();
    for (shard, tensor) in all() {
        let Meaning::ScaleOf(weight) = meaning(layout, &tensor.name) else { continue };
        let name = quoted(&tensor.name);
        if !names.contains(weight.as_str()) {
            faults.push(format!("tensor {name}: a scale without its weight {}", quoted(&weight)));
        } else if let Some((_, other)) = scales.insert(weight, (shard, tensor)) {
            faults.push(format!("tensors {name} and {} scale one weight", quoted(&other.name)));
        }
    }
    (scales, faults)
}

/// The dimensions of `tensor` in ggml's order, if they are those that are wanted.
fn dims(tensor: &StoredTensor, wanted: &ExpectedTensor) -> Result<Vec<u64>, String> {
    let dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    match dims == wanted.dims {
        true => Ok(dims),
        false => {
            let rows_first: Vec<u64> = wanted.dims.iter().rev().copied().collect();
            let (name, found) = (quoted(&tensor.name), &tensor.shape);
            Err(format!("tensor {name}: wrong shape; expected {rows_first:?}, found {found:?}"))
        }
    }
}

/// Rotary matrices of Hugging Face's layout have the two halves of a head after each other.
fn order(layout: Layout, description: &Description, name: &str) -> RowOrder {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let hparams = &description.hparams;
    let n_head = match (&description.projector, stem.rsplit('.').next()) {
        _ if layout == Layout::Native => return RowOrder::AsIs,
        (Some(tower), Some("attn_q" | "attn_k")) if name.starts_with("v.") => tower.n_head,
        (_, Some("attn_q")) => hparams.n_head,
        (_, Some("attn_k")) => hparams.n_head_kv,
        _ => return RowOrder::AsIs,
    };
    RowOrder::Interleaved { n_head: n_head.into() }
}

fn entry(
    shard: &Shard,
    i: usize,
    tensor: &StoredTensor,
    name: &str,
    dims: Vec<u64>,
    encoding: Encoding,
    order: RowOrder,
) -> Result<Entry, String> {
    let name = name.to_owned();
    let range = tensor.range.clone();
    let (RowOrder::Interleaved { .. }, [n]) = (order, &dims[..]) else {
        return Ok(Entry { name, dims, shard: i, own: None, range, encoding, order });
    };
    // A bias has its heads in one row: its numbers change places, which no order of rows says.
    let n = *n;
    let size = range.len() / n as usize;
    let bytes = &shard.bytes.as_ref()[range];
    let moved = |row: u64| &bytes[order.source_row(row, n) as usize * size..][..size];
    let own: Vec<u8> = (0..n).flat_map(moved).copied().collect();
    let range = 0..own.len();
    let (own, order) = (Some(Bytes::Owned(own)), RowOrder::AsIs);
    Ok(Entry { name, dims, shard: i, own, range, encoding, order })
}

/// Row `id` of the embedding, as a tensor of its own.
fn break_row(embedding: &Entry, id: u32) -> Entry {
    let n_embd = embedding.dims[0];
    let n_bytes = match &embedding.encoding {
        Encoding::F8E4m3(_) => n_embd,
        Encoding::Ggml(TensorType::F32) => 4 * n_embd,
        Encoding::Ggml(_) => 2 * n_embd,
    } as usize;
    let start = embedding.range.start + id as usize * n_bytes;
    Entry {
        name: IMG_BREAK.to_owned(),
        dims: vec![n_embd],
        shard: embedding.shard,
        own: None,
        range: start..start + n_bytes,
        encoding: row_of(&embedding.encoding, id.into(), n_embd),
        order: RowOrder::AsIs,
    }
}
