#!/usr/bin/env python3
"""Makes a projector file with the true width of Mistral Medium 3.5's vision tower, few layers and random weights, and a
small language model that it fits, to measure speed and memory on.

Tensor names, shapes and types are as llama.cpp's converter writes them for the real model (F16 or BF16 matrices, F32 norms,
patch embedding and merger F16 in F16 files and F32 in others). The language model (--text) is as wide as the real one,
12288, but has one thin layer and the 1,280 first tokens of --vocab; without it a tower can't be opened. All weights are
seeded noise of a standard deviation that keeps activations finite.
"""

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts/golden"))
from model import DEFAULT_VOCAB, N_VOCAB, add_hparams, add_vocab  # noqa: E402

N_EMBD, N_FF, N_HEAD, N_TEXT, PATCH, MERGE = 1664, 8192, 16, 12288, 14, 2
TYPES = {"f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16, "f32": gguf.GGMLQuantizationType.F32}
FTYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16, "f32": gguf.LlamaFileType.ALL_F32}


class Noise:
    """A writer of random tensors."""

    def __init__(self, writer: gguf.GGUFWriter):
        self.writer, self.rng = writer, np.random.default_rng(1)

    def matrix(self, name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        """A tensor whose product with a unit vector is about as long."""
        w = self.rng.standard_normal(shape, dtype=np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        self.writer.add_tensor(name, gguf.quants.quantize(w, kind), raw_dtype=kind)

    def norm(self, name: str, n: int) -> None:
        """Weights of an RMSNorm."""
        self.writer.add_tensor(name, 1 + np.float32(0.1) * self.rng.standard_normal(n, dtype=np.float32))

    def finish(self) -> None:
        """Writes the file."""
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def write_mmproj(path: Path, n_layer: int, kind_name: str) -> None:
    """Writes tower and projector."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(f"Mistral-Medium-3.5 vision width, {n_layer} random layers")
    writer.add_file_type(FTYPES[kind_name])
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "pixtral")
    writer.add_bool("clip.use_silu", True)
    for key, value in (
        ("projection_dim", N_TEXT), ("image_size", 1540), ("patch_size", PATCH), ("embedding_length", N_EMBD),
        ("feed_forward_length", N_FF), ("block_count", n_layer), ("attention.head_count", N_HEAD), ("spatial_merge_size", MERGE),
    ):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    writer.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])
    kind = TYPES[kind_name]
    unquantized = kind if kind_name == "f16" else gguf.GGMLQuantizationType.F32
    noise = Noise(writer)
    noise.matrix("v.token_embd.img_break", (N_TEXT,), gguf.GGMLQuantizationType.F32)
    noise.matrix("v.patch_embd.weight", (N_EMBD, 3, PATCH, PATCH), unquantized)
    noise.norm("v.pre_ln.weight", N_EMBD)
    for i in range(n_layer):
        blk = f"v.blk.{i}."
        noise.norm(blk + "ln1.weight", N_EMBD)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            noise.matrix(f"{blk}{name}.weight", (N_EMBD, N_EMBD), kind)
        noise.norm(blk + "ln2.weight", N_EMBD)
        noise.matrix(blk + "ffn_gate.weight", (N_FF, N_EMBD), kind)
        noise.matrix(blk + "ffn_up.weight", (N_FF, N_EMBD), kind)
        noise.matrix(blk + "ffn_down.weight", (N_EMBD, N_FF), kind)
    noise.norm("mm.input_norm.weight", N_EMBD)
    noise.matrix("mm.patch_merger.weight", (N_EMBD, N_EMBD * MERGE**2), unquantized)
    noise.matrix("mm.1.weight", (N_TEXT, N_EMBD), kind)
    noise.matrix("mm.2.weight", (N_TEXT, N_TEXT), kind)
    noise.finish()


def write_text(path: Path, vocab: Path) -> None:
    """Writes the thin language model."""
    shape = dict(layers=1, embd=N_TEXT, ff=256, heads=2, kv=1, head_dim=128, theta=1e6, scaling=(64.0, 4096, 4.0, 1.0, 0.0), temperature=0.0)
    writer = gguf.GGUFWriter(path, "mistral3")
    writer.add_name("as wide as Mistral-Medium-3.5, one thin layer")
    add_hparams(writer, shape)
    add_vocab(writer, gguf.GGUFReader(vocab))
    noise, f16 = Noise(writer), TYPES["f16"]
    for name, rows in (("token_embd", N_VOCAB), ("output", N_VOCAB), ("blk.0.attn_q", 256), ("blk.0.attn_k", 128), ("blk.0.attn_v", 128),
                       ("blk.0.ffn_gate", 256), ("blk.0.ffn_up", 256)):
        noise.matrix(f"{name}.weight", (rows, N_TEXT), f16)
    for name in ("blk.0.attn_output", "blk.0.ffn_down"):
        noise.matrix(f"{name}.weight", (N_TEXT, 256), f16)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        noise.norm(f"{name}.weight", N_TEXT)
    noise.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="projector file to write")
    parser.add_argument("--text", type=Path, help="language model file to write")
    parser.add_argument("--layers", type=int, default=2, help="layers of the tower [%(default)s]")
    parser.add_argument("--type", choices=TYPES, default="bf16", help="type of the matrices [%(default)s]")
    parser.add_argument("--vocab", type=Path, default=DEFAULT_VOCAB, help="GGUF file whose vocabulary is cut down")
    args = parser.parse_args()
    write_mmproj(args.out, args.layers, args.type)
    if args.text:
        write_text(args.text, args.vocab)


if __name__ == "__main__":
    main()
