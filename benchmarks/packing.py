"""How fast weights are rounded, packed and unpacked, beside a plain copy of the same memory.

First one matrix of a 7B model (11008 x 4096, bfloat16): a copy of its bytes into a new place is the least that anything
that touches every weight must do. Then decoder layers of half that width, block by block from drawn weights to files,
as a model larger than memory is packed: round-to-nearest, which only rounds, and the rotation, which first folds its
matrices into every weight in float64. The last column is what the linears of LLaVA-1.5-7B would take at that rate.

Run: `python -m benchmarks.packing`
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.engine_vs_generate import random_llava
from steadyvlm.calibration.streaming import pack
from steadyvlm.calibration.weight_sources import RandomWeights
from steadyvlm.quantization.base import BlockQuantizer
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.integer import quantize_weight
from steadyvlm.quantization.nibbles import pack4, sixteenfold, unpack4
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4

ROUNDS = 5
LINEARS_7B = 6_476_005_376 + 301_989_888 + 20_971_520
"""Weights of LLaVA-1.5-7B's linears: language model, vision tower, connector."""


def median_seconds(work: Callable[[], object]) -> float:
    """Return the median time of a call, the first one not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def one_matrix(outputs: int = 11008, inputs: int = 4096) -> dict[str, float]:
    """Print and return seconds of each step on one matrix."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(torch.bfloat16)
    codes, _ = quantize_weight(weight, 4)
    packed = pack4(codes)
    steps: dict[str, Callable[[], object]] = {
        "copy": weight.clone,
        "round to 4 bits": lambda: quantize_weight(weight, 4),
        "pack": lambda: pack4(codes),
        "unpack, in order": lambda: unpack4(packed, inputs),
        "unpack, for a product": lambda: sixteenfold(packed),
    }
    seconds = {name: median_seconds(work) for name, work in steps.items()}
    for name, taken in seconds.items():
        millions, bytes_read = weight.numel() / taken / 1e6, weight.nbytes / taken / 1e6
        print(
            f"  {name:<24} {taken * 1000:8.1f} ms   {millions:8.0f} million weights/s   {bytes_read:8.0f} MB/s of "
            f"bfloat16   {taken / seconds['copy']:6.1f} copies"
        )
    return seconds


def whole_blocks(name: str, quantizer: BlockQuantizer, source: Path, out: Path) -> float:
    """Pack a model from drawn weights to files; print and return million weights per second of packing alone."""
    made = pack(source, quantizer, out, text=name, weights=RandomWeights(), dtype="bfloat16")
    weights = sum(layer.shape[0] * layer.shape[1] for layer in made.report.layers)
    rate = weights / made.packing_seconds
    print(
        f"  {name:<24} {weights / 1e6:8.1f} million weights in {made.packing_seconds:6.1f} s: "
        f"{rate / 1e6:6.1f} million/s; drawing them {made.reading_seconds:5.1f} s, writing files "
        f"{made.writing_seconds:5.2f} s; LLaVA-1.5-7B in {LINEARS_7B / rate / 60:.1f} minutes"
    )
    return rate / 1e6


def main() -> None:
    """Print both tables."""
    print(f"packing: {torch.get_num_threads()} threads; a matrix of 11008 x 4096")
    one_matrix()
    print("blocks of width 2048, from drawn weights to files")
    model = random_llava(width=2048, layers=2, heads=16, vision_width=512, vision_layers=2, side=112, patch=14)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        model.module.save_pretrained(source)
        model.write_settings(source)
        del model
        for name, quantizer in (("rtn_w4a4", RTNW4A4()), ("hadamard_w4a4", HadamardW4A4())):
            whole_blocks(name, quantizer, source, Path(folder) / name)


if __name__ == "__main__":
    main()
