//! Recording a computation.
//!
//! A [`Graph`] owns everything it points to: the arena with its tensor headers and, by `Arc`, the
//! stores whose tensors it reads or writes. Inputs and outputs are known by index, so that a graph can
//! be kept and run again without borrowing from itself.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ggml_sys as sys;

use super::{DType, Device, Element, Tensor, TensorId, TensorStore};

/// Memory for tensor headers; tensor data lies elsewhere.
pub(super) struct Arena(NonNull<sys::ggml_context>);

impl Arena {
    pub(super) fn new(n_bytes: usize) -> Self {
        let params = sys::ggml_init_params {
            mem_size: n_bytes,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: plain data in; NULL only when malloc fails, which for headers is the process's end.
        let ptr = unsafe { sys::ggml_init(params) };
        Arena(NonNull::new(ptr).expect("a few kilobytes can be allocated"))
    }

    pub(super) fn for_tensors(n_tensors: usize) -> Self {
        // SAFETY: a constant.
        Self::new((n_tensors + 1) * unsafe { sys::ggml_tensor_overhead() })
    }

    pub(super) fn ptr(&self) -> *mut sys::ggml_context {
        self.0.as_ptr()
    }

    pub(super) fn tensor(&self, dtype: DType, ne: &[i64]) -> Tensor<'_> {
        assert!((1..=4).contains(&ne.len()) && ne.iter().all(|&n| n > 0), "bad shape {ne:?}");
        assert!(ne[0] % dtype.block_size() == 0, "{ne:?} has no whole blocks of {dtype:?}");
        // SAFETY: shape and type were checked; the arena is big enough by its owner's count.
        Tensor::new(unsafe {
            sys::ggml_new_tensor(self.ptr(), dtype.0, ne.len() as i32, ne.as_ptr())
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the arena is ours, and handles are bound to its life.
        unsafe { sys::ggml_free(self.ptr()) };
    }
}

/// Names an input of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputId(pub(super) usize);

/// Names an output of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputId(pub(super) usize);

/// A recorded computation, ready for a scheduler.
pub struct Graph {
    pub(super) id: u64,
    pub(super) cgraph: NonNull<sys::ggml_cgraph>,
    pub(super) inputs: Vec<NonNull<sys::ggml_tensor>>,
    pub(super) outputs: Vec<NonNull<sys::ggml_tensor>>,
    /// Operations that run on a device whatever the scheduler thinks.
    pub(super) pinned: Vec<(NonNull<sys::ggml_tensor>, Device)>,
    _stores: Vec<Arc<TensorStore>>,
    _arena: Arena,
}

// SAFETY: all pointers lead into the arena and the stores, which the graph owns or shares.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({} nodes)", self.n_nodes())
    }
}

impl Graph {
    /// Records a graph of at most `n_nodes` operations.
    ///
    /// The closure's result is handed back beside the graph: its input and output ids.
    pub fn build<R>(n_nodes: usize, record: impl FnOnce(&GraphBuilder<'_>) -> R) -> (Graph, R) {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        // Each operation has one header; inputs and views are counted in by the factor.
        // SAFETY: constants of ggml.
        let n_bytes = unsafe {
            sys::ggml_graph_overhead_custom(n_nodes, false)
                + 2 * n_nodes * sys::ggml_tensor_overhead()
        };
        let arena = Arena::new(n_bytes);
        // SAFETY: the arena has room for the graph, as computed above.
        let cgraph =
            NonNull::new(unsafe { sys::ggml_new_graph_custom(arena.ptr(), n_nodes, false) })
                .expect("the arena has room for the graph");
        let recording = RefCell::new(Recording::default());
        let result = record(&GraphBuilder { arena: &arena, cgraph, recording: &recording });
        let Recording { inputs, outputs, pinned, stores } = recording.into_inner();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        (Graph { id, cgraph, inputs, outputs, pinned, _stores: stores, _arena: arena }, result)
    }

    /// Operations in the graph.
    pub fn n_nodes(&self) -> usize {
        // SAFETY: the graph is valid.
        unsafe { sys::ggml_graph_n_nodes(self.cgraph.as_ptr()) as usize }
    }
}

#[derive(Default)]
struct Recording {
    inputs: Vec<NonNull<sys::ggml_tensor>>,
    outputs: Vec<NonNull<sys::ggml_tensor>>,
    pinned: Vec<(NonNull<sys::ggml_tensor>, Device)>,
    stores: Vec<Arc<TensorStore>>,
}

/// Records operations (see `ops.rs`), inputs and outputs.
pub struct GraphBuilder<'g> {
    pub(super) arena: &'g Arena,
    cgraph: NonNull<sys::ggml_cgraph>,
    recording: &'g RefCell<Recording>,
}

impl<'g> GraphBuilder<'g> {
    /// An input whose values are set before each run.
    pub fn input<T: Element>(&self, name: &str, ne: &[i64]) -> (InputId, Tensor<'g>) {
        let tensor = self.arena.tensor(T::DTYPE, ne).named(name);
        // SAFETY: a flag on our own header.
        unsafe { sys::ggml_set_input(tensor.ptr.as_ptr()) };
        let inputs = &mut self.recording.borrow_mut().inputs;
        inputs.push(tensor.ptr);
        (InputId(inputs.len() - 1), tensor)
    }

    /// Marks a result that is read after each run.
    pub fn output(&self, tensor: Tensor<'g>) -> OutputId {
        // SAFETY: a flag on our own header.
        unsafe { sys::ggml_set_output(tensor.ptr.as_ptr()) };
        self.compute(tensor);
        let outputs = &mut self.recording.borrow_mut().outputs;
        outputs.push(tensor.ptr);
        OutputId(outputs.len() - 1)
    }

    /// Lets the operation behind `tensor` run on `device`, where its data lie, instead of wherever the
    /// scheduler would copy them.
    pub fn pin(&self, tensor: Tensor<'g>, device: Device) {
        self.recording.borrow_mut().pinned.push((tensor.ptr, device));
    }

    /// Adds `tensor` and all it needs to the run, after what was added before.
    pub fn compute(&self, tensor: Tensor<'g>) {
        // SAFETY: the tensor is of this graph; n_nodes of `Graph::build` bounds the count, and
        // ggml aborts past it, so builders size their graphs generously.
        unsafe { sys::ggml_build_forward_expand(self.cgraph.as_ptr(), tensor.ptr.as_ptr()) };
    }

    /// A tensor of a store, which the graph keeps alive.
    pub fn stored(&self, store: &Arc<TensorStore>, id: TensorId) -> Tensor<'g> {
        let stores = &mut self.recording.borrow_mut().stores;
        if !stores.iter().any(|s| Arc::ptr_eq(s, store)) {
            stores.push(store.clone());
        }
        Tensor { ptr: Tensor::of_store(store, id).ptr, life: std::marker::PhantomData }
    }
}
