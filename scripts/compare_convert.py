#!/usr/bin/env python3
"""Compares `gust convert` with llama.cpp's converter and quantizer on the same checkpoints.

    PYTHONPATH=LLAMA/gguf-py venv/bin/python scripts/compare_convert.py --gust target/release/gust --llama-cpp LLAMA DIR...

Every DIR goes through `convert_hf_to_gguf.py --mistral-format` (F32, F16, BF16, Q8_0, and the vision tower) and, from
F32, through `llama-quantize`; gust converts it to the same types. Then metadata are compared key by key and tensors byte
by byte. A folder in Hugging Face's layout whose vocabulary llama.cpp's converter refuses is compared by its tensors with
the native folder beside it, where there is one (`--native-of HF=NATIVE`). `--siblings` makes small random checkpoints of
other members of the family and compares those too. With `--text` both files of some types continue a prompt greedily, in
llama.cpp and in gust.

Keys that only gust writes are listed apart, and so is what llama.cpp has otherwise on purpose or by omission: a chat
template of its own for folders in Hugging Face's layout, and no context length where params.json tells none; everything else that differs is a difference, and the program fails.
LLAMA is llama.cpp's source with its programs in build/bin. Needs gguf, numpy, torch, safetensors, mistral_common.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader

OURS = {"gust.system_prompt", "gust.license"}
DIRECT = ["F32", "F16", "BF16", "Q8_0"]
QUANTIZED = ["Q4_K_M", "Q5_K_S", "Q6_K", "Q3_K_L", "Q2_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q5_1"]
PROMPT = "[INST]What is the capital of France?[/INST]"


class Comparison:
    """Runs both programs and counts what differs."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.gust, self.llama, self.work = args.gust.resolve(), args.llama_cpp.resolve(), work
        self.types, self.text = args.types, args.text
        self.n_differences = 0
        self.ours: set[str] = set()
        self.known: set[str] = set()
        self.layout = "native"

    def differ(self, line: str) -> None:
        self.n_differences += 1
        print(f"  DIFFERENT {line}", flush=True)

    def run(self, *command: object) -> bool:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            print(f"  failed: {' '.join(str(part) for part in command)}\n{(done.stderr or done.stdout)[-2000:]}")
        return done.returncode == 0

    def theirs(self, checkpoint: Path, ty: str, mmproj: bool = False, layout: str = "native") -> Path | None:
        """The file that llama.cpp's converter makes."""
        out = self.work / f"theirs-{'mmproj-' if mmproj else ''}{ty}.gguf"
        flags = ["--mmproj"] if mmproj else []
        flags += ["--mistral-format"] if layout == "native" else []
        if layout == "native" and not mmproj and not (checkpoint / "chat_template.jinja").exists():
            flags.append("--disable-mistral-community-chat-template")
        script = self.llama / "convert_hf_to_gguf.py"
        done = self.run(sys.executable, script, checkpoint, "--outfile", out, "--outtype", ty.lower(), *flags)
        return out if done else None

    def ours_of(self, checkpoint: Path, ty: str, *flags: str) -> Path | None:
        out = self.work / f"ours-{ty}.gguf"
        # llama.cpp's converter corrects nothing.
        done = self.run(self.gust, "convert", checkpoint, "-o", out, "--type", ty, "--force", "--yarn-as-is", *flags)
        return out if done else None

    def compare(self, what: str, ours: Path | None, theirs: Path | None, metadata: bool = True) -> None:
        if ours is None or theirs is None:
            self.differ(f"{what}: one side failed")
            return
        a, b = GGUFReader(ours), GGUFReader(theirs)
        before = self.n_differences
        if metadata:
            self.compare_metadata(what, a, b)
        self.compare_tensors(what, a, b, order=metadata)
        n_keys, n_tensors = len(b.fields) - 3, len(b.tensors)
        if self.n_differences == before:
            print(f"  same {what}: {n_keys if metadata else 'no'} keys, {n_tensors} tensors", flush=True)

    def compare_metadata(self, what: str, a: GGUFReader, b: GGUFReader) -> None:
        ours = {key: field for key, field in a.fields.items() if not key.startswith("GGUF.")}
        theirs = {key: field for key, field in b.fields.items() if not key.startswith("GGUF.")}
        for key in [key for key in ours if key not in theirs]:
            if key in OURS:
                self.ours.add(key)
            elif self.layout == "native" and key.endswith(".context_length"):
                self.known.add(f"{key} where params.json has none")
            else:
                self.differ(f"{what}: only ours has {key} = {str(ours[key].contents())[:60]}")
        for key, field in theirs.items():
            if key not in ours:
                self.differ(f"{what}: only theirs has {key} = {str(field.contents())[:60]}")
            elif ours[key].types != field.types:
                self.differ(f"{what}: {key}: type {ours[key].types}, theirs {field.types}")
            elif ours[key].contents() != field.contents() and self.layout == "hf" and key == "tokenizer.chat_template":
                self.known.add(f"{key} of folders in Hugging Face's layout")
            elif ours[key].contents() != field.contents():
                pair = [str(side.contents())[:60] for side in (ours[key], field)]
                self.differ(f"{what}: {key}: {pair[0]}, theirs {pair[1]}")
        order = [key for key in ours if key in theirs], [key for key in theirs if key in ours]
        if order[0] != order[1]:
            moved = next(pair for pair in zip(*order) if pair[0] != pair[1])
            self.differ(f"{what}: order of keys: {moved[0]} where theirs has {moved[1]}")

    def compare_tensors(self, what: str, a: GGUFReader, b: GGUFReader, order: bool) -> None:
        ours, theirs = {t.name: t for t in a.tensors}, {t.name: t for t in b.tensors}
        if set(ours) != set(theirs):
            self.differ(f"{what}: tensors {sorted(set(ours) ^ set(theirs))[:4]} on one side only")
        elif order and list(ours) != list(theirs):
            self.differ(f"{what}: order of tensors")
        for name in set(ours) & set(theirs):
            x, y = ours[name], theirs[name]
            if x.tensor_type != y.tensor_type or list(x.shape) != list(y.shape):
                kinds = [f"{t.tensor_type.name} {[int(n) for n in t.shape]}" for t in (x, y)]
                self.differ(f"{what}: {name}: {kinds[0]}, theirs {kinds[1]}")
            elif x.data.tobytes() != y.data.tobytes():
                bad = np.count_nonzero(x.data.reshape(-1).view(np.uint8) != y.data.reshape(-1).view(np.uint8))
                self.differ(f"{what}: {name} ({x.tensor_type.name}): {bad} of {x.n_bytes} bytes")

    def native(self, checkpoint: Path) -> None:
        """Everything about a folder in Mistral's layout."""
        print(f"{checkpoint} (native)", flush=True)
        self.layout = "native"
        has_tower = "vision_encoder" in json.loads((checkpoint / "params.json").read_text())
        f32 = None
        for ty in [ty for ty in DIRECT if ty in self.types or ty == "F32"]:
            theirs = self.theirs(checkpoint, ty)
            f32 = f32 or theirs
            ours = self.ours_of(checkpoint, ty, *(["--mmproj-type", ty] if has_tower else []))
            self.compare(ty, ours, theirs)
            if has_tower:
                beside = ours.with_name(f"mmproj-{ours.name}") if ours else None
                self.compare(f"mmproj {ty}", beside, self.theirs(checkpoint, ty, mmproj=True))
            self.continue_text(ty, ours, theirs)
        for ty in [ty for ty in self.types if ty not in DIRECT]:
            theirs = self.work / f"theirs-{ty}.gguf"
            # llama-quantize takes the mixes apart in one thread's order either way.
            made = f32 and self.run(self.llama / "build/bin/llama-quantize", f32, theirs, ty, "2")
            ours = self.ours_of(checkpoint, ty)
            self.compare(ty, ours, theirs if made else None)
            self.continue_text(ty, ours, theirs)

    def hugging_face(self, checkpoint: Path, native: Path | None) -> None:
        """A folder in Hugging Face's layout, against llama.cpp or against the same checkpoint in the other layout."""
        print(f"{checkpoint} (Hugging Face)", flush=True)
        self.layout = "hf"
        if native is None:
            for ty in ("F32", "BF16"):
                theirs = self.theirs(checkpoint, ty, layout="hf")
                self.compare(ty, self.ours_of(checkpoint, ty), theirs)
            return
        for ty in ("F32", "BF16", "Q4_K_M"):
            other = self.ours_of(native, ty)
            kept = [other.rename(other.with_name(f"native-{other.name}"))]
            beside = other.with_name(f"mmproj-{other.name}")
            if beside.exists():
                kept.append(beside.rename(beside.with_name(f"native-{beside.name}")))
            ours = self.ours_of(checkpoint, ty)
            for mine, theirs in zip([ours, ours.with_name(f"mmproj-{ours.name}")], kept):
                self.compare(f"{theirs.name.removeprefix('native-')} of both layouts", mine, theirs, metadata=False)

    def continue_text(self, ty: str, ours: Path | None, theirs: Path | None) -> None:
        """Both files, greedily continued by both programs."""
        if not self.text or ours is None or theirs is None:
            return
        texts = {}
        for side, path in (("ours", ours), ("theirs", theirs)):
            command = [self.llama / "build/bin/llama-completion", "-m", path, "-p", PROMPT, "-n", "24", "--temp", "0", "-t", "1"]
            command += ["-no-cnv", "--no-warmup", "-c", "512"]
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
            texts[f"llama.cpp, {side}"] = done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr[-300:]}"
            command = [self.gust, "run", "-m", path, "-p", "What is the capital of France?", "-n", "24", "--temp", "0", "-t", "1"]
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
            texts[f"gust, {side}"] = done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr[-300:]}"
        for program in ("llama.cpp", "gust"):
            pair = sorted((texts[f"{program}, ours"], texts[f"{program}, theirs"]), key=len)
            # llama-completion may end before all of its text is written.
            same = pair[1].startswith(pair[0]) if program == "llama.cpp" else pair[0] == pair[1]
            if not same or "failed" in pair[0]:
                self.differ(f"{ty}: text in {program}: {pair[0]!r} and {pair[1]!r}")
        print(f"  text {ty}: gust {texts['gust, ours']!r}; llama.cpp {texts['llama.cpp, ours'][-60:]!r}", flush=True)


