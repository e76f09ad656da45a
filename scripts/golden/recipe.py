#!/usr/bin/env python3
"""Makes tests/golden/recipe: which type llama.cpp's llama-quantize gives each tensor.

Writes models.json and choices.jsonl. A model is its facts and a list of tensors, [name, dimension, …] in the order of the
quantized file; a choice names a model, a type, whether there was an importance matrix, llama-quantize's further flags, and
the types of the tensors in that order, one letter each (`letters` in models.json says which).

llama-quantize is asked with --dry-run, which reads no weights: the models are files of holes. Shapes are chosen where the
tables of llama.cpp part ways: 16 layers (for "the first sixteenth"), groups of 1, 2 and 8 query heads per key/value head,
tied embeddings, the 80 layers that make a `llama` a Llama 2 70B, rows that are multiples of 32, 64, 128 and of none, and a
picture tower. Flags are tried on one model. Where llama-quantize gives up (it cannot count heads of a tower) there is no
line.
"""

import argparse
import json
import re
import string
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

REPO = Path(__file__).resolve().parents[2]
DEFAULT_OUT = REPO / "tests/golden/recipe"

TYPES = ("F32 F16 BF16 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 TQ1_0 TQ2_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S "
         "Q5_K_M Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS").split()

# parts: the matrices of each layer; all of them unless a model is deep.
ALL = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down".split()
MODELS = {
    "mistral3-gqa8": dict(arch="mistral3", layers=16, embd=256, ff=512, heads=8, kv=1, tied=False, parts=ALL),
    "mistral3-gqa2-tied": dict(arch="mistral3", layers=9, embd=256, ff=768, heads=8, kv=4, tied=True, parts=ALL),
    "llama-70b": dict(arch="llama", layers=80, embd=256, ff=256, heads=8, kv=1, tied=False, parts=["attn_v", "ffn_down"]),
    "mistral3-80-layers": dict(arch="mistral3", layers=80, embd=256, ff=256, heads=8, kv=4, tied=False, parts=["attn_v", "ffn_gate"]),
    "llama-gqa1-odd": dict(arch="llama", layers=3, embd=288, ff=200, heads=4, kv=4, tied=False, parts=ALL),
    "llama-gqa1-128": dict(arch="llama", layers=2, embd=128, ff=192, heads=4, kv=4, tied=True, parts=ALL),
    "clip": dict(arch="clip", layers=4, embd=128, ff=256, heads=2, kv=2, tied=False, parts=[]),
}
# Flags as llama-quantize has them, tried on the first model.
FLAGS = [
    ["--pure"],
    ["--output-tensor-type", "q5_K", "--token-embedding-type", "q8_0"],
    ["--tensor-type", r"blk\.[0-4]\.ffn_down=q8_0", "--tensor-type", "FFN_=q5_0", "--tensor-type", "attn_v=iq4_nl"],
    ["--tensor-type", "output=q4_0", "--output-tensor-type", "q6_K", "--pure"],
]


def tensors(model: dict) -> list[tuple[str, list[int]]]:
    """Names and dimensions in ggml's order."""
    embd, ff, layers = model["embd"], model["ff"], model["layers"]
    kv = embd // model["heads"] * model["kv"]
    if model["arch"] == "clip":
        shapes = {"attn_q": [embd, embd], "attn_k": [embd, embd], "attn_v": [embd, embd], "attn_out": [embd, embd],
                  "ffn_gate": [embd, ff], "ffn_up": [embd, ff], "ffn_down": [ff, embd], "ln1": [embd], "ln2": [embd]}
        found = [(f"v.blk.{i}.{part}.weight", dims) for i in range(layers) for part, dims in shapes.items()]
        return found + [("v.patch_embd.weight", [14, 14, 3, embd]), ("v.pre_ln.weight", [embd]), ("mm.1.weight", [embd, 512]),
                        ("mm.2.weight", [512, 512]), ("mm.input_norm.weight", [embd]), ("mm.patch_merger.weight", [4 * embd, embd]),
                        ("v.token_embd.img_break", [512])]
    shapes = {"attn_q": [embd, embd], "attn_k": [embd, kv], "attn_v": [embd, kv], "attn_output": [embd, embd],
              "ffn_gate": [embd, ff], "ffn_up": [embd, ff], "ffn_down": [ff, embd]}
    found = [("token_embd.weight", [embd, 320]), ("output_norm.weight", [embd])]
    if not model["tied"]:
        found.append(("output.weight", [embd, 320]))
    for i in range(layers):
        found += [(f"blk.{i}.{part}.weight", shapes[part]) for part in model["parts"]]
        if model["parts"] == ALL:
            found += [(f"blk.{i}.{norm}.weight", [embd]) for norm in ("attn_norm", "ffn_norm")]
    return found


