#!/usr/bin/env python3
"""Writes Mistral Medium 3.5 128B as Q4_K_M without its weights.

Three GGUF parts with the true header (795 tensors, 131,072 tokens and their merges) whose 75 GB of
tensor data are a hole: some megabytes on disk. For measuring how fast a header is read and for
testing what depends on the true shape. Needs nothing but Python.

    scripts/sparse_128b.py tekken.json FOLDER              the good file
    scripts/sparse_128b.py tekken.json FOLDER --bad-yarn   its twin with the wrong YaRN magnitude
"""

import argparse
import base64
import json
import os
import struct

N_LAYER, N_EMBD, N_FF, N_VOCAB = 88, 12288, 28672, 131072
N_HEAD, N_HEAD_KV, HEAD_LEN = 96, 8, 128
N_SPECIAL = 1000
ALIGNMENT = 32
# ggml's number, elements of a block, bytes of a block
F32, Q4_K, Q6_K = (0, 1, 4), (12, 256, 144), (14, 256, 210)
U16, U32, I32, F32_VALUE, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9


def byte_letters():
    """GPT-2's letter for each byte: printable ones stand for themselves, the rest from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    letters.update({byte: chr(256 + idx) for idx, byte in enumerate(others)})
    return letters


def tokens_and_merges(tekken):
    """Tokens in id order, and merges in rank order: every way to cut a token in two tokens."""
    special = [token["token_str"] for token in tekken["special_tokens"]]
    special += [f"<SPECIAL_{id}>" for id in range(len(special), N_SPECIAL)]
    ranked = [base64.b64decode(t["token_bytes"]) for t in tekken["vocab"][: N_VOCAB - N_SPECIAL]]
    ranks = {token: rank for rank, token in enumerate(ranked)}
    letters = byte_letters()
    text = ["".join(letters[byte] for byte in token) for token in ranked]
    merges = []
    for token in ranked:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(ranks[a], ranks[b]) for a, b in cuts if a in ranks and b in ranks]
        merges += [f"{text[a]} {text[b]}" for a, b in sorted(pairs)]
    return special + text, merges


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    code = {U16: "H", U32: "I", I32: "i", F32_VALUE: "f", BOOL: "?"}.get(kind)
    return string(value) if kind == STRING else struct.pack("<" + code, value)


def key(name, kind, value):
    return string(name) + struct.pack("<I", kind) + scalar(kind, value)


def array(name, kind, values):
    head = string(name) + struct.pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(scalar(kind, value) for value in values)


def metadata(tokens, merges, log_multiplier):
    arch = "mistral3"
    types = [3] * N_SPECIAL + [1] * (N_VOCAB - N_SPECIAL)
    return [
        key("general.architecture", STRING, arch),
        key("general.type", STRING, "model"),
        key("general.name", STRING, "Mistral-Medium-3.5-128B"),
        key("general.size_label", STRING, "128B"),
        key(f"{arch}.block_count", U32, N_LAYER),
        key(f"{arch}.context_length", U32, 262144),
        key(f"{arch}.embedding_length", U32, N_EMBD),
        key(f"{arch}.feed_forward_length", U32, N_FF),
        key(f"{arch}.attention.head_count", U32, N_HEAD),
        key(f"{arch}.attention.head_count_kv", U32, N_HEAD_KV),
        key(f"{arch}.attention.key_length", U32, HEAD_LEN),
        key(f"{arch}.attention.value_length", U32, HEAD_LEN),
        key(f"{arch}.attention.layer_norm_rms_epsilon", F32_VALUE, 1e-5),
        key(f"{arch}.attention.temperature_scale", F32_VALUE, 0.0),
        key(f"{arch}.rope.dimension_count", U32, HEAD_LEN),
        key(f"{arch}.rope.freq_base", F32_VALUE, 1e6),
        key(f"{arch}.rope.scaling.type", STRING, "yarn"),
        key(f"{arch}.rope.scaling.factor", F32_VALUE, 64.0),
        key(f"{arch}.rope.scaling.original_context_length", U32, 4096),
        key(f"{arch}.rope.scaling.yarn_beta_fast", F32_VALUE, 4.0),
        key(f"{arch}.rope.scaling.yarn_beta_slow", F32_VALUE, 1.0),
        key(f"{arch}.rope.scaling.yarn_log_multiplier", F32_VALUE, log_multiplier),
        key(f"{arch}.vocab_size", U32, N_VOCAB),
        key("tokenizer.ggml.model", STRING, "gpt2"),
        key("tokenizer.ggml.pre", STRING, "tekken"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.token_type", I32, types),
        array("tokenizer.ggml.merges", STRING, merges),
        key("tokenizer.ggml.bos_token_id", U32, 1),
        key("tokenizer.ggml.eos_token_id", U32, 2),
        key("tokenizer.ggml.unknown_token_id", U32, 0),
        key("tokenizer.ggml.padding_token_id", U32, 11),
        key("tokenizer.ggml.add_bos_token", BOOL, True),
        key("tokenizer.ggml.add_eos_token", BOOL, False),
        key("general.quantization_version", U32, 2),
        key("general.file_type", U32, 15),
    ]


def tensors():
    """Names, dimensions and types as the Q4_K_M recipe gives them."""
    n_q, n_kv = N_HEAD * HEAD_LEN, N_HEAD_KV * HEAD_LEN
    yield "token_embd.weight", [N_EMBD, N_VOCAB], Q4_K
    for layer in range(N_LAYER):
        eighth = N_LAYER // 8
        is_outer = layer < eighth or layer >= 7 * N_LAYER // 8
        more = Q6_K if is_outer or (layer - eighth) % 3 == 2 else Q4_K
        yield f"blk.{layer}.attn_norm.weight", [N_EMBD], F32
        yield f"blk.{layer}.attn_q.weight", [N_EMBD, n_q], Q4_K
        yield f"blk.{layer}.attn_k.weight", [N_EMBD, n_kv], Q4_K
        yield f"blk.{layer}.attn_v.weight", [N_EMBD, n_kv], more
        yield f"blk.{layer}.attn_output.weight", [n_q, N_EMBD], Q4_K
        yield f"blk.{layer}.ffn_norm.weight", [N_EMBD], F32
        yield f"blk.{layer}.ffn_gate.weight", [N_EMBD, N_FF], Q4_K
        yield f"blk.{layer}.ffn_up.weight", [N_EMBD, N_FF], Q4_K
        yield f"blk.{layer}.ffn_down.weight", [N_FF, N_EMBD], more
    yield "output_norm.weight", [N_EMBD], F32
    yield "output.weight", [N_EMBD, N_VOCAB], Q6_K


def n_bytes(dims, kind):
    n = 1
    for dim in dims:
        n *= dim
    return n // kind[1] * kind[2]


def aligned(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write_part(path, keys, part):
    """The header, and as large a hole as its tensors would fill."""
    data, infos = 0, []
    for name, dims, kind in part:
        dims_bytes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        infos.append(string(name) + dims_bytes + struct.pack("<IQ", kind[0], data))
        data += aligned(n_bytes(dims, kind))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(part), len(keys)) + b"".join(keys + infos)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(aligned(len(head)) + data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tekken", help="tekken.json with the 131,072 tokens")
    parser.add_argument("folder", help="where the three parts go")
    parser.add_argument("--bad-yarn", action="store_true", help="write yarn_log_multiplier 1")
    args = parser.parse_args()
    with open(args.tekken, encoding="utf-8") as file:
        tokens, merges = tokens_and_merges(json.load(file))
    everything = list(tensors())
    share = sum(n_bytes(dims, kind) for _, dims, kind in everything) / 3
    parts, filled = [[], [], []], 0
    for name, dims, kind in everything:
        parts[min(int(filled / share), 2)].append((name, dims, kind))
        filled += n_bytes(dims, kind)
    os.makedirs(args.folder, exist_ok=True)
    stem = "Mistral-Medium-3.5-128B-Q4_K_M" + ("-bad-yarn" if args.bad_yarn else "")
    for no, part in enumerate(parts):
        keys = metadata(tokens, merges, 1.0 if args.bad_yarn else 0.0) if no == 0 else []
        keys += [
            key("split.no", U16, no),
            key("split.tensors.count", I32, len(everything)),
            key("split.count", U16, len(parts)),
        ]
        path = os.path.join(args.folder, f"{stem}-{no + 1:05}-of-{len(parts):05}.gguf")
        write_part(path, keys, part)
        used = os.stat(path).st_blocks * 512
        print(f"{path}: {len(part)} tensors, {os.path.getsize(path):,} bytes, {used:,} on disk")


if __name__ == "__main__":
    main()
