// ggml-backend.cpp, with one function more that needs the scheduler's insides.
//
// ggml_backend_sched_reserve_size forgets which operations were pinned to a backend before it plans; what it
// then measures is another plan than the one that runs.

#include "ggml-backend.cpp"

extern "C" void gust_sched_measure(ggml_backend_sched_t sched, ggml_cgraph * graph, size_t * sizes) {
    GGML_ASSERT((int) sched->hash_set.size >= graph->n_nodes + graph->n_leafs);
    ggml_backend_sched_synchronize(sched);
    ggml_backend_sched_split_graph(sched, graph);
    ggml_gallocr_reserve_n_size(
        sched->galloc, &sched->graph, sched->node_backend_ids, sched->leaf_backend_ids, sizes);
}
