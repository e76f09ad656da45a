//! From edits to a file: the same tensors under a corrected header.
//!
//! Nothing is computed with weights here, and none is changed: every tensor is planned as a copy of its
//! bytes, in its old order. The one tensor that can be added, `v.token_embd.img_break`, is a row of the
//! language model's embedding. `export` writes what is planned, as it does for every command.

use std::path::PathBuf;

use super::Edit;
use crate::export::{OutputFile, PlannedTensor, Source};
use crate::gguf::{Gguf, HeaderBuilder, Metadata, TensorInfo, TensorType, Value};

const IMG_BREAK: &str = "v.token_embd.img_break";
/// Where `[IMG_BREAK]` stands in every vocabulary that has it.
const IMG_BREAK_ID: u64 = 12;
/// The alignment of files that are written here; the key may not contradict it.
const ALIGNMENT: &str = "general.alignment";

/// Why a repaired file cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Nothing to copy it from.
    #[error(
        "no embedding of [IMG_BREAK] to copy; give the language model that the tower belongs to"
    )]
    NoImgBreak,
}

/// The first part of `gguf`, which holds the metadata, with `edits` applied: a file to be written to
/// `path`. `model` is the language model that an image projector belongs to.
pub fn repaired<'a>(
    gguf: &'a Gguf,
    edits: &[Edit],
    model: Option<&'a Gguf>,
    path: PathBuf,
) -> Result<OutputFile<'a>, RepairError> {
    let own = gguf.tensors().iter().filter(|tensor| tensor.part == 0);
    let mut tensors: Vec<PlannedTensor<'a>> =
        own.map(|tensor| PlannedTensor::copy_of(gguf, tensor)).collect();
    if edits.contains(&Edit::ImgBreak) {
        let source = model.and_then(img_break_source).ok_or(RepairError::NoImgBreak)?;
        let planned = PlannedTensor {
            name: IMG_BREAK.to_owned(),
            ty: TensorType::F32,
            dims: vec![source.n_cols],
            source,
            importance: None,
        };
        match tensors.iter_mut().find(|tensor| tensor.name == IMG_BREAK) {
            Some(old) => *old = planned,
            None => tensors.push(planned),
        }
    }
    Ok(OutputFile { path, metadata: metadata(gguf.metadata(), edits), tensors })
}

/// A file with the metadata of `gguf` after `edits`, for checks that read only metadata. Its one tensor
/// is a dummy: files without any count as vocabularies, and this name marks a tower inside of a model.
pub fn header_of(gguf: &Gguf, edits: &[Edit]) -> Option<Gguf> {
    let mut header = HeaderBuilder::new();
    metadata(gguf.metadata(), edits)
        .iter()
        // There are other tensors, and no siblings.
        .filter(|(key, _)| !key.starts_with("split."))
        .for_each(|(key, value)| header.set(key, value));
    header.tensor("v.patch_embd.weight", TensorType::F32, &[1]);
    let layout = header.finish();
    let mut bytes = layout.header;
    bytes.resize(usize::try_from(layout.n_bytes).ok()?, 0);
    Gguf::from_bytes(gguf.label().file.as_ref(), bytes).ok()
}

/// Keys and values after `edits`, in the order of the file. A new key stands after the last one of its
/// first word, so that related keys stay together.
fn metadata(old: &Metadata, edits: &[Edit]) -> Vec<(String, Value)> {
    let mut keys: Vec<(String, Value)> =
        old.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    for edit in edits {
        match edit {
            Edit::Remove(gone) => keys.retain(|(key, _)| key != gone),
            Edit::Set(set, value) => match keys.iter_mut().find(|(key, _)| key == set) {
                Some((_, old)) => *old = value.clone(),
                None => {
                    let word = |key: &str| key.split('.').next().map(str::to_owned);
                    let last = keys.iter().rposition(|(key, _)| word(key) == word(set));
                    let at = last.map_or(keys.len(), |last| last + 1);
                    keys.insert(at, (set.clone(), value.clone()));
                }
            },
            Edit::ImgBreak => {}
        }
    }
    keys.retain(|(key, _)| key != ALIGNMENT);
    keys
}

/// Where the language model's embedding of `[IMG_BREAK]` lies.
pub(super) fn img_break_source(model: &Gguf) -> Option<Source<'_>> {
    let tensor = model.tensor("token_embd.weight")?;
    let tokens = model.metadata().strings("tokenizer.ggml.tokens").ok().flatten()?;
    let named = tokens.iter().position(|token| token == "[IMG_BREAK]");
    let row = named.map_or(IMG_BREAK_ID, |id| id as u64);
    let mut source = Source::of(model, tensor);
    if !source.encoding.is_readable() || row >= source.n_rows {
        return None;
    }
    let n_bytes = usize::try_from(tensor.ty.row_bytes(source.n_cols)?).ok()?;
    let start = source.range.start + usize::try_from(row).ok()? * n_bytes;
    source.range = start..start + n_bytes;
    source.n_rows = 1;
    Some(source)
}

/// The language model's embedding of `[IMG_BREAK]`.
pub(super) fn img_break_row(model: &Gguf) -> Option<Vec<f32>> {
    read(&img_break_source(model)?)
}

/// The numbers of a tensor that is no longer than an embedding.
pub(super) fn values(gguf: &Gguf, tensor: &TensorInfo) -> Option<Vec<f32>> {
    let source = Source::of(gguf, tensor);
    source.encoding.is_readable().then(|| read(&source)).flatten()
}

fn read(source: &Source<'_>) -> Option<Vec<f32>> {
    /// Longest embedding that `model` accepts.
    const MAX: u64 = 1 << 20;
    let n = source.n_cols.checked_mul(source.n_rows).filter(|&n| n <= MAX)?;
    let mut values = vec![0.0; usize::try_from(n).ok()?];
    source.read_rows(0, &mut values);
    Some(values)
}