def sibling(folder: Path, like: Path, changes: dict, vision: dict | None, seed: int) -> Path:
    """A random BF16 checkpoint in Mistral's layout, with the vocabulary and the shape of `like` unless changed."""
    import torch
    from safetensors.torch import save_file

    params = json.loads((like / "params.json").read_text())
    params.pop("quantization", None)
    tower = params.pop("vision_encoder")
    for key, value in changes.items():
        params.pop(key, None) if value is None else params.update({key: value})
    torch.manual_seed(seed)
    weights = {}

    def add(name: str, *shape: int) -> None:
        scale = 0.02 if len(shape) > 1 else 0.1
        weights[name] = (torch.randn(*shape) * scale + (len(shape) == 1)).to(torch.bfloat16)

    dim, n_ff, head = params["dim"], params["hidden_dim"], params["head_dim"]
    q, kv = params["n_heads"] * head, params["n_kv_heads"] * head
    add("tok_embeddings.weight", params["vocab_size"], dim)
    add("norm.weight", dim)
    if not params.get("tied_embeddings"):
        add("output.weight", params["vocab_size"], dim)
    for i in range(params["n_layers"]):
        for name, rows, columns in (("wq", q, dim), ("wk", kv, dim), ("wv", kv, dim), ("wo", dim, q)):
            add(f"layers.{i}.attention.{name}.weight", rows, columns)
        for name, rows, columns in (("w1", n_ff, dim), ("w2", dim, n_ff), ("w3", n_ff, dim)):
            add(f"layers.{i}.feed_forward.{name}.weight", rows, columns)
        add(f"layers.{i}.attention_norm.weight", dim)
        add(f"layers.{i}.ffn_norm.weight", dim)
    if vision is not None:
        for key, value in vision.items():
            tower.pop(key, None) if value is None else tower.update({key: value})
        params["vision_encoder"] = tower
        wide, patch, merge = tower["hidden_size"], tower["patch_size"], tower.get("spatial_merge_size", 1)
        add("vision_encoder.patch_conv.weight", wide, 3, patch, patch)
        add("vision_encoder.ln_pre.weight", wide)
        for i in range(tower["num_hidden_layers"]):
            at = f"vision_encoder.transformer.layers.{i}"
            for name in ("wq", "wk", "wv", "wo"):
                add(f"{at}.attention.{name}.weight", wide, wide)
            for name, rows, columns in (("w1", tower["intermediate_size"], wide), ("w2", wide, tower["intermediate_size"]), ("w3", tower["intermediate_size"], wide)):
                add(f"{at}.feed_forward.{name}.weight", rows, columns)
            add(f"{at}.attention_norm.weight", wide)
            add(f"{at}.ffn_norm.weight", wide)
        if tower.get("mm_projector_id") == "patch_merge":
            add("patch_merger.merging_layer.weight", wide, wide * merge * merge)
        if tower.get("add_pre_mm_projector_layer_norm"):
            add("pre_mm_projector_norm.weight", wide)
        for name, columns in (("w_in", wide), ("w_out", dim)):
            add(f"vision_language_adapter.{name}.weight", dim, columns)
            if tower.get("adapter_bias"):
                add(f"vision_language_adapter.{name}.bias", dim)
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params, indent=1))
    for name in ("tekken.json", "chat_template.jinja"):
        (folder / name).write_bytes((like / name).read_bytes())
    save_file(weights, folder / "consolidated.safetensors")
    return folder


