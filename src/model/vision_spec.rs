//! Facts: the tensors that a vision tower and its projector of given shape must consist of.
//!
//! The counterpart of `spec.rs`, with the names that llama.cpp's converters give. The table is checked
//! once, so that the graph takes tensors by name without looking at shapes again.

use std::collections::HashSet;

use super::error::ModelError;
use super::hparams::Hparams;
use super::projector::Projector;
use super::spec::{ExpectedTensor, Table, TypeClass, fault, is_vision, place};
use crate::gguf::Gguf;

/// Every tensor that a tower of this shape has or may have, in the order of the graph.
///
/// `v.token_embd.img_break` repeats a row of the language model's embedding, which is used instead;
/// some converters leave it out.
pub fn expected_vision_tensors(projector: &Projector) -> Vec<ExpectedTensor> {
    let [n_embd, n_ff, n_text] =
        [projector.n_embd, projector.n_ff, projector.n_embd_text].map(u64::from);
    let patch = projector.patch_size.into();
    let merge = u64::from(projector.merge_size);
    let mut table = Table::default();
    let matrix = |table: &mut Table, name: &str, dims: &[u64], required| {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        table.push(weight, dims.to_vec(), TypeClass::Weight, required);
        table.vector(&bias, dims[dims.len() - 1], false);
    };
    matrix(&mut table, "v.patch_embd", &[patch, patch, 3, n_embd], true);
    table.vector("v.pre_ln.weight", n_embd, true);
    for il in 0..projector.n_layer {
        let blk = |name: &str| format!("v.blk.{il}.{name}");
        table.vector(&blk("ln1.weight"), n_embd, true);
        for name in ["attn_q", "attn_k", "attn_v", "attn_out"] {
            matrix(&mut table, &blk(name), &[n_embd, n_embd], true);
        }
        table.vector(&blk("ln2.weight"), n_embd, true);
        matrix(&mut table, &blk("ffn_gate"), &[n_embd, n_ff], true);
        matrix(&mut table, &blk("ffn_up"), &[n_embd, n_ff], true);
        matrix(&mut table, &blk("ffn_down"), &[n_ff, n_embd], true);
    }
    // Models that merge no patches, such as Pixtral 12B, project them as they are.
    let merges = merge > 1;
    table.vector("mm.input_norm.weight", n_embd, merges);
    matrix(&mut table, "mm.patch_merger", &[n_embd * merge * merge, n_embd], merges);
    matrix(&mut table, "mm.1", &[n_embd, n_text], true);
    matrix(&mut table, "mm.2", &[n_text, n_text], true);
    table.push("v.token_embd.img_break".to_owned(), vec![n_text], TypeClass::Weight, false);
    table.0
}

/// Reads the projector in `gguf` and checks that it is whole and made for the model of `hparams`.
pub fn check_mmproj(gguf: &Gguf, hparams: &Hparams) -> Result<Projector, ModelError> {
    let projector = Projector::from_gguf(gguf)?;
    projector.check_fits(gguf, hparams)?;
    check_vision_tensors(gguf, &projector)?;
    Ok(projector)
}

/// Compares the tensors of `gguf` with the table; all mismatches are reported together. Tensors of a
/// language model in the same file are its own business.
pub fn check_vision_tensors(gguf: &Gguf, projector: &Projector) -> Result<(), ModelError> {
    let expected = expected_vision_tensors(projector);
    let mut faults: Vec<String> =
        expected.iter().filter_map(|expected| fault(gguf, expected)).collect();
    let names: HashSet<&str> = expected.iter().map(|expected| expected.name.as_str()).collect();
    let is_own = |name: &str| Projector::is_in(gguf) || is_vision(name);
    for tensor in gguf.tensors() {
        if is_own(&tensor.name) && !names.contains(tensor.name.as_str()) {
            faults.push(format!("{}: unexpected tensor", place(gguf, tensor)));
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(ModelError::Tensors { label: gguf.label().clone(), faults }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Activation;

    #[test]
    fn medium_3_5_has_a_tower_of_2_5_billion_weights() {
        let projector = Projector {
            n_layer: 48,
            n_embd: 1664,
            n_ff: 8192,
            n_head: 16,
            n_embd_text: 12_288,
            image_size: 1540,
            patch_size: 14,
            merge_size: 2,
            norm_eps: 1e-5,
            freq_base: 1e4,
            activation: Activation::Silu,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        };
        let expected = expected_vision_tensors(&projector);
        let is_there = |t: &&ExpectedTensor| t.required || t.name == "v.token_embd.img_break";
        assert_eq!(expected.iter().filter(is_there).count(), 439);
        let n_weights = |prefix: &str| -> u64 {
            let own = |t: &&ExpectedTensor| t.required && t.name.starts_with(prefix);
            expected.iter().filter(own).map(|t| t.dims.iter().product::<u64>()).sum()
        };
        assert_eq!((n_weights("v."), n_weights("mm.")), (2_495_702_144, 182_519_424));
    }
}
