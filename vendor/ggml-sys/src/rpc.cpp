// ggml-rpc.cpp with a smaller bound of what a server keeps (build/backend.rs writes that file), and what gust takes
// for granted of its requests: src/remote/request.rs has the same numbers.

#include "gust-ggml-rpc.cpp"

static_assert(RPC_CMD_SET_TENSOR == 6, "the command that weights are found by");
static_assert(sizeof(rpc_tensor) == 296, "what a request to set a tensor begins with");
static_assert(RPC_CMD_HELLO == 14, "what plain clients of ggml's are known by");
static_assert(GRAPH_CACHE_MAX == 16, "the bound that both sides have");
