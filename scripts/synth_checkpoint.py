#!/usr/bin/env python3
"""Makes a random checkpoint with the true width of Mistral Medium 3.5 and few layers, to convert and quantize at size.

Both published layouts (--layout hf, native), FP8 with a scalar scale per linear or one per tile (--block-scales, hf only),
or BF16. All sizes can be made smaller; the vocabulary is the beginning of a given tekken.json, since embeddings would
outweigh the layers otherwise: two layers and 12,288 ids give 3.4 GB, 2.8 of them FP8. Tensors are made a few rows at a time and
written as they come, so memory stays small. Rows are pieces of one normal tile (standard deviation 0.02) at random
places, each row with a factor of its own, so every block that a quantizer sees is another one.

    synth_checkpoint.py --tekken tekken.json --out DIR                                  3.4 GB, native layout, FP8
    synth_checkpoint.py --tekken tekken.json --out DIR --n-embd 256 --n-ff 512 --n-head 4 --n-head-kv 2 --head-dim 64 --n-vocab 2048

synth_siblings.py makes small checkpoints of the other members of the family with what stands here.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "tiny"))
from export import FP8_MAX, NATIVE_PARTS, chat_template, params_json, processor_json, quantization_config, quantize, to_interleaved  # noqa: E402
from export import config_json as tiny_config  # noqa: E402
from make_tekken import cut  # noqa: E402

STD = 0.02
TILE = 1 << 22
ROWS_AT_ONCE = 1 << 24  # weights, not rows
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}
SMALL_VISION = dict(vision_embd=128, vision_layer=3, vision_head=2, vision_ff=256, image_size=224)


def text_plan(n_layer: int, n_embd: int, n_ff: int, n_head: int, n_head_kv: int, head_dim: int, n_vocab: int, tied: bool):
    """Mistral's names and the shapes of a text model; linears are what FP8 checkpoints quantize."""
    yield "tok_embeddings.weight", (n_vocab, n_embd)
    for i in range(n_layer):
        p = f"layers.{i}."
        yield p + "attention_norm.weight", (n_embd,)
        yield p + "attention.wq.weight", (n_head * head_dim, n_embd)
        yield p + "attention.wk.weight", (n_head_kv * head_dim, n_embd)
        yield p + "attention.wv.weight", (n_head_kv * head_dim, n_embd)
        yield p + "attention.wo.weight", (n_embd, n_head * head_dim)
        yield p + "ffn_norm.weight", (n_embd,)
        yield p + "feed_forward.w1.weight", (n_ff, n_embd)
        yield p + "feed_forward.w2.weight", (n_embd, n_ff)
        yield p + "feed_forward.w3.weight", (n_ff, n_embd)
    yield "norm.weight", (n_embd,)
    if not tied:
        yield "output.weight", (n_vocab, n_embd)


def vision_plan(n_layer: int, n_embd: int, n_ff: int, n_head: int, head_dim: int, patch: int, n_text: int, merge: int | None, bias: bool):
    """Mistral's names and the shapes of a tower and its projector; `merge` is None for those without a patch merger."""
    yield "vision_encoder.patch_conv.weight", (n_embd, 3, patch, patch)
    yield "vision_encoder.ln_pre.weight", (n_embd,)
    for i in range(n_layer):
        p = f"vision_encoder.transformer.layers.{i}."
        yield p + "attention_norm.weight", (n_embd,)
        yield from ((p + f"attention.{w}.weight", (n_head * head_dim, n_embd)) for w in ("wq", "wk", "wv"))
        yield p + "attention.wo.weight", (n_embd, n_head * head_dim)
        yield p + "ffn_norm.weight", (n_embd,)
        yield p + "feed_forward.w1.weight", (n_ff, n_embd)
        yield p + "feed_forward.w2.weight", (n_embd, n_ff)
        yield p + "feed_forward.w3.weight", (n_ff, n_embd)
    if merge:
        yield "pre_mm_projector_norm.weight", (n_embd,)
        yield "patch_merger.merging_layer.weight", (n_embd, n_embd * merge * merge)
    yield "vision_language_adapter.w_in.weight", (n_text, n_embd)
    yield "vision_language_adapter.w_out.weight", (n_text, n_text)
    if bias:
        yield "vision_language_adapter.w_in.bias", (n_text,)
        yield "vision_language_adapter.w_out.bias", (n_text,)


