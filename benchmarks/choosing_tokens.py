"""What choosing tokens costs beside the prompt it shortens, at the width of a 7B model.

A random LLaVA as wide as LLaVA-1.5-7B (4096, 32 heads, 576 visual tokens of a CLIP tower of ViT-L's width) but few
layers deep reads one picture. Everything a method adds is timed where the engine does it: reading its signals, scoring,
selecting, gathering. Beside it stands the time of one decoder layer from the same run, scaled by counted operations to
the tokens that each of 32 layers would see. The share printed is choosing / 32 layers of the shortened prompt, the
vision tower left out of both, since it is the same for all.

A method that acts at many layers is charged its cost at 576 tokens at every one of its sites in 32 layers, which is an
upper bound once tokens have gone.

Run: `python -m benchmarks.choosing_tokens` (about 6 GB of memory)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.engine_vs_generate import random_llava
from benchmarks.prefill_speedup import QUESTION, picture
from steadyvlm.cost import decoder
from steadyvlm.engine import Request
from steadyvlm.engine.decoder_signals import DecoderSignals
from steadyvlm.engine.prefill import prefill_batch
from steadyvlm.engine.selector import Selector
from steadyvlm.models.llava import Llava
from steadyvlm.models.sizes import sizes_of
from steadyvlm.reduction import REDUCTIONS

ROUNDS = 3
DEPTH = 3
"""Layers of the random model: enough for a site with a layer before and after it."""
FULL = 32
TARGET, TARGET_LOFI = 0.05, 0.10


@dataclass(frozen=True)
class Case:
    """A method at work.

    Attributes:
        name: published setting.
        recipe: the same at `DEPTH` layers, with one site.
        sites: how many sites the setting has in 32 layers.
        counts: visual tokens of the 32 layers.
    """

    name: str
    recipe: str
    sites: int
    counts: tuple[int, ...]


def _fixed(tokens: int, keep_ratio: float) -> Iterator[int]:
    """LoFi's counts at a fixed ratio: what is removed is rounded down, and lives on as one token."""
    for _ in range(FULL):
        yield tokens
        removed = int((1 - keep_ratio) * tokens)
        tokens -= max(0, removed - 1)


def _steps(*parts: tuple[int, int]) -> tuple[int, ...]:
    return tuple(tokens for tokens, layers in parts for _ in range(layers))


CASES = (
    Case("fastv-k2-50", "fastv(layer=1, keep_ratio=0.5)", 1, _steps((576, 2), (288, 30))),
    Case("fastv-k3-75", "fastv(layer=1, keep_ratio=0.25)", 1, _steps((576, 3), (144, 29))),
    Case(
        "pyramiddrop-8-16-24",
        "pyramiddrop(layers=[1], keep_ratios=[0.5])",
        3,
        _steps((576, 8), (288, 8), (144, 8), (72, 8)),
    ),
    Case("sparsevlm-192", "sparsevlm(layers=[0], keep=[300])", 3, _steps((576, 3), (309, 4), (204, 9), (113, 16))),
    Case(
        "sparsevlm-plus-192",
        "sparsevlm_plus(layers=[0], keep=[300])",
        3,
        _steps((576, 3), (300, 4), (200, 9), (118, 16)),
    ),
    Case("vtw-15", "vtw(layer=1)", 1, _steps((576, 15), (0, 17))),
    Case("visionzip-192", "visionzip(dominant=162, contextual=30)", 1, _steps((192, 32))),
    Case("visionzip-64", "visionzip(dominant=54, contextual=10)", 1, _steps((64, 32))),
    Case("hired-20", "hired(keep_ratio=0.2)", 1, _steps((115, 32))),
    Case("prumerge (1/8)", "prumerge(outlier_ratio=0.125)", 1, _steps((73, 32))),
    Case("prumerge-plus-eighth", "prumerge_plus(outlier_ratio=0.125)", 1, _steps((145, 32))),
    Case("divprune-9.8", "divprune(keep_ratio=0.098)", 1, _steps((56, 32))),
    Case("divprune-128", "divprune(keep_ratio=0.2222)", 1, _steps((128, 32))),
    Case(
        "lofi-fixed-90",
        "lofi(keep_ratio=0.9)",
        31,
        tuple(_fixed(576, 0.9)),
    ),
)


