#!/usr/bin/env python3
"""Makes a GGUF file with the true width of Mistral Medium 3.5, few layers and random Q4_K_M weights, to measure speed on.

Everything but the number of layers is as in the real file: tensor names and shapes, the type of each tensor in
llama.cpp's Q4_K_M mix, RoPE keys, and the vocabulary, which comes from a tekken.json. Two layers give 3.9 GB. The weights
are one seeded block tile per type, repeated: valid, finite, with a standard deviation near 0.02. Nothing is quantized,
so it takes as long as the disk does. What the model says is noise; its vocabulary and
merges are the real ones.
"""

import argparse
import base64
import json
from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM = 12288, 28672, 96, 8, 128
N_LAYER_TRUE = 88
TILE_BLOCKS = 48 * 1024  # blocks in the repeated tile: 12.6 M weights, larger than any cache would hide
Q4_K, Q6_K, F32 = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K, gguf.GGMLQuantizationType.F32


def tile(kind: gguf.GGMLQuantizationType, rng: np.random.Generator) -> np.ndarray:
    """Random valid super-blocks of 256 weights with a standard deviation near 0.02, as rows of bytes."""
    _, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (TILE_BLOCKS, n_bytes), dtype=np.uint8)
    jitter = rng.uniform(0.8, 1.2, TILE_BLOCKS)
    if kind == Q4_K:
        # w = d * sc * q - dmin * m with sc, m random in 0..63 and q in 0..15: d * 31.5 * 7.5 is the mean that dmin cancels.
        d = 0.00008 * jitter
        blocks[:, 0:2] = d.astype("<f2").view(np.uint8).reshape(-1, 2)
        blocks[:, 2:4] = (d * 7.5).astype("<f2").view(np.uint8).reshape(-1, 2)
    elif kind == Q6_K:
        # w = d * scale * (q - 32) with an i8 scale per 16 weights; the scales lie at bytes 192..207, d at 208.
        blocks[:, 192:208] = rng.integers(-63, 64, (TILE_BLOCKS, 16), dtype=np.int8).view(np.uint8)
        blocks[:, 208:210] = (0.00003 * jitter).astype("<f2").view(np.uint8).reshape(-1, 2)
    else:
        raise ValueError(kind)
    return blocks


def use_more_bits(i: int, n: int) -> bool:
    """The layers whose attn_v and ffn_down Q4_K_M keeps in Q6_K."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def tensors(n_layer: int, n_vocab: int):
    """Name, (rows, columns) or (columns,), and type of every tensor."""
    yield "token_embd.weight", (n_vocab, N_EMBD), Q4_K
    for i in range(n_layer):
        raised = Q6_K if use_more_bits(i, n_layer) else Q4_K
        p = f"blk.{i}."
        yield p + "attn_norm.weight", (N_EMBD,), F32
        yield p + "attn_q.weight", (N_HEAD * HEAD_DIM, N_EMBD), Q4_K
        yield p + "attn_k.weight", (N_HEAD_KV * HEAD_DIM, N_EMBD), Q4_K
        yield p + "attn_v.weight", (N_HEAD_KV * HEAD_DIM, N_EMBD), raised
        yield p + "attn_output.weight", (N_EMBD, N_HEAD * HEAD_DIM), Q4_K
        yield p + "ffn_norm.weight", (N_EMBD,), F32
        yield p + "ffn_gate.weight", (N_FF, N_EMBD), Q4_K
        yield p + "ffn_up.weight", (N_FF, N_EMBD), Q4_K
        yield p + "ffn_down.weight", (N_EMBD, N_FF), raised
    yield "output_norm.weight", (N_EMBD,), F32
    yield "output.weight", (n_vocab, N_EMBD), Q6_K


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a GPT-2 vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def derive_merges(ranks: list[bytes], letters: list[str]) -> list[str]:
    """For every token, in order of rank, the ways to cut it into two tokens, as llama.cpp's converter lists them.

    A half may rank after the whole: four spaces come before three in tekken.
    """
    rank_of = {piece: r for r, piece in enumerate(ranks)}
    merges = []
    for piece in ranks:
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in rank_of and piece[i:] in rank_of]
        for cut in sorted(cuts, key=lambda halves: (rank_of[halves[0]], rank_of[halves[1]])):
            merges.append(" ".join("".join(letters[b] for b in half) for half in cut))
    return merges


def add_vocab(writer: gguf.GGUFWriter, tekken: dict) -> int:
    """Writes the tokenizer keys; the size of the vocabulary."""
    config = tekken["config"]
    n_vocab, n_special = config["default_vocab_size"], config["default_num_special_tokens"]
    specials = {t["rank"]: t["token_str"] for t in tekken.get("special_tokens") or []}
    ranks = [base64.b64decode(t["token_bytes"]) for t in tekken["vocab"][: n_vocab - n_special]]
    letters = byte_letters()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list([specials.get(i, f"<SPECIAL_{i}>") for i in range(n_special)]
                          + ["".join(letters[b] for b in piece) for piece in ranks])
    writer.add_token_types([gguf.TokenType.CONTROL] * n_special + [gguf.TokenType.NORMAL] * len(ranks))
    writer.add_token_merges(derive_merges(ranks, letters))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(11)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    return n_vocab


def add_hparams(writer: gguf.GGUFWriter, n_layer: int, n_vocab: int) -> None:
    """Writes the architecture's keys with the real model's values."""
    writer.add_type("model")
    writer.add_name(f"Mistral-Medium-3.5 width, {n_layer} random layers")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(n_layer)
    writer.add_context_length(262144)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(64.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_rope_scaling_yarn_beta_fast(4.0)
    writer.add_rope_scaling_yarn_beta_slow(1.0)
    writer.add_rope_scaling_yarn_log_mul(0.0)
    writer.add_vocab_size(n_vocab)


def write_repeated(out, blocks: np.ndarray, n_bytes: int) -> None:
    """Writes `n_bytes` of the tile, over and over."""
    data = memoryview(blocks.reshape(-1))
    while n_bytes > 0:
        piece = data[: min(n_bytes, len(data))]
        out.write(piece)
        n_bytes -= len(piece)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tekken", type=Path, required=True, help="tekken.json with the vocabulary")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--layers", type=int, default=2, help=f"number of layers (the real model has {N_LAYER_TRUE})")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "mistral3")
    n_vocab = add_vocab(writer, json.loads(args.tekken.read_bytes()))
    add_hparams(writer, args.layers, n_vocab)
    plan = list(tensors(args.layers, n_vocab))
    sizes = []
    for name, shape, kind in plan:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        sizes.append(int(np.prod(shape)) // block * block_bytes)
        # Only the shape and type go into the header; the bytes are streamed below.
        writer.add_tensor_info(name, shape, np.dtype(np.float32), sizes[-1], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    tiles = {kind: tile(kind, rng) for kind in (Q4_K, Q6_K)}
    for kind, blocks in tiles.items():
        print(f"{kind.name}: standard deviation {gguf.dequantize(blocks[:2048].copy(), kind).std():.4f}")
    for (name, shape, kind), n_bytes in zip(plan, sizes):
        if kind == F32:
            out.write((1 + 0.05 * rng.standard_normal(shape)).astype("<f4").tobytes())
        else:
            write_repeated(out, tiles[kind], n_bytes)
        writer.write_padding(out, n_bytes)
    writer.close()
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
