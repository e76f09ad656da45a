#!/usr/bin/env python3
"""Makes tests/golden/convert: what llama.cpp's converter makes of names and model cards.

`names.tsv` has ids of models, a number of weights, and the parts that `gguf.Metadata` takes the id for, with the title
that it makes of it. `cards.json` has model cards and the `general.*` keys that follow from them.
"""

import argparse
import json
import tempfile
from pathlib import Path

from gguf.metadata import Metadata

IDS = """
Mistral-Medium-3.5-128B
mistralai/Mistral-Medium-3.5-128B
mistralai/Mistral-Medium-3.5-128B-EAGLE
mistralai/Mistral-Small-3.1-24B-Instruct-2503
mistralai/Mistral-Small-3.2-24B-Instruct-2506
mistralai/Ministral-3-14B-Instruct-2512
mistralai/Ministral-3-3B-Reasoning-2512-BF16
mistralai/Devstral-2-123B-Instruct-2512
mistralai/Devstral-Small-2-24B-Instruct-2512
mistralai/Magistral-Small-2509
mistralai/Pixtral-12B-2409
mistralai/Pixtral-Large-Instruct-2411
mistralai/Mistral-Large-Instruct-2411
mistralai/Mistral-Nemo-Instruct-2407
mistralai/Mixtral-8x22B-Instruct-v0.1
mistral-community/pixtral-12b
some-one/mistral-medium-3.5-128b-q4_k_m
some-one/Medium-3.5-IQ4_XS
a/b-1_5B
a/bloom-7b1
a/model-7b-32k
a/model-128k
a/model-A3B-chat
a/model-v1.2.3
a/model-iter2
a/model-F16
a/model-bfp32
a/model-large
a/model-large-7B
a/model-xxl-lora
a/-x--y-
a/7B-model
a/7B
a/v2
../folder
./folder
hf
native
native-fp8
fp8
tiny v2 of mine
x
model-3-7B-7B-8B
a/b/c-7B
Été-7B
v3-v4
3-7B
model_7B
a/model-7B1
a/model-1.5.2B
""".strip().splitlines()

N_PARAMS = (0, 124_984_299_520, 7_000_000_000, 5_245_184)

# (folder's name, README.md, _name_or_path in config.json)
CARDS = [
    ("Mistral-Medium-3.5-128B", "", None),
    ("native", "# no front matter\n", None),
    ("hf", "---\nlicense: other\nlicense_name: mrl\nlicense_link: https://x.y/LICENSE\nlanguage:\n- en\n- no\n"
           "library_name: vllm\ninference: false\nbase_model:\n- mistralai/Mistral-Medium-3.5-128B-Base\n"
           "tags:\n- mistral-common\npipeline_tag: image-text-to-text\n---\n# Card\n", None),
    ("x", "---\nname: My Model\nauthor: me\nversion: v2\norganization: us\nfinetune: chat\nbasename: base\n"
          "size_label: 1B\nurl: https://a.b\ndoi: 10.1/x\nuuid: u-u\nrepo_url: https://c.d\n"
          "description: 'it''s #1'\nlicense:\n- mit\n- apache-2.0\ntags: one\nlanguages: [de, fr]\n---\n", "org/other-7B"),
    ("x", "---\nmodel_name: Named\nmodel_creator: maker\nmodel_type: mistral\n---\n", None),
    ("folder-3B", "---\nbase_model: https://huggingface.co/mistralai/Ministral-3-3B-Base-2512\n"
                  "datasets:\n- org/some-data-v1\n- https://x.y/z\n---\n", "mistralai/Ministral-3-3B-Instruct-2512"),
    ("f", "---\nbase_models: [a/b-7B, c]\ndataset: d/e\nlicense: null\ntags: []\nversion: \"\"\n---\n", "/data/models/x-7B"),
    ("q-v3", "---\nname: >-\n  Folded\n  name\ndescription: |\n  Two\n  lines\nlanguage: \"en\"\n---\n", "plain name"),
]


class Keys(list):
    """Takes the place of gguf-py's writer: keeps what is set."""

    def __getattr__(self, name):
        def add(*args):
            self.append([name.removeprefix("add_"), *args])

        return add


def names() -> str:
    lines = []
    for id_ in IDS:
        for n_params in N_PARAMS:
            parts = Metadata.get_model_id_components(id_, n_params)
            fields = [id_, n_params, *parts, Metadata.id_to_title(parts[0])]
            lines.append("\t".join("-none-" if field is None else str(field) for field in fields))
    return "\n".join(lines) + "\n"


def cards() -> list[dict]:
    made = []
    for folder, readme, name_or_path in CARDS:
        for n_params in (2_900_000_000, 5_245_184):
            with tempfile.TemporaryDirectory() as root:
                path = Path(root, folder)
                path.mkdir()
                Path(path, "README.md").write_text(readme)
                if name_or_path is not None:
                    Path(path, "config.json").write_text(json.dumps({"_name_or_path": name_or_path}))
                metadata = Metadata.load(None, path, None, n_params)
                keys = Keys()
                metadata.set_gguf_meta_model(keys)
            case = {"folder": folder, "readme": readme, "name_or_path": name_or_path, "n_params": n_params}
            made.append({**case, "keys": keys})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "names.tsv").write_text(names(), encoding="utf-8")
    (args.out / "cards.json").write_text(json.dumps(cards(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