@dataclass(frozen=True)
class Share:
    """What choosing costs, as a share of the prefill it acts on."""

    case: Case
    milliseconds: float
    layer_milliseconds: float
    share: float

    def __str__(self) -> str:
        """One line of the table."""
        limit = TARGET_LOFI if self.case.name.startswith("lofi") else TARGET
        verdict = "within" if self.share <= limit else "above"
        return (
            f"{self.case.name:<22} {self.milliseconds:8.1f} ms a site   "
            f"{self.milliseconds / self.layer_milliseconds:6.3f} layers a site   "
            f"share of prefill {self.share:6.1%}   ({verdict} {limit:.0%})"
        )


def main() -> list[Share]:
    """Measure, print and return the shares."""
    model = random_llava(width=4096, layers=DEPTH, heads=32, vision_width=1024, vision_layers=2, side=336, patch=14)
    request = Request((picture(side=336),), QUESTION, 1)
    whole = decoder_seconds(model, request, "keep_all")[1]  # warms up
    print(f"choosing_tokens: width 4096, 576 visual tokens; {torch.get_num_threads()} threads, {ROUNDS} rounds")
    chosen: dict[str, list[float]] = {case.name: [] for case in CASES}
    layers: list[float] = []
    for _ in range(ROUNDS):
        for case in CASES:
            chosen[case.name].append(decoder_seconds(model, request, case.recipe)[0])
        layers.append(decoder_seconds(model, request, "keep_all")[1] / (DEPTH - 1))  # the last layer asks one row only
    layer = statistics.median(layers)
    assert whole > 0
    sizes = sizes_of(model.module.config).decoder
    text = prompt_length(model, request) - 576
    full = decoder.layer(sizes, 576 + text).macs
    shares = []
    for case in CASES:
        cost = statistics.median(chosen[case.name])
        prefill = sum(decoder.layer(sizes, count + text).macs for count in case.counts) / full * layer
        sites_here = 1 if case.sites < FULL - 1 else DEPTH - 1
        share = Share(case, cost / sites_here * 1000, layer * 1000, cost / sites_here * case.sites / prefill)
        print(f"  {share}", flush=True)
        shares.append(share)
    print(f"  one decoder layer at {576 + text} tokens: {layer * 1000:.0f} ms")
    return shares


def decoder_seconds(model: Llava, request: Request, recipe: str) -> tuple[float, float]:
    """Return the seconds one prefill spends on choosing, and those of the decoder without it."""
    reduction = REDUCTIONS.create(recipe)
    watch = Watch()
    spent = Spent()
    with (
        spent.on(Selector, "start"),
        spent.on(Selector, "reduce"),
        spent.on(DecoderSignals, "during_attention"),
        spent.on(DecoderSignals, "after_attention"),
        spent.on(type(reduction), "select", nested=True),
        watch.on(model),
    ):
        prefill_batch(model, [request], reduction, budget=1)
    return spent.seconds, watch.seconds - spent.inside


def prompt_length(model: Llava, request: Request) -> int:
    """Return the tokens of the prompt, visual ones included."""
    return len(model.tokenize(request.prompt, 1)) - 1 + 576


class Spent:
    """Adds up the time inside some methods, never twice where one calls another."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.seconds = 0.0
        self.inside = 0.0
        self._depth = 0

    @contextmanager
    def on(self, owner: type, name: str, *, nested: bool = False) -> Iterator[None]:
        """Time a method; `nested` ones may also run outside the decoder, where they count as choosing alone."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += took
                    self.inside += 0.0 if nested else took

        with patch.object(owner, name, timed):
            yield


class Watch:
    """Times the decoder, from the first embedding to the end of the prompt."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.seconds = 0.0

    @contextmanager
    def on(self, model: Llava) -> Iterator[None]:
        """Start when the model embeds its prompt, stop when the block ends."""
        started = [0.0]
        embed = type(model).embed

        def timed(self: Any, token_ids: torch.Tensor) -> torch.Tensor:
            started[0] = time.perf_counter()
            return embed(self, token_ids)

        with patch.object(type(model), "embed", timed), torch.inference_mode():
            yield
        self.seconds = time.perf_counter() - started[0]


if __name__ == "__main__":
    main()
