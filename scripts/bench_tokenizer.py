#!/usr/bin/env python3
"""Tokenizer speed of gust beside llama.cpp's (and tiktoken's), one thread, loading excluded.

    scripts/bench_tokenizer.py --tekken tekken.json --llama-cpp DIR TEXT...

DIR is a llama.cpp checkout built with shared libraries in DIR/build/bin. Needs Python's `gguf`
(to give llama.cpp the same vocabulary) and a C++ compiler; `tiktoken` is measured if it is there.
The two take turns, `--pairs` times, and the fastest run of each counts.
"""

import argparse
import base64
import json
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def byte_to_unicode():
    """GPT-2's printable stand-in for every byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


def write_gguf(tekken, path):
    """A GGUF with nothing but the vocabulary."""
    import gguf

    config = tekken["config"]
    n_special = config["default_num_special_tokens"]
    n_ranks = config["default_vocab_size"] - n_special
    table = byte_to_unicode()
    ranks = [base64.b64decode(t["token_bytes"]) for t in tekken["vocab"][:n_ranks]]
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    show = lambda token: "".join(table[b] for b in token)
    merges = []
    for token in ranks[256:]:
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        splits = [s for s in splits if s[0] in rank_of and s[1] in rank_of]
        splits.sort(key=lambda s: (rank_of[s[0]], rank_of[s[1]]))
        merges += [f"{show(left)} {show(right)}" for left, right in splits]
    special = [f"<SPECIAL_{i}>" for i in range(n_special)]
    for token in tekken.get("special_tokens") or []:
        special[token["rank"]] = token["token_str"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list(special + [show(token) for token in ranks])
    writer.add_token_types([3] * n_special + [1] * n_ranks)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def rows(command, env=None):
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"text"') or '"n_bytes"' in line]


def build_llama_bench(llama_cpp, folder):
    program, lib = folder / "bench", llama_cpp / "build/bin"
    source = ROOT / "scripts/bench_tokenizer_llama.cpp"
    includes = [f"-I{llama_cpp / 'include'}", f"-I{llama_cpp / 'ggml/include'}"]
    subprocess.run(
        ["c++", "-O2", "-std=c++17", *includes, source, "-o", program]
        + [f"-L{lib}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{lib}"],
        check=True,
    )
    return program


def time_tiktoken(tekken, texts):
    try:
        import tiktoken
    except ImportError:
        return {}
    config = tekken["config"]
    n_ranks = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"] for t in tekken["vocab"][:n_ranks]}
    encoding = tiktoken.Encoding("t", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
    seconds = {}
    for path in texts:
        text = path.read_text()
        start = time.perf_counter()
        encoding.encode_ordinary(text)
        seconds[str(path)] = time.perf_counter() - start
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tekken", type=pathlib.Path, required=True)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("texts", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    tekken = json.loads(args.tekken.read_text())
    cargo = ["cargo", "bench", "--quiet", "--bench", "tokenizer", "--"]
    texts = [path.resolve() for path in args.texts]

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_gguf(tekken, folder / "vocab.gguf")
        llama_bench = build_llama_bench(args.llama_cpp, folder)
        best = {}
        for _ in range(args.pairs):
            runs = {
                "gust": rows(["env", "-C", ROOT, *cargo, args.tekken.resolve(), *texts]),
                "llama.cpp": rows([llama_bench, folder / "vocab.gguf", *texts]),
            }
            for engine, result in runs.items():
                for row in result:
                    key = engine, row["text"]
                    if key not in best or row["seconds"] < best[key]["seconds"]:
                        best[key] = row
    tiktoken_seconds = time_tiktoken(tekken, texts)

    print("| text | bytes | gust MB/s | llama.cpp MB/s | ratio | tiktoken MB/s | tokens |")
    print("|---|---|---|---|---|---|---|")
    for text in map(str, texts):
        ours, theirs = best["gust", text], best["llama.cpp", text]
        speed = lambda seconds: f"{ours['n_bytes'] / seconds / 1e6:.1f}"
        other = speed(tiktoken_seconds[text]) if text in tiktoken_seconds else "-"
        ratio = theirs["seconds"] / ours["seconds"]
        same = "same" if ours["n_tokens"] == theirs["n_tokens"] else f"llama.cpp {theirs['n_tokens']}"
        print(f"| {pathlib.Path(text).name} | {ours['n_bytes']} | {speed(ours['seconds'])} "
              f"| {speed(theirs['seconds'])} | {ratio:.1f} | {other} | {ours['n_tokens']} ({same}) |")


if __name__ == "__main__":
    main()
