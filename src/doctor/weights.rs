//! The numbers in the tensors: whether any of them cannot be a weight.
//!
//! Numbers that are not finite spoil every answer; tensors of zeros come from interrupted downloads and
//! from tools that write the file before its data. All tensors are read, so that one run tells everything.

use super::{Area, Finding, Findings, Subject, tensor_place};
use crate::gguf::{Gguf, Problem, TensorInfo};
use crate::model::Projector;

/// Tensors of one kind of fault that are told one by one.
const MAX_LISTED: usize = 20;

/// Reads every tensor.
pub(super) fn examine(gguf: &Gguf, on_progress: impl Fn(u64)) -> Vec<Finding> {
    let subject = if Projector::is_in(gguf) { Subject::Mmproj } else { Subject::Model };
    let mut all = Vec::new();
    let findings = &mut Findings::new(gguf, Area::Weights, subject, &mut all);
    let mut n_zero = 0;
    for tensor in gguf.tensors() {
        if is_zero(gguf, tensor) {
            n_zero += 1;
            if n_zero <= MAX_LISTED {
                zero(tensor, findings);
            }
        }
        if let Err(error) = gguf.check_tensor(tensor) {
            let found = match error.problem() {
                Problem::Payload { n_bad, row, found } => {
                    format!("{n_bad} bad values, first in row {row}: {found}")
                }
                problem => problem.to_string(),
            };
            findings
                .error("not-finite", tensor_place(&tensor.name))
                .expected("finite numbers")
                .found(found)
                .means("answers are empty, or the same token for ever")
                .by_hand("download the file again, or make it again from its checkpoint");
        }
        on_progress(tensor.n_bytes);
    }
    if n_zero > MAX_LISTED {
        findings
            .error("all-zero", format!("{} more tensors", n_zero - MAX_LISTED))
            .expected("weights")
            .found("zeros")
            .means("the model is not in the file")
            .by_hand("download the file again");
    }
    all
}

/// Whether a tensor that should not be holds nothing but zeros. Biases may, and single numbers.
fn is_zero(gguf: &Gguf, tensor: &TensorInfo) -> bool {
    let may_be = tensor.name.ends_with(".bias") || tensor.n_elements() == 1;
    !may_be && gguf.data(tensor).iter().all(|&byte| byte == 0)
}

fn zero(tensor: &TensorInfo, findings: &mut Findings<'_>) {
    findings
        .error("all-zero", tensor_place(&tensor.name))
        .expected("weights")
        .found("zeros")
        .means("a part of the model is missing: answers make no sense")
        .by_hand("download the file again");
}