def write_model(path: Path, model: dict, values=None) -> None:
    """Writes the model in F16, norms in F32. Without `values(name, shape)` its data is a hole."""
    arch = model["arch"]
    writer = gguf.GGUFWriter(path, arch)
    if arch == "clip":
        writer.add_type("mmproj")
    else:
        writer.add_context_length(1024)
        writer.add_embedding_length(model["embd"])
        writer.add_block_count(model["layers"])
        writer.add_feed_forward_length(model["ff"])
        writer.add_head_count(model["heads"])
        writer.add_head_count_kv(model["kv"])
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(model["embd"] // model["heads"])
        writer.add_vocab_size(320)
        writer.add_token_list([f"t{i}" for i in range(320)])
    for name, dims in tensors(model):
        dtype = np.float16 if len(dims) > 1 else np.float32
        shape = dims[::-1]
        if values is not None:
            writer.add_tensor(name, values(name, shape).astype(dtype))
        else:
            writer.add_tensor_info(name, shape, np.dtype(dtype), int(np.prod(dims)) * np.dtype(dtype).itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if values is not None:
        writer.write_tensors_to_file()
        writer.close()
        return
    writer.write_ti_data_to_file()
    writer.close()
    size = sum(-(-int(np.prod(dims)) * (2 if len(dims) > 1 else 4) // 32) * 32 for _, dims in tensors(model))
    with open(path, "r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)


def write_imatrix(path: Path, model: dict, values=None) -> None:
    """An importance matrix for every matrix of the layers."""
    values = values or (lambda n: np.ones(n))
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, dims in sorted(tensors(model)):
        if len(dims) == 2 and ".blk." in f".{name}":
            writer.add_tensor(f"{name}.in_sum2", values(dims[0]).astype(np.float32))
            writer.add_tensor(f"{name}.counts", np.array([1536], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\S+), size = .*?(?:\((\w+)\))?$", re.M)


def ask(program: Path, model: Path, ftype: str, imatrix: Path | None, flags: list[str]) -> dict[str, str] | None:
    """Types by name in the order of the quantized file; None if the program ends with an error."""
    command = [program, "--dry-run", *flags, *(["--imatrix", imatrix] if imatrix else []), model, ftype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return {name: new or old for name, old, new in LINE.findall(done.stdout + done.stderr)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--quantizer", type=Path, required=True, help="llama.cpp's program llama-quantize")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    letters: dict[str, str] = {}
    models, lines = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            path, imatrix = Path(folder) / f"{name}.gguf", Path(folder) / f"{name}-imatrix.gguf"
            write_model(path, model)
            write_imatrix(imatrix, model)
            order = None
            cases = [(ftype, weighted, []) for ftype in TYPES for weighted in (False, True)]
            if name == next(iter(MODELS)):
                cases += [(ftype, False, flags) for ftype in ("Q4_K_M", "IQ3_M", "Q8_0") for flags in FLAGS]
            for ftype, weighted, flags in cases:
                types = ask(args.quantizer, path, ftype, imatrix if weighted else None, flags)
                if types is None:
                    continue
                order = order or list(types)
                assert list(types) == order and set(order) == {n for n, _ in tensors(model)}
                row = "".join(letters.setdefault(ty, (string.ascii_letters + string.digits)[len(letters)]) for ty in types.values())
                lines.append({"model": name, "type": ftype, "imatrix": weighted, "flags": flags, "types": row})
            dims = dict(tensors(model))
            facts = {key: model[key] for key in ("arch", "layers", "heads", "kv")}
            models[name] = {**facts, "tensors": [[n, *dims[n]] for n in order]}
    index = {"letters": {letter: ty for ty, letter in letters.items()}, "models": models}
    (args.out / "models.json").write_text(json.dumps(index) + "\n")
    (args.out / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
