"""How long FlatQuant takes to learn one block, and what a step costs beside the block's own forward pass.

A step rounds everything in the block with the transforms of that moment, runs it forwards and backwards and moves the
parameters; the least any method of this kind must do is to run the block once. Both are measured on the same batch of
four samples: for a block of each part of the pocket models, and for a decoder layer of width 512 reading 576 visual
tokens. The last column is all steps of such a block at the default settings, 15 epochs of 128 samples.

Run: `python -m benchmarks.calibration_time`
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.engine_vs_generate import random_llava
from benchmarks.prefill_speedup import QUESTION, picture
from steadyvlm.calibration.capture import BlockInputs, block_inputs
from steadyvlm.calibration.examples import Wanted, examples_of
from steadyvlm.calibration.flatquant import learn
from steadyvlm.engine import Request
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.load import load
from steadyvlm.quantization.block_simulation import SimulatedBlock
from steadyvlm.quantization.flatquant import FlatQuant
from steadyvlm.quantization.structure import Part

DEFAULT = FlatQuant()
ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """Times of one block, in seconds."""

    model: str
    block: str
    forward: float
    step: float

    @property
    def whole(self) -> float:
        """All steps at the default settings."""
        return self.step * DEFAULT.epochs * DEFAULT.samples / DEFAULT.batch

    def __str__(self) -> str:
        """One line of the table."""
        forwards = self.step / self.forward
        return (
            f"{self.model:<12} {self.block:<36} forward {self.forward * 1000:6.1f} ms   "
            f"step {self.step * 1000:6.1f} ms ({forwards:5.1f} forwards)   all steps {self.whole:5.0f} s"
        )


def main() -> list[Row]:
    """Measure, print and return the table."""
    print(f"calibration_time: {torch.get_num_threads()} threads, batches of {DEFAULT.batch} samples")
    table = []
    for name in ("pocket", "pocket-qwen"):
        model = load(name, device="cpu", dtype="float32")
        examples = examples_of(Wanted("auto", DEFAULT.batch, 0), model)
        for part in ("vision", "connector", "language"):
            table.append(measure(name, model, examples, part))
            print(f"  {table[-1]}", flush=True)
    wide = random_llava(width=512, layers=1, heads=4, vision_width=64, vision_layers=2, side=336, patch=14)
    requests = [Request((picture(side=336),), f"{number}: {QUESTION}", 1) for number in range(DEFAULT.batch)]
    table.append(measure("width 512", wide, requests, "language"))
    print(f"  {table[-1]}", flush=True)
    return table


def measure(name: str, model: VisionLanguageModel, examples: list[Request], part: Part) -> Row:
    """Measure the first block of one part."""
    with torch.no_grad():
        inputs = next(iter(block_inputs(model, examples, part, batch=DEFAULT.batch)))
    batch = inputs.batches[0]
    exact = SimulatedBlock(inputs.block, model.module, DEFAULT.settings)
    with torch.no_grad():
        forward = median(lambda: exact(batch.hidden.float(), batch.context))
    few, more = (seconds_to_learn(inputs, model, epochs) for epochs in (1, 4))
    return Row(name, inputs.block.path, forward, (more - few) / 3 / len(inputs.batches))


def seconds_to_learn(inputs: BlockInputs, model: VisionLanguageModel, epochs: int) -> float:
    """Return the time a block takes to learn for so many epochs, all preparations included."""
    quantizer = dataclasses.replace(DEFAULT, epochs=epochs)
    return median(lambda: learn(inputs, model, quantizer))


def median(work: Callable[[], object]) -> float:
    """Return the median time of a call, the first one not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
