//! What kind of file this is: files that are no model by themselves, and the quantization it claims.
//!
//! `general.file_type` names a mix. Which one a file really is follows from replaying every mix on its
//! tensors, as `quantize` would. Mixes of other programs match none; of these only the claimed main type
//! is asked for.

use super::{Area, Finding, Findings, Subject, key_place};
use crate::gguf::{Gguf, TensorInfo, TensorType, Value};
use crate::model::{MIXES, Mix};
use crate::quantize::{Candidate, Recipe, facts};

const FILE_TYPE: &str = "general.file_type";

/// File types of llama.cpp that are no mix, and the type that such files are made of.
const OTHER_FILE_TYPES: &[(u32, TensorType)] = &[(38, TensorType::MXFP4), (39, TensorType::NVFP4)];

/// Whether the file is neither a model nor a projector, but goes with one.
pub fn is_accessory(gguf: &Gguf) -> bool {
    accessory(gguf).is_some()
}

/// Name of a finding, kind of file, and what that means, if the file is an accessory.
fn accessory(gguf: &Gguf) -> Option<(&'static str, &'static str, &'static str)> {
    let text = |key| gguf.metadata().str(key).ok().flatten();
    if text("general.type") == Some("imatrix") {
        Some((
            "imatrix-file",
            "an importance matrix",
            "it is for gust quantize --imatrix, and cannot be run",
        ))
    } else if text("general.architecture") == Some("eagle") {
        Some((
            "eagle-file",
            "a draft head for speculative decoding",
            "it goes with its model, and cannot be run alone; --deep reads its numbers",
        ))
    } else {
        None
    }
}

/// Says what an accessory is.
pub(super) fn examine(gguf: &Gguf, all: &mut Vec<Finding>) {
    let Some((id, found, means)) = accessory(gguf) else { return };
    let findings = &mut Findings::new(gguf, Area::File, Subject::Model, all);
    let finding = findings.note(id, "file".to_owned());
    finding.expected("a language model or its projector").found(found).means(means);
    finding.by_hand("nothing, if that is meant");
}

/// The matrices of a file.
fn matrices(gguf: &Gguf) -> impl Iterator<Item = &TensorInfo> {
    gguf.tensors().iter().filter(|tensor| tensor.dims.len() > 1)
}

/// The mix that the file says it is.
pub(super) fn file_type(gguf: &Gguf, findings: &mut Findings<'_>) {
    let Ok(Some(stated)) = gguf.metadata().u32(FILE_TYPE) else { return };
    let mix = MIXES.iter().find(|mix| mix.file_type == stated);
    if matrices(gguf).count() == 0 || mix.is_some_and(|mix| is_of(gguf, mix)) {
        return;
    }
    let real = MIXES.iter().find(|mix| is_of(gguf, mix));
    let other = OTHER_FILE_TYPES.iter().find(|(id, _)| *id == stated).map(|(_, ty)| *ty);
    let base = mix.map(|mix| mix.base).or(other);
    let has_base = base.is_some_and(|base| matrices(gguf).any(|tensor| tensor.ty == base));
    if real.is_none() && has_base {
        return;
    }
    let finding = findings.warning("file-type", key_place(FILE_TYPE));
    finding
        .expected(match real {
            Some(real) => format!("{}, whose recipe gives every tensor the type it has", real.name),
            None => "a recipe of a type that is in the file".to_owned(),
        })
        .found(match (mix, base) {
            (Some(mix), _) => format!("{stated}, {}", mix.name),
            (None, Some(base)) => format!("{stated}, a recipe of {base}"),
            (None, None) => format!("{stated}, which no program knows"),
        })
        .means("programs show a wrong name for the file");
    match real {
        Some(real) => finding.fix_key(FILE_TYPE, Value::U32(real.file_type)),
        None => finding.by_hand("nothing: it is only shown"),
    }
}

/// Whether every tensor has the type that `mix` gives it, with or without an importance matrix.
fn is_of(gguf: &Gguf, mix: &'static Mix) -> bool {
    let candidates: Vec<Candidate<'_>> = gguf
        .tensors()
        .iter()
        .map(|tensor| Candidate { name: &tensor.name, dims: &tensor.dims, ty: tensor.ty })
        .collect();
    let is_so = |has_imatrix| {
        let choices = Recipe::of(mix).choose(&candidates, &facts(gguf, has_imatrix).ok()?).ok()?;
        Some(choices.iter().zip(&candidates).all(|(choice, tensor)| choice.ty == tensor.ty))
    };
    [false, true].into_iter().any(|has_imatrix| is_so(has_imatrix) == Some(true))
}
