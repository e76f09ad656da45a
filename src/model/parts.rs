//! Whether the parts of a split model come from one quantization.
//!
//! Later parts may hold nothing but tensors, and two quantizations of one model, split by the
//! number of tensors, have the same names and shapes in the same parts. What differs is the types. Recipes
//! vary them from layer to layer, but the parts of one recipe always have some in common.

use std::collections::BTreeSet;

use super::error::ModelError;
use crate::gguf::{Gguf, Label, TensorType};

/// Matrices that recipes treat alike in most layers.
const ALIKE: &[&str] =
    &["attn_q.weight", "attn_k.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight"];
/// Fewer of them on either side say nothing.
const MIN_TENSORS: usize = 10;

/// Refuses a part that has no type of its layers' matrices in common with the other parts.
pub(super) fn check_parts(gguf: &Gguf) -> Result<(), ModelError> {
    let matrices = gguf.tensors().iter().filter(|tensor| {
        tensor.name.starts_with("blk.") && ALIKE.iter().any(|name| tensor.name.ends_with(name))
    });
    for (idx, part) in gguf.parts().iter().enumerate() {
        let types = |is_own: bool| {
            matrices.clone().filter(move |tensor| (tensor.part == idx) == is_own).map(|t| t.ty)
        };
        if types(true).count() < MIN_TENSORS || types(false).count() < MIN_TENSORS {
            continue;
        }
        let own: BTreeSet<TensorType> = types(true).collect();
        let others: BTreeSet<TensorType> = types(false).collect();
        if own.is_disjoint(&others) {
            return Err(ModelError::Kind {
                label: Label::clone(part.label()),
                problem: format!(
                    "part of another quantization; expected layers of {} as in the other parts, \
                     found {}",
                    names(&others),
                    names(&own)
                ),
            });
        }
    }
    Ok(())
}

fn names(types: &BTreeSet<TensorType>) -> String {
    types.iter().map(|ty| ty.name()).collect::<Vec<_>>().join(", ")
}