def siblings(work: Path, like: Path) -> list[Path]:
    """Small random members of the family, each called like a published one."""
    temperature = {"llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1}}
    yarn = {"yarn": {"original_max_position_embeddings": 16384, "factor": 16.0, "apply_scale": False, "beta": 32.0, "alpha": 1.0}}
    old = {"llama_4_scaling": None, "yarn": None, "max_position_embeddings": 131072, "rope_theta": 1e9}
    no_merger = {"mm_projector_id": None, "spatial_merge_size": None, "add_pre_mm_projector_layer_norm": None, "adapter_bias": True}
    return [
        sibling(work / "Ministral-3-14B-Instruct-2512", like, {**temperature, **yarn}, {}, 1),
        sibling(work / "Ministral-3-3B-Tied", like, {**temperature, **yarn, "tied_embeddings": True}, None, 2),
        sibling(work / "Mistral-Small-3.1-24B-Instruct-2503", like, {**old, "n_heads": 6, "head_dim": 32}, {}, 3),
        sibling(work / "Pixtral-12B-2409", like, {**old, "n_kv_heads": 4, "n_layers": 9}, no_merger, 4),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--gust", type=Path, required=True, help="gust's program")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="llama.cpp's source, built in build/")
    parser.add_argument("--types", nargs="+", default=DIRECT + QUANTIZED, help="types to compare")
    parser.add_argument("--siblings", action="store_true", help="also make and compare other members of the family")
    parser.add_argument("--text", action="store_true", help="also continue a prompt with both files")
    parser.add_argument("--work", type=Path, help="folder for the files [a temporary one]")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(args.llama_cpp / "gguf-py")
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        comparison = Comparison(args, Path(work))
        natives = [path for path in args.checkpoints if (path / "params.json").exists()]
        for checkpoint in natives:
            comparison.native(checkpoint)
        for checkpoint in [path for path in args.checkpoints if path not in natives]:
            twin = next((path for path in natives if path.name == checkpoint.name.replace("hf", "native")), None)
            has_json = (checkpoint / "tokenizer.json").exists()
            comparison.hugging_face(checkpoint, None if has_json or twin is None else twin)
        if args.siblings and natives:
            for checkpoint in siblings(Path(work) / "siblings", natives[0]):
                comparison.native(checkpoint)
        print(f"keys that only gust writes: {', '.join(sorted(comparison.ours)) or 'none'}")
        print(f"known differences: {', '.join(sorted(comparison.known)) or 'none'}")
        print(f"{comparison.n_differences} differences")
        sys.exit(comparison.n_differences > 0)


if __name__ == "__main__":
    main()
