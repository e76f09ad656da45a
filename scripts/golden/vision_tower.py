#!/usr/bin/env python3
"""Makes tests/golden/vision_tower: small seeded random models that see, and what transformers computes with them.

For every entry of MODELS it writes
  NAME.gguf, mmproj-NAME.gguf   language model, and tower with projector, in F32 and llama.cpp's layout;
  NAME.f32                      raw little-endian f32, case after case: for each picture of the case the projector's rows
                                [n_tokens][n_embd], then the logits [n_vocab] after the case's last token;
and for all of them one index.json: the shapes, and for each case its pictures (columns and rows of tokens) and token ids.

The pixels are a formula of their index (see `pixels`), so no file holds them; both sides take them as they are, since
transformers resizes pictures otherwise than mistral_common. All numbers come from transformers on the CPU in float32 with
eager attention. The shapes part ways where an engine could be wrong: heads whose halves are no power of two, heads of
104, a merge of 3, gelu instead of silu, biases in the projector; pictures that are square, tall, wide, one token large,
and as large as the real model's largest.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from model import DEFAULT_VOCAB, N_VOCAB, REPO, config, fill, to_interleaved, write_gguf
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralVisionConfig

DEFAULT_OUT = REPO / "tests/golden/vision_tower"
IMG, IMG_BREAK, IMG_END = 10, 12, 13

YARN = (64.0, 16, 4.0, 1.0, 0.0)
TEXT = dict(layers=2, embd=32, ff=64, heads=4, kv=2, head_dim=16, theta=1e6, tied=False, scaling=YARN, temperature=0.0)
# `images` of a case are (columns, rows) in tokens.
MODELS = {
    "head-20": dict(
        seed=21, text=TEXT | dict(embd=48), embd=40, heads=2, ff=56, layers=2, patch=4, image_size=72, merge=2, act="silu", bias=False,
        cases=[[(5, 5)], [(1, 9)], [(9, 2)], [(1, 1), (3, 2), (2, 4), (3, 2)]],
    ),
    "head-104": dict(
        seed=22, text=TEXT, embd=104, heads=1, ff=72, layers=2, patch=2, image_size=220, merge=2, act="silu", bias=False,
        cases=[[(7, 4)], [(55, 55)]],
    ),
    "merge-3-gelu": dict(
        seed=23, text=TEXT, embd=36, heads=3, ff=40, layers=1, patch=3, image_size=72, merge=3, act="gelu", bias=True,
        cases=[[(8, 3)], [(2, 2), (1, 5)]],
    ),
}


def pixels(seed: int, width: int, height: int) -> np.ndarray:
    """Values in [-2, 2) that look like noise: [3, height, width]."""
    i = np.arange(3 * width * height, dtype=np.uint64)
    bits = (i * np.uint64(2654435761) + np.uint64(seed * 40503)) & np.uint64(0xFFFFFFFF)
    return (bits.astype(np.float64) / 2.0**30 - 2.0).astype(np.float32).reshape(3, height, width)


def build(shape: dict) -> Mistral3ForConditionalGeneration:
    """The transformers model of one shape."""
    vision = PixtralVisionConfig(
        hidden_size=shape["embd"], intermediate_size=shape["ff"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        image_size=shape["image_size"], patch_size=shape["patch"], hidden_act=shape["act"], attn_implementation="eager",
    )
    whole = Mistral3Config(
        vision_config=vision, text_config=config(shape["text"]), image_token_index=IMG, spatial_merge_size=shape["merge"],
        multimodal_projector_bias=shape["bias"], tie_word_embeddings=False, attn_implementation="eager",
    )
    return fill(Mistral3ForConditionalGeneration(whole), shape["seed"])


def text_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The language model's weights under the names that they have without a tower."""
    return {name.replace("model.language_model.", "model."): w for name, w in state.items() if "language_model" in name or name == "lm_head.weight"}


def add_vision_hparams(writer: gguf.GGUFWriter, shape: dict) -> None:
    """Writes the projector's keys."""
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "pixtral")
    writer.add_bool("clip.use_silu" if shape["act"] == "silu" else "clip.use_gelu", True)
    for key, value in (
        ("projection_dim", shape["text"]["embd"]), ("image_size", shape["image_size"]), ("patch_size", shape["patch"]),
        ("embedding_length", shape["embd"]), ("feed_forward_length", shape["ff"]), ("block_count", shape["layers"]),
        ("attention.head_count", shape["heads"]), ("spatial_merge_size", shape["merge"]),
    ):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.25, 0.25, 0.25])


