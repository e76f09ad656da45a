//! Regenerates `src/bindings.rs` from ggml's headers; only what gust calls is let through.

use std::path::Path;

use crate::compile::Target;

const FUNCTIONS: &[&str] = &[
    // ggml.h: contexts, tensors, graphs, types
    "ggml_(init|free|version|commit|tensor_overhead|graph_overhead_custom|log_set|nbytes|nelements|row_size)",
    "ggml_(blck_size|type_size|type_name|is_quantized|get_type_traits|quantize_(chunk|init|free|requires_imatrix))",
    "ggml_(fp16_to_fp32_row|fp32_to_fp16_row|bf16_to_fp32_row|fp32_to_bf16_row|set_abort_callback|prec_set_acc)",
    "ggml_(new_tensor|new_tensor_[1-4]d|dup_tensor|set_name|set_input|set_output|get_first_tensor|get_next_tensor)",
    "ggml_(new_graph_custom|build_forward_expand|graph_n_nodes|graph_node)",
    // ggml.h: operations
    "ggml_(add|mul|scale|get_rows|set_rows|mul_mat|rms_norm|norm|rope_ext|swiglu_split|flash_attn_ext|custom_4d)",
    "ggml_(reshape_[1-4]d|view_[1-4]d|cont|cont_2d|permute|transpose|cpy|cast|concat|silu|gelu|gelu_erf|soft_max_ext|pad|im2col)",
    "ggml_flash_attn_ext_set_prec",
    "ggml_mul_mat_set_prec",
    // ggml-alloc.h, ggml-backend.h
    "ggml_backend_alloc_ctx_tensors_from_buft",
    "ggml_backend_(buft|buffer)_.*",
    "ggml_backend_tensor_(set|get|alloc|memset)",
    "ggml_backend_(free|name|synchronize|get_device|graph_compute)",
    "ggml_backend_(dev|reg)_.*",
    "ggml_backend_(register|load)",
    "ggml_backend_sched_.*",
    "ggml_backend_cpu_buffer_from_ptr",
    "ggml_backend_meta_device",
];

pub fn generate(target: &Target) {
    let headers = ["ggml.h", "ggml-alloc.h", "ggml-backend.h", "ggml-cpu.h"];
    let mut builder = bindgen::Builder::default()
        .clang_arg(format!("-I{}", target.ggml.join("include").display()))
        .allowlist_type("ggml_(type|status|op|prec|backend_dev_type|backend_buffer_usage|numa_strategy|threadpool_params)")
        .allowlist_type("ggml_backend_(set_n_threads_t|dev_get_extra_bufts_t|set_abort_callback_t|score_t)")
        .allowlist_type("ggml_(abort_callback|log_level)")
        .allowlist_var("GGML_(MAX_NAME|MAX_DIMS|KQ_MASK_PAD|ROPE_TYPE_.*)")
        .derive_default(true)
        .layout_tests(false)
        .prepend_enum_name(false)
        .generate_comments(false)
        .merge_extern_blocks(true);
    for header in headers {
        builder = builder.header(target.ggml.join("include").join(header).display().to_string());
    }
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = builder.generate().expect("ggml's headers are valid C");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bindings.rs");
    bindings.write_to_file(path).expect("the crate's own src/ is writable");
}
