//! How fast a plan would be: what a token makes each device read and multiply, over what it can.
//!
//! Layers follow each other, so devices take turns and their times add up. Decoding reads every weight once and
//! the cache as far as it is filled. Prompts are bound by products: two operations a weight and token, and in
//! attention four for each element of a query row and token before it. Neither is reached in full, and by how much
//! it is missed depends on kernels and machine; the shares below make a prediction of it.

use super::machine::Machine;
use super::subject::Subject;
use crate::plan::Fit;

/// Part of a memory's bandwidth that decoding reaches: measured on processors (80 % in README.md), taken for
/// graphics cards as well.
pub(super) const BANDWIDTH_SHARE: f64 = 0.8;
/// Part of the data sheet's products that prompts reach: what quantized kernels come to by experience, not
/// measured here.
pub(super) const FLOPS_SHARE: f64 = 0.4;
/// Tokens of the prompt whose speed is predicted.
pub(super) const N_PROMPT: u64 = 4096;

/// Tokens a second; `None` where a number of a device is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    /// Decoding at the beginning of a context.
    pub(super) decode: Option<f64>,
    /// Decoding at its end.
    pub(super) decode_full: Option<f64>,
    /// Reading a prompt of [`N_PROMPT`] tokens, or one that fills the context.
    pub(super) prefill: Option<f64>,
}

impl Speed {
    pub(super) fn of(subject: &Subject, machine: &Machine, fit: &Fit) -> Self {
        if fit.over_memory.is_some() {
            // The disk decides, and nothing is known of it.
            return Speed { decode: None, decode_full: None, prefill: None };
        }
        Speed {
            decode: decode(subject, machine, fit, 0.0),
            decode_full: decode(subject, machine, fit, 1.0),
            prefill: prefill(subject, machine, fit),
        }
    }
}

/// Decoding at a depth of `filled` of the context.
fn decode(subject: &Subject, machine: &Machine, fit: &Fit, filled: f64) -> Option<f64> {
    let mut seconds = 0.0;
    for (i, room) in fit.rooms.iter().enumerate() {
        // Of the embedding one row is read, unless it is the output as well.
        let is_output = subject.is_tied() && fit.layout.output == i;
        let rows = if i == machine.n_gpu() && !is_output { embedding(subject) } else { 0 };
        let n_bytes = room.weights.saturating_sub(rows) as f64 + room.kv as f64 * filled;
        if n_bytes > 0.0 {
            seconds += n_bytes / (machine.cards[i].bandwidth? * 1e9 * BANDWIDTH_SHARE);
        }
    }
    Some(1.0 / seconds)
}

fn embedding(subject: &Subject) -> u64 {
    subject.gguf.tensor("token_embd.weight").map_or(0, |tensor| tensor.n_bytes)
}

fn prefill(subject: &Subject, machine: &Machine, fit: &Fit) -> Option<f64> {
    let n_tokens = N_PROMPT.min(fit.layout.n_ctx.into());
    let in_layer = |tensor: &&crate::gguf::TensorInfo| tensor.name.starts_with("blk.");
    let n_weights: u64 =
        subject.gguf.tensors().iter().filter(in_layer).map(|t| t.n_elements()).sum();
    let hparams = &subject.hparams;
    let n_layer = f64::from(hparams.n_layer);
    let heads = f64::from(hparams.n_head);
    let head = f64::from(hparams.n_embd_head_k) + f64::from(hparams.n_embd_head_v);
    // On the way, half of the prompt lies before a token.
    let attention = 2.0 * heads * head * n_tokens as f64 / 2.0;
    let per_layer = 2.0 * n_weights as f64 / n_layer + attention;
    let mut seconds = 0.0;
    for (i, card) in machine.cards.iter().enumerate() {
        let n = fit.layout.layers.iter().filter(|&&room| room == i).count();
        if n > 0 {
            seconds += n as f64 * per_layer / (card.tflops? * 1e12 * FLOPS_SHARE);
        }
    }
    Some(1.0 / seconds)
}
