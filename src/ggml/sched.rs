//! Running graphs: plans memory over the backends, sets inputs, computes, reads outputs.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use ggml_sys as sys;

use super::{Backend, CancelFlag, DType, Element, GgmlError, Graph, InputId, OutputId};

/// Owns the backends and the working memory of one graph at a time.
#[derive(Debug)]
pub struct Scheduler {
    ptr: NonNull<sys::ggml_backend_sched>,
    backends: Vec<Backend>,
    n_nodes: usize,
    /// Id of the graph whose tensors point into the working memory; 0 for none.
    current: u64,
    /// Whether a device is another process, and the changes of memory that it had seen with `current`.
    is_remote: bool,
    n_changes: u64,
}

/// ggml's scheduler takes 16 backends, and the processor is one.
pub const MAX_GPUS: usize = 15;

/// Buffers given back and graphs planned, by anyone.
///
/// A server of ggml's keeps graphs, to run them again by their number, and forgets all of them whenever a
/// buffer is given back; its client does not know, and what it then asks for ends the connection. So a graph
/// goes to such a device anew after any change of memory.
static N_CHANGES: AtomicU64 = AtomicU64::new(0);

/// Must be told of every buffer that is given back.
pub(super) fn memory_changed() {
    N_CHANGES.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: used through &mut only, so by one thread at a time.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// A scheduler for graphs of at most `n_nodes` operations; earlier backends are preferred, and the
    /// last must be the CPU.
    pub fn new(backends: Vec<Backend>, n_nodes: usize) -> Self {
        assert!(backends.last().is_some_and(|b| b.device().is_cpu()), "the CPU comes last");
        let is_remote = backends.iter().any(|b| b.device().is_remote());
        let ptr = new_sched(&backends, n_nodes);
        Scheduler { ptr, backends, n_nodes, current: 0, is_remote, n_changes: 0 }
    }

    /// Gives the working memory back; the next graph takes what it needs anew.
    pub fn release(&mut self) {
        let ptr = std::mem::replace(&mut self.ptr, new_sched(&self.backends, self.n_nodes));
        self.current = 0;
        // SAFETY: the old scheduler is ours, and `current` has forgotten its graph.
        unsafe { sys::ggml_backend_sched_free(ptr.as_ptr()) };
        memory_changed();
    }

    /// Flags that stop a running computation, one a backend.
    pub fn cancel_flags(&self) -> Vec<CancelFlag> {
        self.backends.iter().map(Backend::cancel_flag).collect()
    }

    /// Bytes of working memory on each backend.
    pub fn n_bytes(&self) -> Vec<usize> {
        let size = |b: &Backend| {
            // SAFETY: scheduler and backend are valid.
            unsafe { sys::ggml_backend_sched_get_buffer_size(self.ptr.as_ptr(), b.ptr.as_ptr()) }
        };
        self.on_all_members(self.backends.iter().map(size).collect())
    }

    /// Working memory of joined devices lies on each of them.
    fn on_all_members(&self, mut sizes: Vec<usize>) -> Vec<usize> {
        for (size, backend) in sizes.iter_mut().zip(&self.backends) {
            *size *= backend.device().members().len().max(1);
        }
        sizes
    }

    /// Sizes the working memory for `graph`, so that smaller ones need no new memory later.
    ///
    /// The graph is spent: only its measure is taken.
    pub fn reserve(&mut self, graph: Graph) -> Result<(), GgmlError> {
        self.reset(&graph);
        // SAFETY: the graph is valid and dropped after; reserving leaves nothing pointing to it.
        let reserved =
            unsafe { sys::ggml_backend_sched_reserve(self.ptr.as_ptr(), graph.cgraph.as_ptr()) };
        if reserved { Ok(()) } else { Err(GgmlError::AllocGraph) }
    }

    /// Bytes of working memory that `graph` needs on each backend; none is taken.
    pub fn measure(&mut self, graph: Graph) -> Vec<usize> {
        let mut sizes = vec![0; self.backends.len()];
        self.reset(&graph);
        // SAFETY: as for `reserve`; there is a number for each backend.
        unsafe {
            sys::gust_sched_measure(self.ptr.as_ptr(), graph.cgraph.as_ptr(), sizes.as_mut_ptr());
            sys::ggml_backend_sched_reset(self.ptr.as_ptr());
        }
        self.on_all_members(sizes)
    }

    /// Forgets the current graph and notes where `graph`'s pinned operations run.
    fn reset(&mut self, graph: &Graph) {
        self.current = 0;
        memory_changed();
        // SAFETY: tensors of the earlier graph dangle from here on, and `current` has forgotten it. Backends and
        // pinned operations are valid.
        unsafe {
            sys::ggml_backend_sched_reset(self.ptr.as_ptr());
            for (tensor, device) in &graph.pinned {
                let backend = self.backends.iter().find(|b| b.device() == *device);
                let backend = backend.expect("operations are pinned to the scheduler's devices");
                sys::ggml_backend_sched_set_tensor_backend(
                    self.ptr.as_ptr(),
                    tensor.as_ptr(),
                    backend.ptr.as_ptr(),
                );
            }
        }
    }

    /// Whether `graph` is the current one and can be run again as it is; else it must be built anew.
    pub fn can_repeat(&self, graph: &Graph) -> bool {
        let is_known = !self.is_remote || self.n_changes == N_CHANGES.load(Ordering::Relaxed);
        self.current == graph.id && is_known
    }

    /// Makes `graph` the current one. Planning is skipped when it already is: the fast way for a graph
    /// that is run again with new inputs.
    ///
    /// A graph that was current once and is not any more can't come back; build it anew.
    pub fn ready<'a>(&'a mut self, graph: &'a mut Graph) -> Result<Ready<'a>, GgmlError> {
        if self.current != graph.id {
            self.reset(graph);
            // SAFETY: the graph outlives its being current.
            let planned = unsafe {
                sys::ggml_backend_sched_alloc_graph(self.ptr.as_ptr(), graph.cgraph.as_ptr())
            };
            if !planned {
                return Err(GgmlError::AllocGraph);
            }
            // SAFETY: the graph is planned, so its tensors know their buffers.
            unsafe { sys::gust_meta_forget(graph.cgraph.as_ptr()) };
            self.current = graph.id;
            self.n_changes = N_CHANGES.load(Ordering::Relaxed);
        }
        Ok(Ready { sched: self, graph })
    }
}

