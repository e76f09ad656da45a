//! Raw bindings to ggml, which `build.rs` compiles from a pinned source.
//!
//! Nothing here is safe to call as it stands; `gust::ggml` is the safe face. The bindings are
//! committed and regenerated with `--features bindgen` (UPGRADE.md).

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all
)]
mod bindings;

pub use bindings::*;

/// By-value structs that cross the border must have the size that C gives them.
const _: () = {
    assert!(size_of::<ggml_init_params>() == 24);
};

/// One CPU backend of a build with several: its `init` and its `score` (0 = can't run here).
#[cfg(feature = "cpu-variants")]
pub type CpuVariant = (
    &'static str,
    unsafe extern "C" fn() -> ggml_backend_reg_t,
    unsafe extern "C" fn() -> core::ffi::c_int,
);

#[cfg(feature = "cpu-variants")]
macro_rules! cpu_variants {
    ($($name:literal $init:ident $score:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $init() -> ggml_backend_reg_t; fn $score() -> core::ffi::c_int;)*
        }
        /// Every CPU backend in the archive, as listed in `build/variants.rs`.
        pub const CPU_VARIANTS: &[CpuVariant] = &[$(($name, $init, $score)),*];
    };
}

#[cfg(feature = "cpu-variants")]
cpu_variants! {
    "sse42" ggml_backend_init_sse42 ggml_backend_score_sse42,
    "haswell" ggml_backend_init_haswell ggml_backend_score_haswell,
    "alderlake" ggml_backend_init_alderlake ggml_backend_score_alderlake,
    "icelake" ggml_backend_init_icelake ggml_backend_score_icelake,
    "zen4" ggml_backend_init_zen4 ggml_backend_score_zen4,
}

unsafe extern "C" {
    /// Bytes of working memory that `graph` needs on each backend of `sched`, with operations pinned since the
    /// last reset where they are; none is taken. `src/backend.cpp`.
    pub fn gust_sched_measure(
        sched: ggml_backend_sched_t,
        graph: *mut ggml_cgraph,
        sizes: *mut usize,
    );

    /// Lets the buffers of joined devices that `graph`, just planned, lies in forget earlier graphs. `src/meta.cpp`.
    pub fn gust_meta_forget(graph: *const ggml_cgraph);
}

#[cfg(openmp)]
mod openmp;

mod pretend;
pub use pretend::*;

#[cfg(feature = "rpc")]
#[allow(non_camel_case_types)]
mod rpc;
#[cfg(feature = "rpc")]
pub use rpc::*;
