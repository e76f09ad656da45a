#!/usr/bin/env python3
"""Makes tests/golden/model: small seeded random models and what transformers computes with them.

For every entry of MODELS it writes
  NAME.gguf    the weights in F32, in llama.cpp's layout (q and k rows permuted to interleaved RoPE);
  NAME.logits  logits of every position of one sequence, raw little-endian f32, [n_tokens][n_vocab];
and for all of them one index.json: the shapes, the sequence's token ids, and the greedy continuation of a prompt (the
first `n_prompt` ids of the sequence) with the gap between the two best logits at each step, so that a test can tell a
real difference from a tie.

All numbers come from transformers on the CPU in float32 with eager attention. The shapes are chosen to part ways where an
engine could be wrong: head_dim unlike n_embd / n_head, groups of 1, 2, 4 and 12 query heads per key/value head, positions
six times past YaRN's original context, temperature scaling on and off, every case of YaRN's magnitude, tied and untied
heads, and one plain-RoPE model of the older `llama` architecture.

The vocabulary is cut from the GGUF given by --vocab: its first N_VOCAB tokens (control tokens, the 256 bytes, a few
ranks) and the merges that stay inside them, so every file is valid from end to end.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Ministral3Config, Ministral3ForCausalLM

N_VOCAB = 1280  # 1000 control tokens, 256 bytes, 24 ranks
N_CTX = 96  # tokens of the measured sequence
N_PROMPT = 32  # the greedy continuation starts after these
N_GREEDY = 64
N_CTX_TRAIN = 1024

REPO = Path(__file__).resolve().parents[2]
DEFAULT_OUT = REPO / "tests/golden/model"
DEFAULT_VOCAB = REPO / "models/tiny/tiny-Q8_0.gguf"

# scaling = (factor, original context, beta_fast, beta_slow, mscale_all_dim); temperature = llama_4_scaling_beta.
MODELS = {
    "gqa2-head-wide": dict(seed=1, layers=2, embd=48, ff=112, heads=4, kv=2, head_dim=32, theta=1e6, tied=False,
                           scaling=(64.0, 16, 4.0, 1.0, 0.0), temperature=0.0),
    "gqa12-temperature": dict(seed=2, layers=2, embd=64, ff=96, heads=12, kv=1, head_dim=16, theta=1e4, tied=True,
                              scaling=(16.0, 16, 32.0, 1.0, 1.0), temperature=0.1),
    "gqa4-temperature-head-64": dict(seed=3, layers=3, embd=32, ff=96, heads=4, kv=1, head_dim=64, theta=1e3, tied=True,
                                     scaling=(8.0, 16, 4.0, 0.125, 0.0), temperature=0.25),
    "gqa1-mscale-half": dict(seed=4, layers=1, embd=32, ff=64, heads=4, kv=4, head_dim=16, theta=1e4, tied=False,
                             scaling=(4.0, 32, 4.0, 0.25, 0.5), temperature=0.0),
    "llama-gqa2": dict(seed=6, layers=2, embd=40, ff=96, heads=4, kv=2, head_dim=16, theta=1e4, tied=False,
                       scaling=None, temperature=0.0),
}


def config(shape: dict) -> LlamaConfig | Ministral3Config:
    """The transformers configuration of one shape."""
    common = dict(
        vocab_size=N_VOCAB, hidden_size=shape["embd"], intermediate_size=shape["ff"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["kv"], head_dim=shape["head_dim"],
        max_position_embeddings=N_CTX_TRAIN, rms_norm_eps=1e-5, tie_word_embeddings=shape["tied"], bos_token_id=1,
        eos_token_id=2, pad_token_id=11, attn_implementation="eager",
    )
    if shape["scaling"] is None:
        return LlamaConfig(**common, rope_parameters={"rope_type": "default", "rope_theta": shape["theta"]})
    factor, n_ctx_orig, beta_fast, beta_slow, mscale_all_dim = shape["scaling"]
    return Ministral3Config(**common, rope_parameters={
        "rope_type": "yarn", "rope_theta": shape["theta"], "factor": factor,
        "original_max_position_embeddings": n_ctx_orig, "max_position_embeddings": N_CTX_TRAIN,
        "beta_fast": beta_fast, "beta_slow": beta_slow, "mscale": 1.0, "mscale_all_dim": mscale_all_dim,
        "llama_4_scaling_beta": shape["temperature"],
    })


def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Gives `model` random weights under which attention and every norm matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, w in sorted(model.named_parameters()):
            noise = torch.randn(w.shape, generator=generator)
            if w.dim() == 1 and name.endswith("bias"):
                w.copy_(0.1 * noise)
            elif w.dim() == 1:  # RMSNorm
                w.copy_(1 + 0.2 * noise)
            elif "embed_tokens" in name:
                w.copy_(noise * 0.5)
            elif "o_proj" in name or "v_proj" in name:  # averaging over positions shrinks what passes here
                w.copy_(noise * 2.0 / w[0].numel() ** 0.5)
            else:
                w.copy_(noise * 1.2 / w[0].numel() ** 0.5)
    return model.float().eval()


def build(shape: dict) -> torch.nn.Module:
    """The transformers model of one shape."""
    model = LlamaForCausalLM if shape["scaling"] is None else Ministral3ForCausalLM
    return fill(model(config(shape)), shape["seed"])


def to_interleaved(w: np.ndarray, n_head: int) -> np.ndarray:
    """Reorders a projection's rows from half-split RoPE (transformers) to interleaved pairs (GGUF)."""
    rows, cols = w.shape
    return w.reshape(n_head, 2, rows // n_head // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def add_vocab(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> None:
    """Copies the first N_VOCAB tokens of `source` and the merges whose halves and result are among them."""
    tokens = source.fields["tokenizer.ggml.tokens"].contents()[:N_VOCAB]
    types = source.fields["tokenizer.ggml.token_type"].contents()[:N_VOCAB]
    known = set(tokens)
    merges = [
        merge
        for merge in source.fields["tokenizer.ggml.merges"].contents()
        if merge.replace(" ", "") in known and all(half in known for half in merge.split(" "))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(11)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def add_hparams(writer: gguf.GGUFWriter, shape: dict) -> None:
    """Writes the architecture's keys."""
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(shape["layers"])
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(shape["embd"])
    writer.add_feed_forward_length(shape["ff"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(shape["theta"])
    writer.add_vocab_size(N_VOCAB)
    if shape["scaling"] is None:
        return
    factor, n_ctx_orig, beta_fast, beta_slow, mscale_all_dim = shape["scaling"]
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(n_ctx_orig)
    writer.add_rope_scaling_yarn_beta_fast(beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(beta_slow)
    writer.add_rope_scaling_yarn_log_mul(mscale_all_dim)
    if shape["temperature"]:
        writer.add_attn_temperature_scale(shape["temperature"])


def write_gguf(path: Path, name: str, shape: dict, state: dict[str, np.ndarray], vocab: gguf.GGUFReader) -> None:
    """Writes the model of these weights as an F32 GGUF file."""
    writer = gguf.GGUFWriter(path, "llama" if shape["scaling"] is None else "mistral3")
    writer.add_name(name)
    add_hparams(writer, shape)
    add_vocab(writer, vocab)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    if not shape["tied"]:
        writer.add_tensor("output.weight", state["lm_head.weight"])
    for i in range(shape["layers"]):
        hf = f"model.layers.{i}."
        block = {
            "attn_norm": state[hf + "input_layernorm.weight"],
            "attn_q": to_interleaved(state[hf + "self_attn.q_proj.weight"], shape["heads"]),
            "attn_k": to_interleaved(state[hf + "self_attn.k_proj.weight"], shape["kv"]),
            "attn_v": state[hf + "self_attn.v_proj.weight"],
            "attn_output": state[hf + "self_attn.o_proj.weight"],
            "ffn_norm": state[hf + "post_attention_layernorm.weight"],
            "ffn_gate": state[hf + "mlp.gate_proj.weight"],
            "ffn_up": state[hf + "mlp.up_proj.weight"],
            "ffn_down": state[hf + "mlp.down_proj.weight"],
        }
        for part, w in block.items():
            writer.add_tensor(f"blk.{i}.{part}.weight", np.ascontiguousarray(w))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Continues `prompt` by the best token each time, never stopping at EOS; ids and top-two gaps of every step."""
    ids, gaps = list(prompt), []
    for _ in range(N_GREEDY):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], gaps


@torch.no_grad()
def how_much_the_past_matters(model: torch.nn.Module, ids: list[int], logits: np.ndarray) -> float:
    """Change of the last logits, relative to the largest, when only the token at position 8 changes."""
    other = list(ids)
    other[8] = 1000 + (ids[8] + 77) % (N_VOCAB - 1000)
    moved = model(torch.tensor([other])).logits[0, -1].numpy()
    return float(np.abs(moved - logits[-1]).max() / np.abs(logits[-1]).max())


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
        write_gguf(out_dir / f"{name}.gguf", name, shape, state, reader)
        rng = np.random.default_rng(shape["seed"])
        ids = [1] + rng.integers(1000, N_VOCAB, N_CTX - 1).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy().astype("<f4")
        (out_dir / f"{name}.logits").write_bytes(logits.tobytes())
        continuation, gaps = greedy(model, ids[:N_PROMPT])
        print(f"{name}: largest logit {np.abs(logits).max():.2f}, past matters {how_much_the_past_matters(model, ids, logits):.3f}, "
              f"{len(set(continuation))} different greedy tokens, smallest gap {min(gaps):.5f}")
        index.append({
            "name": name, "gguf": f"{name}.gguf", "logits": f"{name}.logits", "n_vocab": N_VOCAB, **shape,
            "token_ids": ids, "n_prompt": N_PROMPT, "greedy": continuation, "greedy_gaps": [round(g, 6) for g in gaps],
        })
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (out_dir / "index.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="output directory")
    parser.add_argument("--vocab", type=Path, default=DEFAULT_VOCAB, help="GGUF file whose vocabulary is cut down")
    args = parser.parse_args()
    main(args.out, args.vocab)