def write_mmproj(path: Path, shape: dict, state: dict[str, np.ndarray]) -> None:
    """Writes tower and projector as an F32 GGUF file."""
    writer = gguf.GGUFWriter(path, "clip")
    add_vision_hparams(writer, shape)
    tower, projector = "model.vision_tower.", "model.multi_modal_projector."
    tensors = {
        "v.patch_embd.weight": state[tower + "patch_conv.weight"],
        "v.pre_ln.weight": state[tower + "ln_pre.weight"],
        "mm.input_norm.weight": state[projector + "norm.weight"],
        "mm.patch_merger.weight": state[projector + "patch_merger.merging_layer.weight"],
    }
    for i in (1, 2):
        for part in ("weight", "bias") if shape["bias"] else ("weight",):
            tensors[f"mm.{i}.{part}"] = state[f"{projector}linear_{i}.{part}"]
    for i in range(shape["layers"]):
        layer = f"{tower}transformer.layers.{i}."
        block = {
            "ln1": state[layer + "attention_norm.weight"],
            "attn_q": to_interleaved(state[layer + "attention.q_proj.weight"], shape["heads"]),
            "attn_k": to_interleaved(state[layer + "attention.k_proj.weight"], shape["heads"]),
            "attn_v": state[layer + "attention.v_proj.weight"],
            "attn_out": state[layer + "attention.o_proj.weight"],
            "ln2": state[layer + "ffn_norm.weight"],
            "ffn_gate": state[layer + "feed_forward.gate_proj.weight"],
            "ffn_up": state[layer + "feed_forward.up_proj.weight"],
            "ffn_down": state[layer + "feed_forward.down_proj.weight"],
        }
        tensors |= {f"v.blk.{i}.{part}.weight": w for part, w in block.items()}
    for name, w in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(w))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompt(images: list[tuple[int, int]], rng: np.random.Generator) -> list[int]:
    """Token ids of a case: a few tokens of text before, between and after the pictures."""
    words = lambda n: rng.integers(1000, N_VOCAB, n).tolist()
    ids = [1] + words(3)
    for cols, rows in images:
        row = [IMG] * cols + [IMG_BREAK]
        ids += row * rows
        ids[-1] = IMG_END
        ids += words(4)
    return ids


@torch.no_grad()
def run(model: Mistral3ForConditionalGeneration, shape: dict, images: list[tuple[int, int]], ids: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """The projector's rows of each picture, and the last logits."""
    side = shape["patch"] * shape["merge"]
    sizes = [(rows * side, cols * side) for cols, rows in images]
    padded = np.zeros((len(images), 3, max(h for h, _ in sizes), max(w for _, w in sizes)), np.float32)
    for i, (h, w) in enumerate(sizes):
        padded[i, :, :h, :w] = pixels(i, w, h)
    given = dict(pixel_values=torch.from_numpy(padded), image_sizes=torch.tensor(sizes))
    rows = model.model.get_image_features(**given).pooler_output
    logits = model(input_ids=torch.tensor([ids]), logits_to_keep=1, **given).logits[0, -1]
    return [r.numpy() for r in rows], logits.numpy()


def main(out_dir: Path = DEFAULT_OUT, vocab: Path = DEFAULT_VOCAB) -> None:
    """Writes everything into `out_dir`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    out_dir.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(vocab)
    index = []
    for name, shape in MODELS.items():
        model = build(shape)
        state = {k: v.numpy() for k, v in model.state_dict().items()}
        write_gguf(out_dir / f"{name}.gguf", name, shape["text"], text_state(state), reader)
        write_mmproj(out_dir / f"mmproj-{name}.gguf", shape, state)
        rng = np.random.default_rng(shape["seed"])
        cases = []
        with open(out_dir / f"{name}.f32", "wb") as file:
            for images in shape["cases"]:
                ids = prompt(images, rng)
                rows, logits = run(model, shape, images, ids)
                for values in [*rows, logits]:
                    file.write(values.astype("<f4").tobytes())
                cases.append({"images": images, "token_ids": ids})
                print(f"{name} {images}: largest row value {max(np.abs(r).max() for r in rows):.2f}, largest logit {np.abs(logits).max():.2f}")
        index.append({"name": name, **shape, "n_vocab": N_VOCAB, "cases": cases})
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (out_dir / "index.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="output directory")
    parser.add_argument("--vocab", type=Path, default=DEFAULT_VOCAB, help="GGUF file whose vocabulary is cut down")
    args = parser.parse_args()
    main(args.out, args.vocab)
