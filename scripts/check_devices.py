#!/usr/bin/env python3
"""Whether a model says the same on whatever devices there are: with all, half and no layers on them, the KV cache on
and off them, spread over two by layers and by heads.

    cargo build --release
    GUST_BACKENDS=build/vulkan GGML_VK_VISIBLE_DEVICES=0,0 scripts/check_devices.py --device Vulkan0,Vulkan1
    scripts/check_devices.py --gust target/release/gust --device CUDA0 -m model.gguf
    scripts/check_devices.py --device RPC0 -- --worker host:50052 --worker-key key

The greedy text of a few prompts and of a picture must equal that of the processor alone, and the mean negative
log-likelihood of what the model said, repeated, may differ by at most 1e-3 (5e-3 with a quantized cache, which both
have then). Weights in F32 compare best: with quantized ones the processor rounds activations too, and differs by a few
1e-3 from itself at another --batch. What follows -- goes to every run, also to the one on the processor, which has
--device none. Without -m, the built-in model. Needs python3 only. Exit code 0: all agree.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PROMPTS = ["What is the capital of Germany?", "Tell me a story about Tom.", "Who are you?"]
PICTURE = REPO / "models/tiny/examples/star.png"
MAX_NLL = 1e-3
# The processor quantizes queries as well where the cache is quantized, and others do not.
MAX_NLL_QUANTIZED = 5e-3
N_TRIES = 3


class Gust:
    def __init__(self, args):
        self.program = args.gust
        self.model = ["-m", args.model] if args.model else []
        self.more = args.more
        self.n_ctx = str(args.ctx)
        self.picture = args.picture
        self.died = []
        # What the model says itself, so that it is at home in it whichever model it is.
        said = " ".join(self.texts(["--device", "none"])[: len(PROMPTS)])
        self.text = " ".join([said] * 20)

    def run(self, command, flags, words):
        line = [self.program, command, *self.model, *self.more, *flags, *words]
        for _ in range(N_TRIES):
            done = subprocess.run(line, capture_output=True, text=True, timeout=1800)
            if done.returncode >= 0:
                break
            # Drivers die as well, Mesa's software one now and then while it compiles; that is told at the end.
            self.died.append(f"signal {-done.returncode}: {' '.join(flags)}")
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, line))}\nended with {done.returncode}:\n{done.stderr}")
        return done

    def texts(self, flags):
        greedy = ["--temperature", "0", "--max-tokens", "48", "--ctx", self.n_ctx]
        prompts = [["-p", prompt] for prompt in PROMPTS]
        if self.picture:
            prompts.append(["--image", self.picture, "-p", "What is in this picture?"])
        return [self.run("run", flags + greedy, words).stdout for words in prompts]

    def nll(self, flags):
        words = ["--json", "--chunks", "2", "--ctx", "256", "-p", self.text]
        scores = json.loads(self.run("perplexity", flags, words).stdout)
        return scores["nll"] / scores["n_tokens"]

    def places(self, flags):
        """What the program says of where things went."""
        said = self.run("run", flags + ["--max-tokens", "1", "--ctx", self.n_ctx], ["-p", "Hi"]).stderr
        return [line for line in said.splitlines() if "layers" in line]


def cases(devices, n_layer):
    half = (n_layer + 1) // 2
    for n_gpu in range(1, min(len(devices), 2) + 1):
        names = ["--device", ",".join(devices[:n_gpu])]
        for layers in [0, half, n_layer + 1] if n_gpu == 1 else [half, n_layer + 1]:
            for kv in [[], ["--no-kv-offload"]]:
                yield [*names, "--gpu-layers", str(layers), *kv]
    for layers in [half, n_layer + 1] if len(devices) > 1 else []:
        yield ["--device", ",".join(devices[:2]), "--gpu-layers", str(layers), "--split-mode", "tensor"]
    yield ["--device", devices[0], "--flash-attn", "off"]
    yield ["--device", devices[0], "--override-tensor", "ffn_(up|down)=CPU"]
    yield ["--device", devices[0], "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gust", default=REPO / "target/release/gust", type=Path)
    parser.add_argument("--device", required=True, help="names, with commas; the first two are used")
    parser.add_argument("-m", "--model", type=Path)
    parser.add_argument("--ctx", default=1024, type=int)
    parser.add_argument("--layers", type=int, help="of the model [asked from gust]")
    parser.add_argument("--picture", default=PICTURE, type=Path, help="none: ''")
    argv, more = sys.argv[1:], []
    if "--" in argv:
        argv, more = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    args = parser.parse_args(argv)
    args.more = more
    args.picture = args.picture if str(args.picture) not in ("", ".") and args.picture.exists() else None
    gust = Gust(args)
    devices = args.device.split(",")
    n_layer = args.layers
    if not n_layer:
        said = gust.places(["--device", "none"])
        n_layer = int(said[0].split("all ")[1].split()[0])
    expected, nlls, n_bad = {}, {}, 0
    for flags in cases(devices, n_layer):
        types = tuple(flags[flags.index("--cache-type-k") :]) if "--cache-type-k" in flags else ()
        if types not in expected:
            expected[types] = gust.texts(["--device", "none", *types])
            nlls[types] = gust.nll(["--device", "none", *types])
        start = time.monotonic()
        texts, nll = gust.texts(flags), gust.nll(flags)
        apart = abs(nll - nlls[types])
        same = sum(a == b for a, b in zip(texts, expected[types]))
        is_good = same == len(texts) and apart <= (MAX_NLL_QUANTIZED if types else MAX_NLL)
        n_bad += not is_good
        seconds = time.monotonic() - start
        print(f"{'ok ' if is_good else 'BAD'} {same}/{len(texts)} texts, NLL {apart:.1e} apart, {seconds:.0f} s: {' '.join(flags)}", flush=True)
        for line in gust.places(flags) if not is_good else []:
            print("      ", line)
    for why in gust.died:
        print(f"died and was run again: {why}")
    sys.exit(n_bad > 0)


if __name__ == "__main__":
    main()