def hf_name(name: str, text: str, head: str, vision: str) -> str:
    """The Hugging Face name of a tensor; `text`, `head` and `vision` are the prefixes that differ between members."""
    name = re.sub(r"^output\.", f"{head}lm_head.", name)
    name = re.sub(r"^tok_embeddings\.", f"{text}embed_tokens.", name)
    name = re.sub(r"^norm\.", f"{text}norm.", name)
    name = re.sub(r"^vision_encoder\.", f"{vision}vision_tower.", name)
    for ours, theirs in {"pre_mm_projector_norm": "norm", "patch_merger": "patch_merger", "vision_language_adapter.w_in": "linear_1", "vision_language_adapter.w_out": "linear_2"}.items():
        name = re.sub(rf"^{re.escape(ours)}\.", f"{vision}multi_modal_projector.{theirs}.", name)
    in_text = name.startswith("layers.")
    for theirs, ours in NATIVE_PARTS.items():
        if theirs.startswith(("self_attn", "mlp", "input", "post")) == in_text:
            name = name.replace(f".{ours}.", f".{theirs}.")
    return text + name if in_text else name


def is_linear(name: str) -> bool:
    return name.startswith("layers.") and ".w" in name and name.endswith(".weight") and "norm" not in name


class Rows:
    """Random weights of one tensor after the other, the same for the same seed and order of calls."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.tile = (STD * self.rng.standard_normal(TILE, dtype=np.float32)).clip(-5 * STD, 5 * STD)
        self.amax = float(np.abs(self.tile).max())

    def start(self, n_rows: int, n_cols: int) -> float:
        """Draws places and factors of a tensor's rows; the largest weight it can have."""
        self.n_cols = n_cols
        self.places = self.rng.integers(0, TILE - n_cols, n_rows)
        self.factors = np.exp(0.2 * self.rng.standard_normal(n_rows)).clip(0.5, 2.0).astype(np.float32)
        return self.amax * float(self.factors.max())

    def take(self, first: int, end: int) -> torch.Tensor:
        """Rows `first` to `end` of the tensor that was started, in f32."""
        out = np.empty((end - first, self.n_cols), dtype=np.float32)
        for row, (place, factor) in zip(out, zip(self.places[first:end], self.factors[first:end])):
            np.multiply(self.tile[place:place + self.n_cols], factor, out=row)
        return torch.from_numpy(out)


