#!/usr/bin/env python3
"""Writes a trained tiny checkpoint in every layout: hf, hf-fp8, native, native-fp8, and hf-fp8-block with --block-scales.

The source is a directory in the Hugging Face layout in BF16, as train.py leaves it. What the layouts have in common with the
published ones of Mistral Medium 3.5: tensor names, scalar scales `weight_scale_inv`/`qscale_weight` (to multiply by, in
spite of the name) and `activation_scale`/`qscale_act` in BF16, q and k rows in half-split RoPE order in hf and interleaved
in native. FP8 is E4M3 with scale = bf16(amax / 448), the text model's linears only. Activation scales are a constant: no
engine of interest reads them.

With --compare ROOT every file is compared with ROOT's: JSON and text as bytes, tensors by name, dtype, shape and bytes.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts/golden"))
from model import to_interleaved  # noqa: E402

SYSTEM_PROMPT = "You are {name}, a tiny model for tests.\nThe current date is {today}.\n"
SHAPE = dict(
    n_vocab=4096, n_ctx=262144, n_embd=256, n_layer=4, n_head=4, n_head_kv=2, head_dim=64, n_ff=768,
    vision_embd=128, vision_layer=3, vision_head=2, vision_ff=256, image_size=224,
)
FP8_MAX = 448.0
ACTIVATION_SCALE = 0.01
NATIVE_PARTS = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    "attention.q_proj": "attention.wq", "attention.k_proj": "attention.wk", "attention.v_proj": "attention.wv", "attention.o_proj": "attention.wo",
    "feed_forward.gate_proj": "feed_forward.w1", "feed_forward.down_proj": "feed_forward.w2", "feed_forward.up_proj": "feed_forward.w3",
}
NATIVE_PREFIXES = {
    "model.language_model.lm_head.": "lm_head.", "model.language_model.model.embed_tokens.": "model.tok_embeddings.",
    "model.language_model.model.": "model.", "model.vision_tower.": "vision_encoder.", "model.multi_modal_projector.norm.": "pre_mm_projector_norm.",
    "model.multi_modal_projector.patch_merger.": "patch_merger.", "model.multi_modal_projector.linear_1.": "vision_language_adapter.w_in.",
    "model.multi_modal_projector.linear_2.": "vision_language_adapter.w_out.",
}


def config_json(s: dict = SHAPE) -> dict:
    """config.json of the BF16 checkpoint."""
    rope = {
        "beta_fast": 4.0, "beta_slow": 1.0, "factor": 64.0, "llama_4_scaling_beta": 0.0, "max_position_embeddings": s["n_ctx"], "mscale": 1.0,
        "mscale_all_dim": 0.0, "original_max_position_embeddings": 4096, "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn",
    }
    text = {
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": s["head_dim"], "hidden_act": "silu", "hidden_size": s["n_embd"],
        "initializer_range": 0.02, "intermediate_size": s["n_ff"], "max_position_embeddings": s["n_ctx"], "model_type": "ministral3",
        "num_attention_heads": s["n_head"], "num_hidden_layers": s["n_layer"], "num_key_value_heads": s["n_head_kv"], "pad_token_id": 11,
        "rms_norm_eps": 1e-05, "rope_parameters": rope, "sliding_window": None, "tie_word_embeddings": False, "use_cache": True,
        "vocab_size": s["n_vocab"],
    }
    vision = {
        "attention_dropout": 0.0, "head_dim": s["vision_embd"] // s["vision_head"], "hidden_act": "silu", "hidden_size": s["vision_embd"],
        "image_size": s["image_size"], "initializer_range": 0.02, "intermediate_size": s["vision_ff"], "model_type": "pixtral",
        "num_attention_heads": s["vision_head"], "num_channels": 3, "num_hidden_layers": s["vision_layer"], "patch_size": 14,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    }
    return {
        "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": 10, "model_type": "mistral3",
        "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2, "text_config": text,
        "tie_word_embeddings": False, "transformers_version": "5.23.0", "vision_config": vision, "vision_feature_layer": -1,
    }


def quantization_config(block: int | None) -> dict:
    """What config.json says about FP8."""
    return {
        "quant_method": "fp8", "activation_scheme": "dynamic" if block else "static", "weight_block_size": [block, block] if block else None,
        "dequantize": False, "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    }


def params_json(config: dict, fp8: bool) -> dict:
    """params.json that says the same as config.json."""
    text, vision = config["text_config"], config["vision_config"]
    rope = text["rope_parameters"]
    params = {
        "dim": text["hidden_size"], "n_layers": text["num_hidden_layers"], "head_dim": text["head_dim"], "hidden_dim": text["intermediate_size"],
        "n_heads": text["num_attention_heads"], "n_kv_heads": text["num_key_value_heads"], "rope_theta": rope["rope_theta"],
        "norm_eps": text["rms_norm_eps"], "vocab_size": text["vocab_size"], "tied_embeddings": False,
        "max_position_embeddings": text["max_position_embeddings"], "model_type": "transformer", "llama_4_scaling": None,
        "q_lora_rank": None, "qk_rope_head_dim": None, "qk_nope_head_dim": None, "kv_lora_rank": None, "v_head_dim": None,
        "yarn": {
            "original_max_position_embeddings": rope["original_max_position_embeddings"], "factor": rope["factor"], "apply_scale": True,
            "beta": rope["beta_fast"], "alpha": rope["beta_slow"],
        },
        "vision_encoder": {
            "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["num_hidden_layers"], "num_attention_heads": vision["num_attention_heads"],
            "mm_projector_id": "patch_merge", "spatial_merge_size": config["spatial_merge_size"], "hidden_size": vision["hidden_size"],
            "num_channels": 3, "image_size": vision["image_size"], "max_image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "rope_theta": vision["rope_parameters"]["rope_theta"], "add_pre_mm_projector_layer_norm": True, "adapter_bias": False,
        },
    }
    return params | ({"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}} if fp8 else {})


def processor_json(config: dict) -> dict:
    """processor_config.json."""
    patch, merge = config["vision_config"]["patch_size"], config["spatial_merge_size"]
    return {
        "image_processor": {
            "image_processor_type": "PixtralImageProcessorFast", "patch_size": patch * merge, "size": {"longest_edge": config["vision_config"]["image_size"]},
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], "do_convert_rgb": True,
            "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 0.00392156862745098,
        },
        "processor_class": "PixtralProcessor", "patch_size": patch, "spatial_merge_size": merge, "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]",
    }


def chat_template() -> str:
    """The template of the built-in model."""
    import gguf

    return gguf.GGUFReader(REPO / "models/tiny/tiny-Q8_0.gguf").fields["tokenizer.chat_template"].contents()


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1))


def write_common(out: Path, tekken: Path) -> None:
    """The files that all layouts share."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tekken.json").write_bytes(tekken.read_bytes())
    (out / "chat_template.jinja").write_text(chat_template())
    (out / "SYSTEM_PROMPT.txt").write_text(SYSTEM_PROMPT)


