"""Reduced answers equal those of the slow and obvious way: full attention matrices, dense masks, no cache, no batch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import naive
from steadyvlm.engine import Request, generate
from steadyvlm.records import Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from tiny import make_image, tiny_llava

STEPS = 5
ENDS = tuple(range(2, 271, 15))
REQUESTS = (
    Request((make_image(10),), "what is the colour?", 1),
    Request((make_image(11), make_image(12)), "is the star the same red?", 2),
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


METHODS: dict[str, Reduction] = {
    "keep_all": REDUCTIONS.create("keep_all"),
    "fastv": REDUCTIONS.create("fastv(layer=2, keep_ratio=0.3)"),
    "fastv-late": REDUCTIONS.create("fastv(layer=3, keep_ratio=0.1)"),
    "fastv-none-left": REDUCTIONS.create("fastv(layer=1, keep_ratio=0.0)"),
    "visionzip": REDUCTIONS.create("visionzip(dominant=9, contextual=4)"),
    "random-encoder": REDUCTIONS.create("random(keep_ratio=0.4)"),
    "random-layer-0": REDUCTIONS.create("random(layer=0, keep_ratio=0.4)"),
    "pyramid-compact": Pyramid(compact_positions=True),
    "pyramid-original": Pyramid(compact_positions=False),
    "merge-compact": MergePairs(),
    "merge-original": MergePairs(compact_positions=False),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", ["llama", "mistral-window"])
def test_answers_and_log_probabilities_match(backbone: str, method: str) -> None:
    options = {"text": "llama"} if backbone == "llama" else {"text": "mistral", "sliding_window": 25}
    model = tiny_llava(eos=ENDS, **options)
    results = generate(model, REQUESTS, METHODS[method], max_new_tokens=STEPS, top_k=8)
    for request, got in zip(REQUESTS, results, strict=True):
        with torch.no_grad():
            ids, first = naive.answer(model, request, METHODS[method], STEPS)
        assert isinstance(got, Generation)
        assert list(got.token_ids) == ids
        best = first.topk(8)
        assert [item.token_id for item in got.top] == best.indices.tolist()
        assert [item.logprob for item in got.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert got.margin == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-4)
