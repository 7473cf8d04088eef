"""Section 0.4 of the specification: visual tokens that each of 32 layers processes, of 576, method by method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction, Signal, Signals

LAYERS, TOKENS, HEADS, RATERS, WIDTH = 32, 576, 32, 6, 16

SETTINGS: list[tuple[str, dict[int, int], int]] = [  # recipe, first layer -> count from there on, sum over layers
    ("keep_all", {0: 576}, 18432),
    ("fastv(layer=3, keep_ratio=0.5)", {0: 576, 3: 288}, 10080),
    ("fastv(layer=2, keep_ratio=0.5)", {0: 576, 2: 288}, 9792),
    ("fastv(layer=2, keep_ratio=0.25)", {0: 576, 2: 144}, 5472),
    ("pyramiddrop(layers=[8, 16, 24], keep_ratios=[0.5, 0.25, 0.125])", {0: 576, 8: 288, 16: 144, 24: 72}, 8640),
    ("vtw(layer=15)", {0: 576, 15: 0}, 8640),
    ("vtw(layer=16)", {0: 576, 16: 0}, 9216),
    ("sparsevlm(keep=[300, 200, 110])", {0: 576, 3: 309, 7: 204, 16: 113}, 6608),
    ("sparsevlm(keep=[303, 110, 36])", {0: 576, 3: 312, 7: 117, 16: 39}, 4653),
    ("sparsevlm(keep=[238, 48, 26])", {0: 576, 3: 249, 7: 55, 16: 27}, 3651),
    ("sparsevlm(keep=[66, 30, 17])", {0: 576, 3: 82, 7: 32, 16: 18}, 2632),
    ("sparsevlm_plus(keep=[300, 200, 118])", {0: 576, 3: 300, 7: 200, 16: 118}, 6616),
    ("sparsevlm_plus(keep=[238, 108, 60])", {0: 576, 3: 238, 7: 108, 16: 60}, 4612),
    ("sparsevlm_plus(keep=[246, 54, 28])", {0: 576, 3: 246, 7: 54, 16: 28}, 3646),
    ("sparsevlm_plus(keep=[66, 34, 20])", {0: 576, 3: 66, 7: 34, 16: 20}, 2618),
]


def random_signals(method: Reduction, tokens: int, generator: torch.Generator) -> Signals:
    supply = {
        Signal.LAST_QUERY_ATTENTION: (HEADS, tokens),
        Signal.FRESH_QUERY_ATTENTION: (HEADS, tokens),
        Signal.RATER_ATTENTION: (HEADS, RATERS, tokens),
        Signal.RATER_ROTARY: (RATERS, tokens),
        Signal.HIDDEN: (tokens, WIDTH),
    }
    wanted: dict[str, Any] = {need.value: torch.rand(supply[need], generator=generator) for need in method.needs}
    return Signals(tokens, original_tokens=TOKENS, **wanted)


@pytest.mark.parametrize(("recipe", "schedule", "total"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_visual_tokens_per_layer(recipe: str, schedule: dict[int, int], total: int) -> None:
    method: Reduction = REDUCTIONS.create(recipe)
    sites = {site.layer: site for site in method.sites(LAYERS)}
    generator, left, counts = torch.Generator().manual_seed(0), TOKENS, []
    for layer in range(LAYERS):
        if layer in sites:
            left = method.select(random_signals(method, left, generator), sites[layer]).keep.numel()
        counts.append(left)
    starts = sorted(schedule)
    assert counts == [schedule[max(start for start in starts if start <= layer)] for layer in range(LAYERS)]
    assert sum(counts) == total