def from_transformers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights in BF16, under the names that the checkpoint gives them."""
    renamed = {}
    for name, w in model.state_dict().items():
        name = name.replace("model.language_model.", "model.language_model.model.").replace("lm_head.", "model.language_model.lm_head.")
        renamed[name] = w.detach().to("cpu", torch.bfloat16).contiguous()
    return renamed


def load_hf(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory's safetensors files."""
    tensors = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def write_hf(out: Path, tensors: dict[str, torch.Tensor], config: dict, tekken: Path, n_shards: int = 2) -> None:
    """A directory in the Hugging Face layout: shards with as many tensors each, in order of name."""
    write_common(out, tekken)
    names = sorted(tensors)
    per_shard = -(-len(names) // n_shards)
    weight_map = {}
    for number, start in enumerate(range(0, len(names), per_shard), 1):
        shard = f"model-{number:05}-of-{n_shards:05}.safetensors"
        weight_map |= {name: shard for name in names[start:start + per_shard]}
        save_file({name: tensors[name] for name in names[start:start + per_shard]}, out / shard, {"format": "pt"})
    total = sum(w.numel() * w.element_size() for w in tensors.values())
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(out / "config.json", config)
    n_ctx = config["text_config"]["max_position_embeddings"]
    write_json(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11, "max_length": n_ctx})
    write_json(out / "processor_config.json", processor_json(config))


def is_linear(name: str) -> bool:
    """Whether FP8 checkpoints quantize the tensor of this Hugging Face name."""
    return "language_model.model.layers." in name and name.endswith("_proj.weight")


