#!/usr/bin/env python3
"""Makes tests/golden/eagle: a small seeded draft head of the EAGLE kind, and what plain PyTorch computes with it.

  params.json, consolidated.safetensors   the head in Mistral's layout, FP8 with a scale for each matrix, like the published one;
  forward.f32                             raw little-endian f32: embeddings, hidden states and results, each [n_tokens][dim].

The forward is the one of models/medium-3.5/MODEL.md: fc(concat(embedding, hidden)), decoder layers with rotary embeddings of
interleaved pairs, the final norm. It runs on the values that the file holds, in float32; YaRN's frequencies and magnitude
come from transformers. There are more tokens than YaRN's original context, so that stretching shows.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Ministral3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "tests/golden/eagle"
N_TOKENS = 12
DIM, LAYERS, HEADS, KV_HEADS, HEAD, FFN = 64, 2, 4, 2, 16, 80
EPS = 1e-5
YARN = {"original_max_position_embeddings": 8, "factor": 64.0, "apply_scale": True, "beta": 4.0, "alpha": 1.0}
PARAMS = {
    "dim": DIM, "n_layers": LAYERS, "head_dim": HEAD, "hidden_dim": FFN, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
    "rope_theta": 1000000.0, "norm_eps": EPS, "vocab_size": 131072, "tied_embeddings": False,
    "max_position_embeddings": 512, "llama_4_scaling": None, "yarn": YARN,
    "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
}


def make_weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the file holds, and the values of its weights."""
    stored, values = {}, {}

    def linear(name: str, rows: int, cols: int) -> None:
        weight = torch.randn(rows, cols) / cols**0.5
        scale = (weight.abs().max() / 448).to(torch.bfloat16)
        codes = (weight / scale.float()).to(torch.float8_e4m3fn)
        stored[f"{name}.weight"] = codes
        stored[f"{name}.qscale_weight"] = scale
        stored[f"{name}.qscale_act"] = torch.tensor(0.5, dtype=torch.bfloat16)
        values[name] = codes.float() * scale.float()

    def norm(name: str) -> None:
        weight = (1 + 0.2 * torch.randn(DIM)).to(torch.bfloat16)
        stored[f"{name}.weight"], values[name] = weight, weight.float()

    linear("eagle_linear", DIM, 2 * DIM)
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        norm(prefix + "attention_norm")
        linear(prefix + "attention.wq", HEADS * HEAD, DIM)
        linear(prefix + "attention.wk", KV_HEADS * HEAD, DIM)
        linear(prefix + "attention.wv", KV_HEADS * HEAD, DIM)
        linear(prefix + "attention.wo", DIM, HEADS * HEAD)
        norm(prefix + "ffn_norm")
        linear(prefix + "feed_forward.w1", FFN, DIM)
        linear(prefix + "feed_forward.w2", DIM, FFN)
        linear(prefix + "feed_forward.w3", FFN, DIM)
    norm("norm")
    return stored, values


def rotations() -> torch.Tensor:
    """The factor of each position and pair, as a complex number."""
    rope = {
        "rope_type": "yarn", "rope_theta": PARAMS["rope_theta"], "factor": YARN["factor"], "beta_fast": YARN["beta"],
        "beta_slow": YARN["alpha"], "original_max_position_embeddings": YARN["original_max_position_embeddings"],
        "mscale": 1.0, "mscale_all_dim": 0.0,
    }
    config = Ministral3Config(hidden_size=DIM, num_attention_heads=HEADS, head_dim=HEAD, max_position_embeddings=512, rope_parameters=rope)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    angles = torch.outer(torch.arange(N_TOKENS).float(), frequencies)
    return torch.polar(torch.full_like(angles, magnitude), angles)


def rotate(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Rotates neighbouring elements as pairs; x is [tokens][heads][HEAD]."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * factors[:, None]).reshape(x.shape)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def forward(w: dict[str, torch.Tensor], embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    x = torch.cat([embeddings, hidden], dim=-1) @ w["eagle_linear"].T
    factors = rotations()
    for layer in range(LAYERS):
        def weight(name: str) -> torch.Tensor:
            return w[f"layers.{layer}.{name}"]

        h = rms_norm(x, weight("attention_norm"))
        q = rotate((h @ weight("attention.wq").T).view(N_TOKENS, HEADS, HEAD), factors)
        k = rotate((h @ weight("attention.wk").T).view(N_TOKENS, KV_HEADS, HEAD), factors)
        v = (h @ weight("attention.wv").T).view(N_TOKENS, KV_HEADS, HEAD)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / HEAD**0.5
        scores += torch.full((N_TOKENS, N_TOKENS), float("-inf")).triu(1)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(N_TOKENS, -1)
        x = x + mixed @ weight("attention.wo").T
        h = rms_norm(x, weight("ffn_norm"))
        gate = torch.nn.functional.silu(h @ weight("feed_forward.w1").T)
        x = x + (gate * (h @ weight("feed_forward.w3").T)) @ weight("feed_forward.w2").T
    return rms_norm(x, w["norm"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(88)
    stored, values = make_weights()
    embeddings, hidden = torch.randn(N_TOKENS, DIM), torch.randn(N_TOKENS, DIM)
    result = forward(values, embeddings, hidden)
    save_file(stored, args.out / "consolidated.safetensors")
    (args.out / "params.json").write_text(json.dumps(PARAMS, indent=1) + "\n")
    numbers = torch.cat([embeddings, hidden, result]).numpy().astype("<f4", copy=False)
    (args.out / "forward.f32").write_bytes(numbers.tobytes())


if __name__ == "__main__":
    main()
