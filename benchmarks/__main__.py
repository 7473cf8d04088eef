"""Run every benchmark, or those named: `python -m benchmarks [engine_vs_generate prefill_speedup …]`."""

from __future__ import annotations

import importlib
import platform
import sys

import torch

NAMES = (
    "engine_vs_generate",
    "prefill_speedup",
    "choosing_tokens",
    "demo_cost",
    "perturb_images",
    "perturb_text",
    "w4a4_linear",
    "packing",
    "low_bit_memory",
    "calibration_time",
)


def main(names: tuple[str, ...]) -> None:
    """Run benchmarks one after another; each prints its own ratios."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.platform()}")
    for name in names:
        if name not in NAMES:
            sys.exit(f"no benchmark is called '{name}'. Known: {', '.join(NAMES)}.")
    for name in names:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