def whole(rows: Rows, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor in one piece, f32."""
    if len(shape) == 1:
        center = 0.0 if name.endswith("bias") else 1.0
        return torch.from_numpy((center + 0.05 * rows.rng.standard_normal(shape)).astype(np.float32))
    n_rows, n_cols = shape[0], int(np.prod(shape[1:]))
    rows.start(n_rows, n_cols)
    return rows.take(0, n_rows).reshape(shape)


def to_half_split(w: torch.Tensor, n_head: int) -> torch.Tensor:
    """The reverse of to_interleaved: rows in the order of Hugging Face's RoPE."""
    rows = w.shape[0]
    return w.reshape(n_head, rows // n_head // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape).contiguous()


def pieces(rows: Rows, name: str, shape: tuple[int, ...], fp8: bool, block: int | None, n_head: int | None):
    """(suffix, dtype, shape, generator of tensors) of what one weight becomes. `n_head` asks for half-split rows.

    With a scalar scale the rows are cut where heads and tiles end, so any number of them can be made at once.
    """
    if not (fp8 and is_linear(name)):
        def plain():
            if len(shape) != 2:
                yield whole(rows, name, shape).bfloat16()
                return
            rows.start(*shape)
            step = max(1, ROWS_AT_ONCE // shape[1])
            step = step if n_head is None else shape[0]
            for first in range(0, shape[0], step):
                w = rows.take(first, min(first + step, shape[0])).bfloat16()
                yield to_half_split(w, n_head) if n_head else w
        yield "", torch.bfloat16, shape, plain()
        return
    if block:
        quantized, scale = quantize(whole(rows, name, shape) if n_head is None else to_half_split(whole(rows, name, shape), n_head), block)
        yield "", quantized.dtype, shape, iter([quantized])
        yield "scale", scale.dtype, tuple(scale.shape), iter([scale])
        return
    amax = rows.start(*shape)
    scale = torch.tensor(amax / FP8_MAX).bfloat16()

    def quantized():
        step = shape[0] // n_head if n_head else max(1, ROWS_AT_ONCE // shape[1])
        for first in range(0, shape[0], step):
            q = (rows.take(first, min(first + step, shape[0])) / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
            yield to_half_split(q.view(torch.uint8), 1).view(torch.float8_e4m3fn) if n_head else q

    yield "", torch.float8_e4m3fn, shape, quantized()
    yield "scale", torch.bfloat16, (), iter([scale])
    yield "act", torch.bfloat16, (), iter([torch.tensor(0.01, dtype=torch.bfloat16)])


def header(entries: list[tuple[str, torch.dtype, tuple[int, ...]]]) -> bytes:
    """The beginning of a safetensors file with these tensors, in this order."""
    table, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in entries:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        table[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def describe(name: str, shape: tuple[int, ...], fp8: bool, block: int | None) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """What `pieces` will yield for a weight, without making it."""
    if not (fp8 and is_linear(name)):
        return [("", torch.bfloat16, shape)]
    if block:
        return [("", torch.float8_e4m3fn, shape), ("scale", torch.float32, tuple(-(-n // block) for n in shape))]
    return [("", torch.float8_e4m3fn, shape), ("scale", torch.bfloat16, ()), ("act", torch.bfloat16, ())]


SUFFIXES = {
    "native": {"scale": ".qscale_weight", "act": ".qscale_act"},
    "hf": {"scale": ".weight_scale_inv", "act": ".activation_scale"},
}


def write_weights(out: Path, plan: list, rename, rope_heads, layout: str, fp8: bool, block: int | None, shard_bytes: int, seed: int) -> int:
    """Writes the shards, and the index where there are several; the bytes of all tensors.

    `rename` maps Mistral's name to the layout's; `rope_heads` gives the heads of a q or k weight in the hf layout.
    """
    shards, sizes = [[]], [0]
    for name, shape in plan:
        parts = describe(name, shape, fp8, block)
        size = sum(int(np.prod(s, dtype=np.int64)) * d.itemsize for _, d, s in parts)
        if shards[-1] and sizes[-1] + size > shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append((name, shape, parts))
        sizes[-1] += size
    stem, weight_map, rows = ("model" if layout == "hf" else "consolidated"), {}, Rows(seed)
    label = lambda name, suffix: rename(name).removesuffix(".weight") + SUFFIXES[layout][suffix] if suffix else rename(name)
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        entries = [(label(name, suffix), dtype, s) for name, _, parts in shard for suffix, dtype, s in parts]
        weight_map |= {entry[0]: file for entry in entries}
        with open(out / file, "wb") as to:
            to.write(header(entries))
            for name, shape, _ in shard:
                for _, _, _, made in pieces(rows, name, shape, fp8, block, rope_heads(name) if layout == "hf" else None):
                    for w in made:
                        to.write(w.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if layout == "hf" and len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(weight_map.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return sum(sizes)


def write_tokenizer(out: Path, tekken: dict, n_vocab: int, version: str | None, template: str | None) -> None:
    """tekken.json with the first `n_vocab` ids, and what llama.cpp looks up [IMG_BREAK] in when the layout is hf.

    llama.cpp has no template for v15 and refuses it in the hf layout, where it does not read chat_template.jinja: another
    `version` lets it convert, with the same ids.
    """
    small = cut(tekken, n_vocab)
    if version:
        small["config"] |= {"version": version}
        del small["model_settings_builder"]  # an older tokenizer must not have it
    (out / "tekken.json").write_text(json.dumps(small, ensure_ascii=False))
    added = {str(t["rank"]): {"content": t["token_str"], "special": True} for t in small["special_tokens"]}
    if (out / "config.json").exists():
        (out / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added, "tokenizer_class": "PreTrainedTokenizerFast"}))
    if template:
        (out / "chat_template.jinja").write_text(template)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tekken", type=Path, required=True, help="tekken.json to cut the vocabulary from")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--layout", choices=["hf", "native"], default="native")
    parser.add_argument("--dtype", choices=["fp8", "bf16"], default="fp8")
    parser.add_argument("--block-scales", type=int, metavar="N", help="one scale for each N x N tile, F32 (hf, fp8)")
    parser.add_argument("--layers", type=int, default=2, help="number of layers (the real model has 88) [%(default)s]")
    parser.add_argument("--n-embd", type=int, default=12288)
    parser.add_argument("--n-ff", type=int, default=28672)
    parser.add_argument("--n-head", type=int, default=96)
    parser.add_argument("--n-head-kv", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--n-vocab", type=int, default=12288, help="ids, the 1,000 special ones included [%(default)s]")
    parser.add_argument("--vision", action="store_true", help="add a small tower: 3 layers, 128 wide")
    parser.add_argument("--shard-bytes", type=float, default=2e9, help="size of a shard [%(default)g]")
    parser.add_argument("--chat-template", type=Path, help="chat_template.jinja [the built-in model's]")
    parser.add_argument("--tekken-version", help="version to write into tekken.json: llama.cpp converts the hf layout up to v13 only [as given]")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.block_scales and (args.layout, args.dtype) != ("hf", "fp8"):
        parser.error("--block-scales needs --layout hf and --dtype fp8")

    began, fp8 = time.monotonic(), args.dtype == "fp8"
    args.out.mkdir(parents=True, exist_ok=True)
    shape = dict(n_vocab=args.n_vocab, n_ctx=262144, n_embd=args.n_embd, n_layer=args.layers, n_head=args.n_head, n_head_kv=args.n_head_kv, head_dim=args.head_dim, n_ff=args.n_ff)
    config = tiny_config(shape | SMALL_VISION)
    plan = list(text_plan(args.layers, args.n_embd, args.n_ff, args.n_head, args.n_head_kv, args.head_dim, args.n_vocab, tied=False))
    if args.vision:
        v = SMALL_VISION
        plan += vision_plan(v["vision_layer"], v["vision_embd"], v["vision_ff"], v["vision_head"], v["vision_embd"] // v["vision_head"], 14, args.n_embd, 2, bias=False)
    heads = {"attention.wq.weight": args.n_head, "attention.wk.weight": args.n_head_kv}
    if args.layout == "hf":
        published = ("model.language_model.", "", "model.") if args.vision else ("model.", "", "")
        rename = lambda name: hf_name(name, *published)
        if fp8:
            config["quantization_config"] = quantization_config(args.block_scales)
        if not args.vision:  # as the text-only sibling: the text model's config is the whole config
            config = {"architectures": ["Ministral3ForCausalLM"], "dtype": "bfloat16"} | config["text_config"] | {k: v for k, v in config.items() if k == "quantization_config"}
        else:
            (args.out / "processor_config.json").write_text(json.dumps(processor_json(config), indent=1))
        (args.out / "config.json").write_text(json.dumps(config, indent=1))
    else:
        rename = lambda name: name
        params = params_json(config, fp8)
        if not args.vision:
            del params["vision_encoder"]
        (args.out / "params.json").write_text(json.dumps(params, indent=1))

    def rope_heads(name: str) -> int | None:
        if not name.endswith(tuple(heads)):
            return None
        return SMALL_VISION["vision_head"] if name.startswith("vision") else heads[".".join(name.split(".")[-3:])]

    n_bytes = write_weights(args.out, plan, rename, rope_heads, args.layout, fp8, args.block_scales, int(args.shard_bytes), args.seed)
    template = args.chat_template.read_text() if args.chat_template else chat_template()
    write_tokenizer(args.out, json.loads(args.tekken.read_bytes()), args.n_vocab, args.tekken_version, template)
    print(f"{args.out}: {n_bytes / 1e9:.2f} GB in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
