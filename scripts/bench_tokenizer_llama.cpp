// Times llama.cpp's tokenizer for scripts/bench_tokenizer.py: VOCAB.gguf TEXT... -> a JSON line each.
#include "llama.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model * model = llama_model_load_from_file(argv[1], params);
    if (!model) return 1;
    const llama_vocab * vocab = llama_model_get_vocab(model);
    for (int i = 2; i < argc; i++) {
        std::ifstream file(argv[i], std::ios::binary);
        std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        std::vector<llama_token> ids(text.size() + 16);
        double best = 1e9;
        int n = 0;
        for (int run = 0; run < 3; run++) {
            auto start = std::chrono::steady_clock::now();
            n = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), false, false);
            std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
            if (time.count() < best) best = time.count();
        }
        std::printf("{\"text\": \"%s\", \"n_bytes\": %zu, \"n_tokens\": %d, \"seconds\": %.6f}\n",
                    argv[i], text.size(), n, best);
    }
    llama_model_free(model);
}
