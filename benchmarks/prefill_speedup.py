"""What each method saves of the prompt's cost, beside what it should save.

A random LLaVA with 24 decoder layers and 576 visual tokens (336 x 336 pixels in patches of 14, LLaVA-1.5's layout) and
moderate width reads one picture and a short question. Measured is the decoder's prefill, from embeddings to the last
hidden state, relative to `keep_all`; the vision encoder is the same for all. Beside it stands the ratio of operations
from `cost/decoder.py`, the last layer asking for one row only, and how much of the possible saving was reached. All
methods run in turn, round after round.

Run: `python -m benchmarks.prefill_speedup`
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from benchmarks.engine_vs_generate import random_llava
from steadyvlm.cost import DecoderSizes, decoder
from steadyvlm.engine import Request
from steadyvlm.engine.generate import generate
from steadyvlm.models.llava import Llava
from steadyvlm.models.sizes import decoder_sizes
from steadyvlm.recipes import accelerate
from steadyvlm.records import Generation

ROUNDS = 5
RECIPES = (
    "keep_all",
    "fastv-k3-50",
    "fastv-k2-75",
    "pyramiddrop-8-16-24",
    "sparsevlm-192",
    "sparsevlm-plus-192",
    "vtw-15",
    "visionzip-192",
    "visionzip-64",
    "hired-20",
    "prumerge-plus-eighth",
    "divprune-128",
    "downsample(keep_ratio=0.25)",
    "lofi-fixed-90",
    "lofi-4",
)
"""Published settings, scaled to the depth of this model. TRIM needs a text tower and LVPruning trained modules, which a
random model has not; their prefill is that of VisionZip and FastV at the same counts."""
QUESTION = "What is written on the sign behind the man in the red jacket? Answer with a single word."


@dataclass(frozen=True)
class Saving:
    """Prefill of one method relative to `keep_all`, measured and counted."""

    recipe: str
    time_ratio: float
    flops_ratio: float
    milliseconds: float

    def __str__(self) -> str:
        """One line of the table."""
        reached = (1 - self.time_ratio) / (1 - self.flops_ratio) if self.flops_ratio < 1 else 1.0
        return (
            f"{self.recipe:<42} {self.milliseconds:8.0f} ms   time {self.time_ratio:5.3f}   "
            f"operations {self.flops_ratio:5.3f}   saving reached {reached:4.0%}"
        )


def main() -> list[Saving]:
    """Measure, print and return the savings."""
    model = random_llava(width=384, layers=24, heads=6, vision_width=128, vision_layers=4, side=336, patch=14)
    request = Request((picture(side=336),), QUESTION, 1)
    print(f"prefill_speedup: 24 layers of width 384, 576 visual tokens; {torch.get_num_threads()} threads")
    times: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    flops: dict[str, int] = {}
    for round_number in range(ROUNDS + 1):
        for recipe in RECIPES:
            seconds, operations = prefill_once(model, request, recipe)
            flops[recipe] = operations
            if round_number:  # the first round warms up
                times[recipe].append(seconds)
    savings = []
    for recipe in RECIPES:
        ratios = [own / whole for own, whole in zip(times[recipe], times["keep_all"], strict=True)]
        milliseconds = statistics.median(times[recipe]) * 1000
        saving = Saving(recipe, statistics.median(ratios), flops[recipe] / flops["keep_all"], milliseconds)
        print(f"  {saving}", flush=True)
        savings.append(saving)
    return savings


def prefill_once(model: Llava, request: Request, recipe: str) -> tuple[float, int]:
    """Return the seconds and the counted operations of one prefill."""
    reduction = accelerate(model, recipe).reduction
    watch = Stopwatch(model)
    (result,) = generate(watch, [request], reduction, max_new_tokens=1)
    assert isinstance(result, Generation), result
    visual = result.cost.visual_tokens_per_layer
    tokens = [count + result.cost.text_tokens for count in visual]
    return watch.seconds, decoder_operations(decoder_sizes(model.info), tokens)


def decoder_operations(sizes: DecoderSizes, tokens: list[int]) -> int:
    """Return the multiplications of the layers as this engine runs them: the last one for the last position only."""
    whole = sum(decoder.layer(sizes, count).macs for count in tokens[:-1])
    return whole + decoder.last_layer(sizes, tokens[-1]).macs


def picture(side: int) -> Image.Image:
    """Return a blocky random picture."""
    blocks = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side))


class Stopwatch(Llava):
    """The same model, noting the time from the first embedding to the first logits."""

    def __init__(self, model: Llava) -> None:
        """Share everything with `model`."""
        self.__dict__.update(model.__dict__)
        self.seconds = 0.0
        self._started = 0.0

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Start the watch: this is the decoder's first step."""
        self._started = time.perf_counter()
        return super().embed(token_ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Stop the watch: the prompt has gone through all layers."""
        self.seconds = time.perf_counter() - self._started
        return super().logits(hidden)


if __name__ == "__main__":
    main()
