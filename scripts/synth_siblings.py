#!/usr/bin/env python3
"""Makes small random checkpoints of the siblings' architectures in both layouts, to compare converters on.

Each member of MEMBERS becomes OUT/NAME/native and OUT/NAME/hf with the same weights (q and k rows in each layout's order),
so a converter must make the same tensors of both. Sizes are small: two layers, 2,048 ids, and a tower of three layers
(llama.cpp maps linear_2 only from three up). What a converter decides by is the published one's: keys and their order of
params.json and config.json, tensor names, tied embeddings, RoPE, biases, the presence of a patch merger, FP8 or BF16, the
version of the tekken.

Sources: transformers' own converters from Mistral's layout (pixtral, mistral3, ministral3) and their defaults, its test
fixtures, and llama.cpp's converter. GUESS marks what none of them shows. With --llama-cpp every checkpoint is given to
llama.cpp's converter, text and projector, and the tensors made of both layouts are compared.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from synth_checkpoint import hf_name, quantization_config, text_plan, vision_plan, write_tokenizer, write_weights  # noqa: E402

TEXT = dict(n_layer=2, n_embd=256, n_ff=512, n_head=4, n_head_kv=2, head_dim=128, n_vocab=2048)
TOWER = dict(n_layer=3, n_embd=128, n_ff=256, n_head=2, head_dim=64, patch=14, merge=2, bias=False, image_size=1540)
PIXTRAL_TOWER = dict(n_layer=3, n_embd=96, n_ff=160, n_head=3, head_dim=32, patch=16, merge=None, bias=True, image_size=1024)
OLD_PREFIXES, TEXT_PREFIXES = ("language_model.model.", "language_model.", ""), ("model.", "", "")
# yarn = (factor, original context, beta_fast, beta_slow, apply_scale); `beta` is llama_4_scaling's, None for a model without
# the key; mscale is rope_parameters' mscale_all_dim.
MEMBERS = {
    "ministral-3-3b": dict(arch="Mistral3ForConditionalGeneration", tied=True, theta=1e6, n_ctx=262144, yarn=(16.0, 16384, 32.0, 1.0, False), beta=0.1, mscale=1.0, tower=TOWER, fp8=True, version="v13"),
    "ministral-3-8b": dict(arch="Mistral3ForConditionalGeneration", tied=False, theta=1e6, n_ctx=262144, yarn=(16.0, 16384, 32.0, 1.0, False), beta=0.1, mscale=1.0, tower=TOWER, fp8=False, version="v13"),
    # GUESS: theta, the YaRN numbers and the FP8 of both Devstral 2. transformers writes mscale_all_dim 0 for a model without tower.
    "devstral-2": dict(arch="Ministral3ForCausalLM", tied=False, theta=1e6, n_ctx=262144, yarn=(64.0, 4096, 4.0, 1.0, True), beta=0.0, mscale=0.0, tower=None, fp8=True, version="v13"),
    "devstral-small-2": dict(arch="Mistral3ForConditionalGeneration", tied=False, theta=1e8, n_ctx=393216, yarn=(48.0, 8192, 32.0, 1.0, False), beta=0.1, mscale=1.0, tower=TOWER, fp8=True, version="v13"),
    "mistral-small-3.1": dict(arch="Mistral3ForConditionalGeneration", tied=False, theta=1e9, n_ctx=131072, yarn=None, beta=None, mscale=None, tower=TOWER, fp8=False, version="v7"),
    "mistral-small-3.2": dict(arch="Mistral3ForConditionalGeneration", tied=False, theta=1e9, n_ctx=131072, yarn=None, beta=None, mscale=None, tower=TOWER, fp8=False, version="v11"),
    # GUESS: n_ctx and the tekken's version.
    "magistral-small": dict(arch="MistralForCausalLM", tied=False, theta=1e9, n_ctx=40960, yarn=None, beta=None, mscale=None, tower=None, fp8=False, version="v11"),
    "pixtral-12b": dict(arch="LlavaForConditionalGeneration", tied=False, theta=1e9, n_ctx=1024000, yarn=None, beta=None, mscale=None, tower=PIXTRAL_TOWER, fp8=False, version="v3"),
}


def params_json(m: dict) -> dict:
    """The member's params.json. Older ones lack everything that was not known yet."""
    old = m["arch"] == "LlavaForConditionalGeneration"
    params = {
        "dim": TEXT["n_embd"], "n_layers": TEXT["n_layer"], "head_dim": TEXT["head_dim"], "hidden_dim": TEXT["n_ff"], "n_heads": TEXT["n_head"],
        "n_kv_heads": TEXT["n_head_kv"], "rope_theta": m["theta"], "norm_eps": 1e-05, "vocab_size": TEXT["n_vocab"],
    }
    if m["yarn"]:
        factor, n_ctx_orig, fast, slow, apply_scale = m["yarn"]
        params |= {"tied_embeddings": m["tied"], "max_position_embeddings": m["n_ctx"], "model_type": "transformer"}
        params["llama_4_scaling"] = {"original_max_position_embeddings": n_ctx_orig, "beta": m["beta"]} if m["beta"] else None
        params |= dict.fromkeys(["q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "kv_lora_rank", "v_head_dim"])
        params["yarn"] = {"original_max_position_embeddings": n_ctx_orig, "factor": factor, "apply_scale": apply_scale, "beta": fast, "alpha": slow}
    elif not old:
        params["max_position_embeddings"] = m["n_ctx"]  # GUESS: 3.1 may have max_seq_len
    if t := m["tower"]:
        vision = {
            "hidden_size": t["n_embd"], "num_channels": 3, "image_size": t["image_size"], "patch_size": t["patch"], "rope_theta": 10000.0,
            "intermediate_size": t["n_ff"], "num_hidden_layers": t["n_layer"], "num_attention_heads": t["n_head"],
            "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13,
        }
        if t["merge"]:
            vision |= {"max_image_size": t["image_size"], "adapter_bias": False, "mm_projector_id": "patch_merge", "spatial_merge_size": t["merge"], "add_pre_mm_projector_layer_norm": True}
        params["vision_encoder"] = vision
    return params | ({"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}} if m["fp8"] else {})


def text_config(m: dict) -> dict:
    """text_config of config.json, or all of it for a member without tower."""
    config = {
        "attention_dropout": 0.0, "head_dim": TEXT["head_dim"], "hidden_act": "silu", "hidden_size": TEXT["n_embd"], "initializer_range": 0.02,
        "intermediate_size": TEXT["n_ff"], "max_position_embeddings": m["n_ctx"], "model_type": "ministral3" if m["yarn"] else "mistral",
        "num_attention_heads": TEXT["n_head"], "num_hidden_layers": TEXT["n_layer"], "num_key_value_heads": TEXT["n_head_kv"], "rms_norm_eps": 1e-05,
    }
    if m["yarn"]:
        factor, n_ctx_orig, fast, slow, _ = m["yarn"]
        config["rope_parameters"] = {
            "beta_fast": fast, "beta_slow": slow, "factor": factor, "llama_4_scaling_beta": m["beta"], "mscale": 1.0, "mscale_all_dim": m["mscale"],
            "original_max_position_embeddings": n_ctx_orig, "rope_theta": m["theta"], "rope_type": "yarn", "type": "yarn",
        }
    else:
        config["rope_theta"] = m["theta"]
    config |= {"sliding_window": None, "use_cache": True, "vocab_size": TEXT["n_vocab"]}
    return config | ({"tie_word_embeddings": m["tied"]} if m["yarn"] or not m["tower"] else {})


def config_json(m: dict) -> dict:
    """The member's config.json."""
    dtype = {"dtype": "bfloat16"} if m["yarn"] else {"torch_dtype": "bfloat16"}
    quantization = {"quantization_config": quantization_config(None)} if m["fp8"] else {}
    if not m["tower"]:
        return {"architectures": [m["arch"]], **dtype, "bos_token_id": 1, "eos_token_id": 2, **text_config(m), **quantization}
    t = m["tower"]
    vision = {
        "attention_dropout": 0.0, "head_dim": t["head_dim"], "hidden_act": "silu", "hidden_size": t["n_embd"], "image_size": t["image_size"],
        "initializer_range": 0.02, "intermediate_size": t["n_ff"], "model_type": "pixtral", "num_attention_heads": t["n_head"], "num_channels": 3,
        "num_hidden_layers": t["n_layer"], "patch_size": t["patch"], "rope_theta": 10000.0,
    }
    config = {"architectures": [m["arch"]], **dtype, "image_token_index": 10, "projector_hidden_act": "gelu", "text_config": text_config(m), "vision_config": vision, "vision_feature_layer": -1}
    if t["merge"]:
        config |= {"model_type": "mistral3", "multimodal_projector_bias": t["bias"], "spatial_merge_size": t["merge"]}
    else:
        config |= {"model_type": "llava", "ignore_index": -100, "image_seq_length": 1, "vision_feature_select_strategy": "full"}
    return config | ({"tie_word_embeddings": True} if m["tied"] else {}) | quantization


def preprocessor_json(t: dict) -> dict:
    """preprocessor_config.json, which llama.cpp reads for the projector in the hf layout."""
    return {
        "image_processor_type": "PixtralImageProcessor", "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], "patch_size": t["patch"], "resample": 3,
        "rescale_factor": 1 / 255, "size": {"longest_edge": t["image_size"]},
    }


def write_member(out: Path, m: dict, tekken: dict, seed: int) -> None:
    """Both layouts of one member."""
    plan, t = list(text_plan(**TEXT, tied=m["tied"])), m["tower"]
    if t:
        tower = {k: v for k, v in t.items() if k != "image_size"}
        plan += [item for item in vision_plan(**tower, n_text=TEXT["n_embd"])]
    heads = {"wq": TEXT["n_head"], "wk": TEXT["n_head_kv"]}

    def rope_heads(name: str) -> int | None:
        part = name.split(".")[-2]
        return (t["n_head"] if name.startswith("vision_encoder.") else heads[part]) if part in heads else None

    prefixes = OLD_PREFIXES if t else TEXT_PREFIXES
    for layout, rename in (("native", lambda name: name), ("hf", lambda name: hf_name(name, *prefixes))):
        to = out / layout
        to.mkdir(parents=True, exist_ok=True)
        name, value = ("params.json", params_json(m)) if layout == "native" else ("config.json", config_json(m))
        (to / name).write_text(json.dumps(value, indent=2))
        if layout == "hf" and t:
            (to / "preprocessor_config.json").write_text(json.dumps(preprocessor_json(t), indent=2))
        write_weights(to, plan, rename, rope_heads, layout, m["fp8"], None, 10**12, seed)
        write_tokenizer(to, tekken, TEXT["n_vocab"], m["version"], None)


def convert(llama_cpp: Path, checkpoint: Path, to: Path, *flags: str) -> str | None:
    """Runs llama.cpp's converter; why it failed, or None."""
    command = [sys.executable, llama_cpp / "convert_hf_to_gguf.py", checkpoint, "--outfile", to, "--outtype", "bf16", *flags]
    env = os.environ | {"PYTHONPATH": str(llama_cpp / "gguf-py"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def compare(a: Path, b: Path) -> str:
    """How two GGUF files differ."""
    import gguf

    ours, theirs = ({t.name: (t.tensor_type, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors} for path in (a, b))
    keys = [{k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith(("GGUF.", "general.", "tokenizer."))} for path in (a, b)]
    lacking = [f"{name} only in {'the first' if name in ours else 'the second'}" for name in sorted(ours.keys() ^ theirs.keys())]
    other = lacking + sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    drop = lambda key: key.split(".", 1)[1]
    first, second = ({drop(k): v for k, v in part.items()} for part in keys)
    other_keys = [f"{k} {first.get(k, '-')} / {second.get(k, '-')}" for k in sorted(first.keys() | second.keys()) if first.get(k) != second.get(k)]
    arch = [str(gguf.GGUFReader(path).fields["general.architecture"].contents()) for path in (a, b)]
    return f"{arch[0]} / {arch[1]}, {len(ours)} tensors, {len(other)} differ {other[:3] if other else ''}; keys: {', '.join(other_keys) or 'same'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="*", metavar="NAME", help=f"members to make: {', '.join(MEMBERS)} [all]")
    parser.add_argument("--tekken", type=Path, required=True, help="tekken.json (v15) to cut the vocabulary from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path, metavar="DIR", help="llama.cpp's source: convert what was made with it, beside it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if unknown := set(args.members) - set(MEMBERS):
        parser.error(f"unknown member {', '.join(sorted(unknown))}; known: {', '.join(MEMBERS)}")
    tekken = json.loads(args.tekken.read_bytes())
    for name in args.members or MEMBERS:
        m, out = MEMBERS[name], args.out / name
        write_member(out, m, tekken, args.seed)
        print(f"{name}: {sum(p.stat().st_size for p in out.rglob('*') if p.is_file()) / 1e6:.1f} MB", flush=True)
        if not args.llama_cpp:
            continue
        for part, flags in (("text", []), ("mmproj", ["--mmproj"])):
            if part == "mmproj" and not m["tower"]:
                continue
            files = {layout: out / f"{layout}-{part}.gguf" for layout in ("native", "hf")}
            failed = {layout: convert(args.llama_cpp, out / layout, to, *flags, *(["--mistral-format"] if layout == "native" else [])) for layout, to in files.items()}
            for layout, why in failed.items():
                print(f"  {part} {layout}: " + (f"refused: {why}" if why else "accepted"))
            if not any(failed.values()):
                print(f"  {part} native / hf: {compare(files['native'], files['hf'])}", flush=True)


if __name__ == "__main__":
    main()
