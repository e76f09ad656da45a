//! Where the data of tensors lies, and whether all tensors are there.
//!
//! This program reads tensors in any order and with room between them. ggml does not: it adds up sizes in
//! the order of the header and refuses a file where an offset is another. Converters write nothing else,
//! so a gap, a swap or a surplus also tells that bytes were lost, added or taken for another tensor's.

use super::{Area, Finding, Findings, Subject, rope, tensor_place};
use crate::gguf::{Gguf, Part, TensorInfo};

const AGAIN: &str = "download the file again, or make it again with a current converter";

/// Looks at the places of all tensors.
pub(super) fn examine(gguf: &Gguf, subject: Subject, all: &mut Vec<Finding>) {
    for (idx, part) in gguf.parts().iter().enumerate() {
        let own: Vec<_> = gguf.tensors().iter().filter(|tensor| tensor.part == idx).collect();
        let findings = &mut Findings {
            file: &part.label().file,
            ..Findings::new(gguf, Area::File, subject, all)
        };
        places(part, &own, findings);
        trailing(part, &own, findings);
    }
}

/// Where the data that follows a tensor starts.
fn end(part: &Part, tensor: &TensorInfo) -> u64 {
    (tensor.offset - part.data_start() + tensor.n_bytes).next_multiple_of(part.alignment())
        + part.data_start()
}

/// Whether every tensor starts where the one before it in the header ends.
fn places(part: &Part, tensors: &[&TensorInfo], findings: &mut Findings<'_>) {
    let mut expected = part.data_start();
    let mut misplaced = Vec::new();
    for tensor in tensors {
        if tensor.offset != expected {
            misplaced.push((tensor, expected));
        }
        expected = end(part, tensor);
    }
    let Some(&(first, expected)) = misplaced.first() else { return };
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|tensor| tensor.offset);
    let starts = sorted.iter().map(|tensor| tensor.offset);
    let ends = sorted.iter().map(|tensor| end(part, tensor));
    let is_dense = std::iter::once(part.data_start()).chain(ends).zip(starts).all(|(a, b)| a == b);
    let id = if is_dense { "tensor-order" } else { "tensor-gap" };
    findings
        .error(id, tensor_place(&first.name))
        .expected(format!("data at byte {expected}, where the tensor before it ends"))
        .found(format!("byte {}; {} such tensors", first.offset, misplaced.len()))
        .means(
            "llama.cpp and programs built on it refuse the file; tensors may have the bytes of others",
        )
        .by_hand(AGAIN);
}

/// Bytes that belong to no tensor.
fn trailing(part: &Part, tensors: &[&TensorInfo], findings: &mut Findings<'_>) {
    let end = tensors.iter().map(|tensor| end(part, tensor)).max().unwrap_or(part.data_start());
    if let Some(surplus) = part.n_bytes().checked_sub(end).filter(|&surplus| surplus > 0) {
        findings
            .warning("trailing-bytes", "end of the file".to_owned())
            .expected("nothing after the last tensor")
            .found(format!("{surplus} unused bytes"))
            .means("two files were joined, or bytes slipped in and all tensors behind them are shifted")
            .by_hand(AGAIN);
    }
}

/// A matrix to logits in a model that has its own. Small siblings use the embedding in its place, so
/// loading cannot miss it.
pub(super) fn own_output(gguf: &Gguf, all: &mut Vec<Finding>) {
    const OUTPUT: &str = "output.weight";
    if gguf.tensor(OUTPUT).is_none() && rope::is_medium(gguf.metadata()) {
        Findings::new(gguf, Area::Model, Subject::Model, all)
            .error("tensor-missing", tensor_place(OUTPUT))
            .expected("the model's own matrix to logits")
            .found("nothing")
            .means("programs take the embedding in its place: answers make no sense")
            .by_hand(AGAIN);
    }
}
