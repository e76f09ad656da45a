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
use super::names::{self, Meaning, meaning};
use super::quantization::{Fp8, UNSTATED_BLOCK, encoding, row_of};
use super::safetensors::{StoredTensor, quoted};
use crate::export::{Encoding, RowOrder, Scales};
use crate::gguf::TensorType;
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
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// Finds the tensors that `description` asks for; those of the vision tower only `with_tower`.
pub(super) fn collect(
    dir: &Path,
    layout: Layout,
    description: &Description,
    break_id: Option<u32>,
    shards: &[Shard],
    with_tower: bool,
) -> Result<Plan, CheckpointError> {
    let expected = expected(description);
    let (scales, mut faults) = scales(layout, shards);
    let mut found: HashMap<String, &str> = HashMap::new();
    let mut plan = Plan { text: Vec::new(), vision: Vec::new(), notes: Vec::new() };
    let mut computed = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        for tensor in &shard.tensors {
            let gguf = match meaning(layout, &tensor.name) {
                Meaning::Tensor(gguf) if !with_tower && is_vision(&gguf) => continue,
                Meaning::Tensor(gguf) => gguf,
                Meaning::ScaleOf(_) | Meaning::Unused => continue,
                Meaning::Computed => {
                    computed.push(&tensor.name);
                    continue;
                }
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
                let may_guess = layout == Layout::Native;
                let encoding = encoding(tensor, scale, description.fp8, may_guess)?;
                let order = order(layout, description, &wanted.name);
                entry(shard, i, tensor, &wanted.name, dims, encoding, order)
            });
            match entry {
                Ok(entry) => {
                    if let (Some(id), "token_embd.weight") = (break_id, wanted.name.as_str()) {
                        plan.vision.push(break_row(&entry, id));
                    }
                    if is_vision(&entry.name) { &mut plan.vision } else { &mut plan.text }
                        .push(entry);
                }
                Err(fault) => faults.push(fault),
            }
        }
    }
    faults.extend(missing(layout, &expected, &found));
    plan.notes = notes(&computed, &plan, description.fp8);
    match faults.is_empty() {
        true => Ok(plan),
        false => Err(CheckpointError::Tensors { folder: dir.to_owned(), faults }),
    }
}

fn is_vision(gguf: &str) -> bool {
    gguf.starts_with("v.") || gguf.starts_with("mm.")
}

/// What the model must have and `found` does not, by the checkpoint's names and in its order of dimensions.
fn missing(
    layout: Layout,
    expected: &HashMap<String, ExpectedTensor>,
    found: &HashMap<String, &str>,
) -> Vec<String> {
    // Tensors of a part have the same prefix; those outside the layers that of the layers.
    let part = |gguf: &str| match gguf.split('.').next() {
        Some(part @ ("v" | "mm" | "output")) => part.to_owned(),
        _ => "blk".to_owned(),
    };
    let prefixes: HashMap<String, &str> =
        found.iter().map(|(gguf, name)| (part(gguf), names::prefix(name))).collect();
    let is_missing =
        |wanted: &&ExpectedTensor| wanted.required && !found.contains_key(&wanted.name);
    let wanted: Vec<_> = expected.values().filter(is_missing).collect();
    let n_vision = wanted.iter().filter(|wanted| is_vision(&wanted.name)).count();
    let has_none = n_vision > 0 && !found.keys().any(|gguf| is_vision(gguf));
    let line = |wanted: &&ExpectedTensor| {
        let gguf = &wanted.name;
        let original = names::original(layout, gguf).unwrap_or_else(|| gguf.clone());
        let prefix = prefixes.get(&part(gguf)).copied().unwrap_or_default();
        let rows_first: Vec<u64> = wanted.dims.iter().rev().copied().collect();
        let name = quoted(&format!("{prefix}{original}"));
        format!("tensor {name}: missing; expected {rows_first:?} ({gguf} in GGUF)")
    };
    let listed = wanted.iter().filter(|wanted| !(has_none && is_vision(&wanted.name)));
    let mut missing: Vec<String> = listed.map(line).collect();
    missing.sort();
    if has_none {
        missing.insert(
            0,
            format!(
                "none of the {n_vision} tensors of the vision tower that {} describes is here; \
             --no-mmproj leaves it out",
                layout.config_name()
            ),
        );
    } else if n_vision > 0 {
        missing.push("--no-mmproj leaves the vision tower out".to_owned());
    }
    missing
}

/// What was left out, and what was guessed.
fn notes(computed: &[&String], plan: &Plan, fp8: Fp8) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(first) = computed.first() {
        let n = computed.len();
        notes.push(format!(
            "left out {n} tensor{} that programs compute themselves: {}{}",
            if n == 1 { "" } else { "s" },
            quoted(first),
            if n == 1 { "" } else { ", …" },
        ));
    }
    let has_blocks =
        |entry: &Entry| matches!(entry.encoding, Encoding::F8E4m3(Scales::Blocks { .. }));
    if fp8 == Fp8::Tensor && plan.text.iter().chain(&plan.vision).any(has_blocks) {
        let n = UNSTATED_BLOCK;
        notes.push(format!(
            "params.json states no weight_block_size; took {n} x {n}, which the scales' shapes fit"
        ));
    }
    notes
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
