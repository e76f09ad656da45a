#!/usr/bin/env python3
"""Trains the tiny checkpoint from scratch, or further from a checkpoint, on the conversations of data.py.

AdamW, linear warm-up and a cosine from 1.5e-3 to a hundredth of it, batches of 4,096 tokens (padding included), loss on the
assistant's tokens only, 19 million tokens in all. The model computes in f32 on a CPU and in bf16 on CUDA; weights are kept
in f32 and written in BF16. Pictures go through the tower one at a time, so padding never meets them.

OUT/state.pt is written every --save-every steps: a second call with the same OUT goes on from there and sees the data that
an undisturbed run would have seen, since group g of the data depends on nothing but the seed and g. At the end OUT/hf holds
the checkpoint; export.py makes the other layouts of it and evaluate.py scores it.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parent))
from data import IMG, SHARES, Held, draw_sample, encode, open_tokenizer  # noqa: E402
from export import SHAPE, config_json, from_transformers, load_hf, write_hf  # noqa: E402
from make_tekken import own_tekken, tiny  # noqa: E402

PAD = 11
GROUP = 8  # batches that are cut from one sorted pool


class Groups(Dataset):
    """Group g: about GROUP batches of conversations of like length, drawn from (seed, g) alone."""

    def __init__(self, args: argparse.Namespace, tekken: Path):
        self.seed, self.batch, self.tekken, self.held, self.tokenizer = args.seed, args.batch, tekken, Held(args.held), None
        self.shares = SHARES | args.share

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, group: int) -> list[list[tuple]]:
        self.tokenizer = self.tokenizer or open_tokenizer(self.tekken)
        r = random.Random(f"{self.seed} {group}")
        pool = []
        while sum(len(ids) for ids, _, _ in pool) < GROUP * self.batch:
            pool.append(encode(self.tokenizer, draw_sample(r, self.shares, self.held)))
        pool.sort(key=lambda item: len(item[0]))
        batches = [[]]
        for item in pool:
            if batches[-1] and len(item[0]) * (len(batches[-1]) + 1) > self.batch:
                batches.append([])
            batches[-1].append(item)
        r.shuffle(batches)
        return batches


def loss_of(model: Mistral3ForConditionalGeneration, batch: list[tuple], device: str) -> torch.Tensor:
    """Mean cross-entropy of the tokens that the assistant writes. Right padding is invisible to a causal model."""
    longest = max(len(ids) for ids, _, _ in batch)
    ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _, _ in batch], device=device)
    wanted = torch.tensor([mask + [False] * (longest - len(mask)) for _, mask, _ in batch], device=device)[:, 1:]
    embeds = model.get_input_embeddings()(ids)
    for row, (_, _, pictures) in enumerate(batch):
        if not pictures:
            continue
        pixels = [torch.as_tensor(picture, dtype=torch.float32, device=device) for picture in pictures]
        seen = [model.model.get_image_features(p[None], torch.tensor([p.shape[1:]], device=device), vision_feature_layer=-1) for p in pixels]
        features = torch.cat([part for output in seen for part in output.pooler_output])
        embeds = embeds.index_put((torch.tensor(row, device=device), (ids[row] == IMG).nonzero()[:, 0]), features.to(embeds.dtype))
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
    return cross_entropy(model.lm_head(hidden[wanted]).float(), ids[:, 1:][wanted])


def learning_rate(args: argparse.Namespace, step: int, tokens: int) -> float:
    """Warm-up over steps, then a cosine over the run, which --steps or --tokens ends."""
    done = min(1.0, step / args.steps if args.steps else tokens / args.tokens)
    return args.lr * min(1.0, (step + 1) / args.warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def start(args: argparse.Namespace) -> tuple[Mistral3ForConditionalGeneration, dict]:
    """The model, and the config.json it will get."""
    torch.manual_seed(args.seed)
    config = json.loads((args.init / "config.json").read_bytes()) if args.init else config_json()
    model = Mistral3ForConditionalGeneration(Mistral3Config.from_dict(config)).float()
    if args.init:
        names = {theirs: ours for ours, theirs in zip(model.state_dict(), from_transformers(model))}
        model.load_state_dict({names[name]: w.float() for name, w in load_hf(args.init).items()})
    return model.to(args.device).train(), config


def train(args: argparse.Namespace, model: Mistral3ForConditionalGeneration, tekken: Path) -> None:
    """The whole run, from the last saved state if there is one."""
    decayed = [w for w in model.parameters() if w.dim() > 1]
    others = [w for w in model.parameters() if w.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95))
    step = tokens = group = 0
    saved = args.out / "state.pt"
    if saved.exists():
        state = torch.load(saved, map_location=args.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, group = state["step"], state["tokens"], state["group"]
        print(f"going on from step {step}", flush=True)
    last_saved, since, losses, began = step, tokens, [], time.monotonic()
    loader = DataLoader(Groups(args, tekken), batch_size=None, sampler=range(group, 1 << 30), num_workers=args.workers)
    finished = lambda: step >= args.steps if args.steps else tokens >= args.tokens
    for batches in loader:
        for batch in batches:
            if finished():
                break
            for part in optimizer.param_groups:
                part["lr"] = learning_rate(args, step, tokens)
            with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
                loss = loss_of(model, batch, args.device)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
            step, tokens = step + 1, tokens + sum(len(ids) for ids, _, _ in batch)
            if step % args.log_every == 0:
                speed = (tokens - since) / (time.monotonic() - began)
                print(f"step {step}  tokens {tokens}  loss {torch.stack(losses).mean():.4f}  lr {optimizer.param_groups[0]['lr']:.2e}  {speed:.0f} tokens/s", flush=True)
                since, losses, began = tokens, [], time.monotonic()
        group += 1  # states are saved between groups, so a resumed run repeats and skips nothing
        if step - last_saved >= args.save_every or finished():
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "tokens": tokens, "group": group}
            torch.save(state, saved.with_suffix(".tmp"))
            saved.with_suffix(".tmp").rename(saved)
            last_saved = step
        if finished():
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the run; an earlier run in it is continued")
    parser.add_argument("--init", type=Path, metavar="DIR", help="checkpoint in the Hugging Face layout to start from [random weights]")
    parser.add_argument("--tokens", type=int, default=19_000_000, help="length of the run [%(default)s]")
    parser.add_argument("--steps", type=int, help="length of the run in batches, instead of --tokens")
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a batch [%(default)s]")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest learning rate [%(default)s]")
    parser.add_argument("--warmup", type=int, default=100, help="steps until then [%(default)s]")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--share", action="append", default=[], metavar="TASK=N", help="weight of a task among the drawn conversations; may be given again")
    parser.add_argument("--held", type=Path, help="eval.jsonl whose questions must not be learnt")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="threads of torch [all cores]")
    parser.add_argument("--workers", type=int, default=0, help="processes that make data; 4 or more keep a GPU busy [%(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()
    args.share = {task: float(weight) for task, weight in (share.split("=") for share in args.share)}
    if unknown := set(args.share) - set(SHARES):
        parser.error(f"unknown task {', '.join(sorted(unknown))}; known: {', '.join(SHARES)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tekken = args.out / "tekken.json"
    tekken.write_text(json.dumps(tiny(own_tekken(), SHAPE["n_vocab"], SHAPE["image_size"]), ensure_ascii=False))
    model, config = start(args)
    print(f"{sum(w.numel() for w in model.parameters()) / 1e6:.2f} M parameters on {args.device}", flush=True)
    train(args, model, tekken)
    write_hf(args.out / "hf", from_transformers(model), config, tekken)


if __name__ == "__main__":
    main()
