#!/usr/bin/env python3
"""Makes tests/golden/fp8/e4m3.f32: the values of all 256 codes of torch.float8_e4m3fn, raw little-endian f32."""

import argparse
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "tests/golden/fp8")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    (args.out / "e4m3.f32").write_bytes(values.astype("<f4", copy=False).tobytes())
    assert np.isnan(values).sum() == 2


if __name__ == "__main__":
    main()