def quantize(w: torch.Tensor, block: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """E4M3 and the factor to multiply it by: one in BF16 for the whole tensor, or one in F32 for each block x block tile."""
    w = w.float()
    if not block:
        scale = (w.abs().max() / FP8_MAX).bfloat16()
        return (w / scale.float()).to(torch.float8_e4m3fn), scale
    rows, cols = (-(-n // block) for n in w.shape)
    padded = torch.zeros(rows * block, cols * block)
    padded[: w.shape[0], : w.shape[1]] = w
    tiles = padded.view(rows, block, cols, block)
    scale = (tiles.abs().amax((1, 3)) / FP8_MAX).clamp_min(1e-12)
    quantized = (tiles / scale[:, None, :, None]).reshape(padded.shape)[: w.shape[0], : w.shape[1]]
    return quantized.contiguous().to(torch.float8_e4m3fn), scale


def to_fp8(tensors: dict[str, torch.Tensor], block: int | None = None) -> dict[str, torch.Tensor]:
    """The checkpoint with FP8 linears. With block scales the activations are scaled at run time and have no tensors."""
    out = {}
    for name, w in tensors.items():
        if not is_linear(name):
            out[name] = w
            continue
        out[name], out[name + "_scale_inv"] = quantize(w, block)
        if not block:
            out[name.removesuffix("weight") + "activation_scale"] = torch.tensor(ACTIVATION_SCALE, dtype=torch.bfloat16)
    return out


def native_name(name: str) -> str:
    """Mistral's name of a tensor that Hugging Face calls `name`."""
    prefix = next(p for p in NATIVE_PREFIXES if name.startswith(p))
    name = NATIVE_PREFIXES[prefix] + name.removeprefix(prefix)
    for theirs, part in NATIVE_PARTS.items():
        name = name.replace(f".{theirs}.", f".{part}.")
    return name.replace(".weight_scale_inv", ".qscale_weight").replace(".activation_scale", ".qscale_act")


def to_native(tensors: dict[str, torch.Tensor], config: dict) -> dict[str, torch.Tensor]:
    """The checkpoint under Mistral's names, q and k rows as interleaved pairs."""
    text, vision = config["text_config"], config["vision_config"]
    out = {}
    for name, w in tensors.items():
        part = text if "language_model" in name else vision
        if w.dim() == 2 and "q_proj" in name:
            w = to_interleaved(w, part["num_attention_heads"])
        elif w.dim() == 2 and "k_proj" in name:
            w = to_interleaved(w, part.get("num_key_value_heads", part["num_attention_heads"]))
        out[native_name(name)] = w.contiguous()
    return out


def write_native(out: Path, tensors: dict[str, torch.Tensor], config: dict, tekken: Path, fp8: bool) -> None:
    """A directory in Mistral's layout."""
    write_common(out, tekken)
    save_file(to_native(tensors, config), out / "consolidated.safetensors", {"format": "pt"})
    write_json(out / "params.json", params_json(config, fp8))


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs between two directories; empty when nothing does."""
    found = []
    for name in sorted({p.name for p in [*ours.iterdir(), *theirs.iterdir()]}):
        a, b = ours / name, theirs / name
        if not (a.exists() and b.exists()):
            found.append(f"{name}: only in {a.parent if a.exists() else b.parent}")
        elif a.read_bytes() != b.read_bytes():
            found.append(f"{name}: other bytes" + ("" if a.suffix != ".json" else ", same JSON" if json.loads(a.read_text()) == json.loads(b.read_text()) else ", other JSON"))
    a, b = load_hf(ours), load_hf(theirs)
    found += [f"{name}: only one has it" for name in sorted(set(a) ^ set(b))]
    for name in sorted(set(a) & set(b)):
        if (a[name].dtype, a[name].shape) != (b[name].dtype, b[name].shape):
            found.append(f"{name}: {a[name].dtype} {list(a[name].shape)}, there {b[name].dtype} {list(b[name].shape)}")
        elif not torch.equal(a[name].reshape(-1).view(torch.uint8), b[name].reshape(-1).view(torch.uint8)):
            found.append(f"{name}: other values")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory in the Hugging Face layout, BF16")
    parser.add_argument("--out", type=Path, required=True, help="directory that gets one directory per layout")
    parser.add_argument("--block-scales", type=int, metavar="N", help="also write hf-fp8-block with a scale for each N x N tile")
    parser.add_argument("--compare", type=Path, metavar="ROOT", help="compare with the layouts that lie there")
    args = parser.parse_args()
    tekken = args.checkpoint / "tekken.json"
    config, tensors = json.loads((args.checkpoint / "config.json").read_bytes()), load_hf(args.checkpoint)
    fp8_config = config | {"quantization_config": quantization_config(None)}
    write_hf(args.out / "hf", tensors, config, tekken)
    write_hf(args.out / "hf-fp8", to_fp8(tensors), fp8_config, tekken)
    write_native(args.out / "native", tensors, config, tekken, fp8=False)
    write_native(args.out / "native-fp8", to_fp8(tensors), config, tekken, fp8=True)
    if args.block_scales:
        block_config = config | {"quantization_config": quantization_config(args.block_scales)}
        write_hf(args.out / "hf-fp8-block", to_fp8(tensors, args.block_scales), block_config, tekken)
    if not args.compare:
        return 0
    rc = 0
    for layout in sorted(p.name for p in args.out.iterdir() if (args.compare / p.name).is_dir()):
        found = differences(args.out / layout, args.compare / layout)
        print(f"{layout}: " + ("identical" if not found else "\n  ".join(["differs", *found])))
        rc |= bool(found)
    print(f"config.json from code: {'same' if config_json() == config else 'different'}")
    return rc


if __name__ == "__main__":
    sys.exit(main())