fn new_sched(backends: &[Backend], n_nodes: usize) -> NonNull<sys::ggml_backend_sched> {
    let mut pointers: Vec<_> = backends.iter().map(|b| b.ptr.as_ptr()).collect();
    // What crosses between processor and GPU does so faster from memory that the GPU's driver has pinned.
    let pinned = backends.iter().find_map(|b| b.device().host_buffer_type());
    let memory = |b: &Backend| match pinned {
        Some(pinned) if b.device().is_cpu() => pinned,
        _ => b.device().buffer_type(),
    };
    let mut kinds: Vec<_> = backends.iter().map(|b| memory(b).0).collect();
    // SAFETY: the backends live as long as the scheduler, kinds of memory as long as the program.
    let ptr = unsafe {
        sys::ggml_backend_sched_new(
            pointers.as_mut_ptr(),
            kinds.as_mut_ptr(),
            pointers.len() as i32,
            n_nodes,
            false,
            true,
        )
    };
    NonNull::new(ptr).expect("the scheduler's own tables can be allocated")
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: freed before the backends, which are fields.
        unsafe { sys::ggml_backend_sched_free(self.ptr.as_ptr()) };
        memory_changed();
    }
}

/// A graph with memory, whose inputs can be set.
pub struct Ready<'a> {
    sched: &'a mut Scheduler,
    graph: &'a mut Graph,
}

impl<'a> Ready<'a> {
    /// Sets all elements of an input.
    pub fn set<T: Element>(&mut self, input: InputId, values: &[T]) {
        let tensor = self.graph.inputs[input.0].as_ptr();
        // SAFETY: type and size are checked; the tensor has memory unless the graph does not use it.
        unsafe {
            assert_eq!(DType((*tensor).type_), T::DTYPE, "input has another type");
            assert_eq!(sys::ggml_nbytes(tensor), size_of_val(values), "input has another size");
            if !(*tensor).buffer.is_null() {
                let n_bytes = size_of_val(values);
                sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, n_bytes);
            }
        }
    }

    /// Runs the graph.
    pub fn compute(self) -> Result<Computed<'a>, GgmlError> {
        // SAFETY: the graph is planned on this scheduler and its stores are alive.
        let status = unsafe {
            sys::ggml_backend_sched_graph_compute(
                self.sched.ptr.as_ptr(),
                self.graph.cgraph.as_ptr(),
            )
        };
        match status {
            sys::GGML_STATUS_SUCCESS => Ok(Computed { graph: self.graph, _sched: self.sched }),
            sys::GGML_STATUS_ABORTED => Err(GgmlError::Cancelled),
            sys::GGML_STATUS_ALLOC_FAILED => Err(GgmlError::AllocGraph),
            status => Err(GgmlError::Compute(format!("status {status}"))),
        }
    }
}

/// A graph that has run, whose outputs can be read.
pub struct Computed<'a> {
    graph: &'a Graph,
    _sched: &'a mut Scheduler,
}

impl Computed<'_> {
    /// Appends all elements of an F32 output to `out`.
    pub fn read(&self, output: OutputId, out: &mut Vec<f32>) {
        let tensor = self.graph.outputs[output.0].as_ptr();
        // SAFETY: the type is checked; the reserved room is filled before its length is set.
        unsafe {
            assert_eq!(DType((*tensor).type_), DType::F32, "output has another type");
            let n_bytes = sys::ggml_nbytes(tensor);
            let n = n_bytes / size_of::<f32>();
            out.reserve(n);
            let end = out.as_mut_ptr().add(out.len());
            sys::ggml_backend_tensor_get(tensor, end.cast(), 0, n_bytes);
            out.set_len(out.len() + n);
        }
    }
}
