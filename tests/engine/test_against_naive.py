"""Reduced answers equal those of the slow and obvious way: full attention matrices, dense masks, no cache, no batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
from steadyvlm.engine import Request, generate
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.records import Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from tiny import make_image, tiny_llava
from tiny_families import make_family

STEPS = 5
ENDS = tuple(range(2, 271, 15))
REQUESTS = (
    Request((make_image(10),), "what is the colour?", 1),
    Request((make_image(11), make_image(12, 60, 30)), "is the star the same red?", 2),
    Request((), "how?", 3),
)


@dataclass(frozen=True)
class Pyramid:
    """Several layers, by the attention of the layer before, with positions re-numbered or kept."""

    compact_positions: bool
    layers: tuple[int, ...] = (1, 2, 3)
    needs = frozenset({Signal.LAST_QUERY_ATTENTION})

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return tuple(Site(layer) for layer in self.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        scores = signals.require(Signal.LAST_QUERY_ATTENTION).mean(0)
        return Selection(scores.topk(signals.num_tokens // 2).indices.sort().values)


@dataclass(frozen=True)
class MergePairs:
    """Every kept token becomes a weighted mean of itself and the token it replaces."""

    compact_positions: bool = True
    needs = frozenset[Signal]()

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(1), Site(3))

    def select(self, signals: Signals, site: Site) -> Selection:
        keep = torch.arange(0, max(signals.num_tokens - 1, 0), 2)
        mix = torch.zeros(len(keep), signals.num_tokens)
        mix[torch.arange(len(keep)), keep] = 0.75
        mix[torch.arange(len(keep)), keep + 1] = 0.25
        return Selection(keep, mix)


@dataclass(frozen=True)
class Everything:
    """Reads every signal of the decoder at adjacent layers, orders tokens by it, and merges the two it likes least."""

    compact_positions: bool = True
    needs = frozenset(signal for signal in Signal if not signal.of_encoder) - {Signal.QUANTIZATION_RESIDUAL}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(1), Site(2), Site(3))

    def raters(self, visual: Tensor, text: Tensor) -> Tensor:
        likes = (text @ visual.T).mean(1)
        return (likes >= likes.median()).nonzero()[:, 0]

    def select(self, signals: Signals, site: Site) -> Selection:
        hidden, text = signals.require(Signal.HIDDEN), signals.require(Signal.TEXT_HIDDEN)
        scores = (
            20 * signals.require(Signal.LAST_QUERY_ATTENTION).mean(0)
            + 20 * signals.require(Signal.FRESH_QUERY_ATTENTION).mean(0)
            + 20 * signals.require(Signal.RATER_ATTENTION).mean((0, 1))
            + signals.require(Signal.RATER_ROTARY).mean(0)
            + 0.05 * (hidden @ text.T).mean(1)
            + 0.2 * signals.require(Signal.ATTENTION_OUTPUT).mean(1)
            + 30 * signals.require(Signal.QUESTION_ATTENTION)
            + 30 * signals.require(Signal.VISUAL_ATTENTION)
            + 0.1 * signals.require(Signal.HIDDEN_BEFORE).mean(1)
            + 0.1 * signals.images
            + 0.001 * signals.original_tokens
        )
        order = scores.argsort(descending=True)
        kept = order[: max(2, 2 * signals.num_tokens // 3)]
        if not self.compact_positions:
            kept = kept.sort().values
        mix = torch.zeros(len(kept), signals.num_tokens)
        mix[torch.arange(len(kept)), kept] = 1.0
        mix[len(kept) // 2, order[-2:]] += 0.5
        return Selection(kept, mix)


@dataclass(frozen=True)
class Fresh:
    """Acts before layer 0, on what the last token would see there."""

    compact_positions: bool = True
    needs = frozenset({Signal.FRESH_QUERY_ATTENTION})
    layers: tuple[int, ...] = field(default=(0, 2))

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return tuple(Site(layer) for layer in self.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        scores = signals.require(Signal.FRESH_QUERY_ATTENTION).mean(0)
        return Selection(scores.topk(signals.num_tokens // 2).indices.sort().values)


METHODS: dict[str, Reduction] = {
    "keep_all": REDUCTIONS.create("keep_all"),
    "fastv": REDUCTIONS.create("fastv(layer=2, keep_ratio=0.3)"),
    "fastv-late": REDUCTIONS.create("fastv(layer=3, keep_ratio=0.1)"),
    "fastv-none-left": REDUCTIONS.create("fastv(layer=1, keep_ratio=0.0)"),
    "visionzip": REDUCTIONS.create("visionzip(dominant=9, contextual=4)"),
    "prumerge": REDUCTIONS.create("prumerge"),
    "hired": REDUCTIONS.create("hired(keep_ratio=0.4)"),
    "downsample": REDUCTIONS.create("downsample(keep_ratio=0.4)"),
    "random-encoder": REDUCTIONS.create("random(keep_ratio=0.4)"),
    "random-layer-0": REDUCTIONS.create("random(layer=0, keep_ratio=0.4)"),
    "pyramid-compact": Pyramid(compact_positions=True),
    "pyramid-original": Pyramid(compact_positions=False),
    "merge-compact": MergePairs(),
    "merge-original": MergePairs(compact_positions=False),
    "everything-compact": Everything(),
    "everything-original": Everything(compact_positions=False),
    "fresh": Fresh(),
    "divprune": REDUCTIONS.create("divprune(keep_ratio=0.3)"),
    "lofi": REDUCTIONS.create("lofi(beta=2.0)"),
    "pyramiddrop": REDUCTIONS.create("pyramiddrop(layers=(1, 2), keep_ratios=(0.6, 0.3))"),
    "sparsevlm": REDUCTIONS.create("sparsevlm(layers=(0, 2), keep=(20, 8))"),
    "sparsevlm-first": REDUCTIONS.create("sparsevlm(version='first', layers=(0, 1), scale=2.0)"),
    "sparsevlm_plus": REDUCTIONS.create("sparsevlm_plus(layers=(0, 2), keep=(20, 8), heads=2)"),
    "vtw": REDUCTIONS.create("vtw(layer=2)"),
    "vtw-reindexed": REDUCTIONS.create("vtw(layer=2, reindex=True)"),
    "quota": REDUCTIONS.create("quota(layers=[2], keep_ratios='uniform')"),
    "quota-own": REDUCTIONS.create("quota(layers=[2, 3], keep_ratios='uniform', apply='own', scope='image')"),
}
BACKBONES: dict[str, dict[str, Any]] = {
    "llama": {"text": "llama"},
    "mistral-window": {"text": "mistral", "sliding_window": 25},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_answers_and_log_probabilities_match(backbone: str, method: str) -> None:
    check(tiny_llava(eos=ENDS, **BACKBONES[backbone]), METHODS[method])


@pytest.mark.parametrize(
    "method", ["random-encoder", "fastv", "pyramid-compact", "everything-compact", "everything-original", "fresh"]
)
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_tiles_and_three_axes_match(family: str, method: str) -> None:
    check(make_family(family), METHODS[method])


def check(model: VisionLanguageModel, method: Reduction) -> None:
    results = generate(model, REQUESTS, method, max_new_tokens=STEPS, top_k=8)
    for request, got in zip(REQUESTS, results, strict=True):
        with torch.no_grad():
            ids, first = naive.answer(model, request, method, STEPS)
        assert isinstance(got, Generation), got
        assert list(got.token_ids) == ids
        best = first.topk(8)
        assert [item.token_id for item in got.top] == best.indices.tolist()
        assert [item.logprob for item in got.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert got.margin == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-4)
