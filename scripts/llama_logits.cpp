// Writes the logits that llama.cpp computes for every position of a token sequence: the other side of check_quantized.py.
//
// The sequence goes through llama_decode in pieces of --batch tokens, so the same file can be measured at batch 1 and at
// batch 512. Output: raw little-endian f32, [n_tokens][n_vocab]. Flash attention is on unless --no-flash-attn; with it
// llama.cpp rounds an f32 KV cache to f16 before use, so a true f32 comparison needs --no-flash-attn --kv f32.
//
// Build by hand against a built llama.cpp in $L:
//   g++ -O2 -std=c++17 -I$L/include -I$L/ggml/include llama_logits.cpp -o llama_logits -L$L/build/bin -Wl,-rpath,$L/build/bin -lllama -lggml -lggml-base
// Run: llama_logits MODEL.gguf IDS.json OUT.logits [--batch N] [--kv f32|f16|q8_0] [--threads N] [--no-repack] [--no-flash-attn]
// IDS.json is a JSON array of token ids.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "llama.h"

static void fail(const std::string & message) {
    std::fprintf(stderr, "llama_logits: %s\n", message.c_str());
    std::exit(1);
}

// The integers of a JSON array of integers; every other character only separates them.
static std::vector<llama_token> read_ids(const char * path) {
    std::ifstream in(path);
    if (!in) fail(std::string("cannot read ") + path);
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    std::vector<llama_token> ids;
    for (size_t i = 0; i < text.size();) {
        if (text[i] < '0' || text[i] > '9') { i++; continue; }
        size_t used = 0;
        ids.push_back(std::stoi(text.substr(i, 12), &used));
        i += used;
    }
    if (ids.empty()) fail(std::string("no token ids in ") + path);
    return ids;
}

static ggml_type kv_type(const std::string & name) {
    if (name == "f32") return GGML_TYPE_F32;
    if (name == "f16") return GGML_TYPE_F16;
    if (name == "bf16") return GGML_TYPE_BF16;
    if (name == "q8_0") return GGML_TYPE_Q8_0;
    if (name == "q4_0") return GGML_TYPE_Q4_0;
    fail("unknown KV type " + name);
    return GGML_TYPE_F16;
}

int main(int argc, char ** argv) {
    if (argc < 4) fail("usage: llama_logits MODEL.gguf IDS.json OUT.logits [--batch N] [--kv TYPE] [--threads N] [--no-repack] [--no-flash-attn]");
    int batch = 512, threads = 1;
    std::string kv = "f16";
    bool repack = true, flash = true;
    for (int i = 4; i < argc; i++) {
        const std::string flag = argv[i];
        if (flag == "--no-repack") { repack = false; continue; }
        if (flag == "--no-flash-attn") { flash = false; continue; }
        if (i + 1 == argc) fail("missing value of " + flag);
        if (flag == "--batch") batch = std::atoi(argv[++i]);
        else if (flag == "--kv") kv = argv[++i];
        else if (flag == "--threads") threads = std::atoi(argv[++i]);
        else fail("unknown flag " + flag);
    }
    if (batch < 1 || threads < 1) fail("--batch and --threads must be at least 1");

    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = repack;
    llama_model * model = llama_model_load_from_file(argv[1], mp);
    if (!model) fail(std::string("cannot load ") + argv[1]);

    std::vector<llama_token> ids = read_ids(argv[2]);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = ids.size();
    cp.n_batch = cp.n_ubatch = batch;
    cp.n_threads = cp.n_threads_batch = threads;
    cp.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cp.type_k = cp.type_v = kv_type(kv);
    llama_context * ctx = llama_init_from_model(model, cp);
    if (!ctx) fail("cannot make a context");

    std::ofstream out(argv[3], std::ios::binary);
    if (!out) fail(std::string("cannot write ") + argv[3]);
    llama_batch b = llama_batch_init(batch, 0, 1);
    for (size_t start = 0; start < ids.size(); start += batch) {
        b.n_tokens = std::min<size_t>(batch, ids.size() - start);
        for (int i = 0; i < b.n_tokens; i++) {
            b.token[i] = ids[start + i];
            b.pos[i] = start + i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = true;
        }
        if (llama_decode(ctx, b) != 0) fail("llama_decode failed at position " + std::to_string(start));
        for (int i = 0; i < b.n_tokens; i++) {
            out.write(reinterpret_cast<const char *>(llama_get_logits_ith(ctx, i)), sizeof(float) * n_vocab);
        }
    }
    out.close();
    if (!out) fail(std::string("cannot write ") + argv[3]);
    std::fprintf(stderr, "%zu tokens x %d logits\n", ids.size(), n_vocab);
    return 0;
}
