// ggml-backend-meta.cpp, with one function more that needs the insides of its buffers.
//
// A buffer of joined devices remembers how each tensor was cut that ever lay in it, by the tensor's address, and
// forgets only when an address comes back with another tensor: with every new graph it may hold more.

#include "ggml-backend-meta.cpp"

// Lets the buffers of a graph that was just planned forget the tensors of earlier ones.
extern "C" void gust_meta_forget(const ggml_cgraph * graph) {
    std::set<ggml_backend_buffer_t> buffers;
    for (int i = 0; i < graph->n_nodes; i++) {
        buffers.insert(graph->nodes[i]->buffer);
    }
    for (ggml_backend_buffer_t buffer : buffers) {
        if (ggml_backend_buffer_is_meta(buffer)) {
            ((ggml_backend_meta_buffer_context *) buffer->context)->split_state_cache.clear();
        }
    }
}
