//! The safe face of ggml: the little of it that gust uses, and all of gust's FFI.
//!
//! The order of things is ggml-backend.h's own, held by types:
//!
//! ```text
//! Device → Backend → Scheduler
//! StoreBuilder → TensorStore            weights and KV cache: tensors with memory, shared by Arc
//! GraphBuilder → Graph                  a recorded computation over stored tensors and inputs
//! Scheduler::ready(&mut Graph) → Ready  memory is planned; inputs may be set
//! Ready::compute → Computed             outputs may be read
//! ```
//!
//! A failed `GGML_ASSERT` kills the process, so every operation checks shapes and types first and
//! panics with both: that is our own bug. What a user can cause (too little memory, a file that the
//! loader must refuse) comes back as [`GgmlError`] or is checked above this layer.

#![allow(unsafe_code)]

mod abort;
mod attend;
mod backend;
mod custom;
mod gather;
mod graph;
mod joint;
mod log;
mod module;
mod ops;
mod pinned;
mod pretend;
mod quant;
#[cfg(feature = "rpc")]
pub mod rpc;
mod sched;
mod store;
mod tensor;

use std::ffi::{CStr, c_char};

pub use abort::on_abort;
pub use attend::{CellLists, PIECE, can_attend};
pub use backend::{Backend, BufferType, CancelFlag, Device, DeviceKind, FlashAttn, devices};
pub use graph::{Graph, GraphBuilder, InputId, OutputId};
pub use joint::{Cut, Cuts, NoPart, check_memory, join};
pub use log::{last_complaint, on_complaint};
pub use module::{ModuleNote, ModuleOutcome, modules};
pub use ops::Rope;
pub use pinned::PinnedMemory;
pub use pretend::pretend_gpus;
pub use quant::{
    MAX_IMPORTANCE, Quantizer, dequantize_rows, max_value, needs_importance, quantize_rows,
};
pub use sched::{Computed, MAX_GPUS, Ready, Scheduler};
pub use store::{HostMemory, StoreBuilder, TensorId, TensorStore};
pub use tensor::{DType, Element, Tensor};

/// What ggml can refuse at run time.
#[derive(Debug, thiserror::Error)]
pub enum GgmlError {
    /// A buffer could not be had.
    #[error("{n_bytes} bytes for {what} could not be allocated on {device}; use a smaller --ctx")]
    Alloc {
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for.
        n_bytes: usize,
        /// The device that refused.
        device: String,
    },
    /// The graph's working memory could not be had.
    #[error("memory for the computation could not be allocated; try a smaller --ctx")]
    AllocGraph,
    /// A cancel flag was raised while the graph ran.
    #[error("the computation was cancelled")]
    Cancelled,
    /// A backend gave up.
    #[error("the computation failed on the backend: {0}")]
    Compute(String),
    /// No CPU backend is compiled in or fits this processor.
    #[error("no CPU backend runs on this processor")]
    NoCpu,
}

/// ggml's version, such as `0.28.0`.
pub fn version() -> &'static str {
    // SAFETY: returns a pointer to a string literal in ggml.
    unsafe { text(ggml_sys::ggml_version()) }
}

/// A C string of ggml's that lives as long as the program.
///
/// # Safety
/// `ptr` must point to a NUL-terminated string with static lifetime.
unsafe fn text(ptr: *const c_char) -> &'static str {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(ptr) }.to_str().expect("ggml's own names are ASCII")
}
