from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Signal, Signals, Site
from steadyvlm.reduction.fastv import FastV

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "reductions_by_hand.json").read_text())


def reference(attention: np.ndarray[Any, Any], keep_ratio: float) -> list[int]:
    """Section 1 of the specification, word for word, in float64 with Python loops."""
    heads, tokens = attention.shape
    scores = [sum(float(attention[h, i]) for h in range(heads)) / heads for i in range(tokens)]
    ranked = sorted(range(tokens), key=lambda i: (-scores[i], i))
    return sorted(ranked[: round(tokens * keep_ratio)])


def test_golden_by_hand() -> None:
    attention = torch.tensor(GOLDEN["fastv"]["attention_sixteenths"]) / 16
    for ratio, keep in GOLDEN["fastv"]["keep"].items():
        selection = FastV(layer=2, keep_ratio=float(ratio)).select(
            Signals(num_tokens=6, last_query_attention=attention), Site(2)
        )
        assert selection.keep.tolist() == keep
        assert selection.mix is None


@pytest.mark.parametrize(("tokens", "keep_ratio", "kept"), GOLDEN["fastv_counts"]["rows"])
def test_budgets_round_half_to_even(tokens: int, keep_ratio: float, kept: int) -> None:
    signals = Signals(num_tokens=tokens, last_query_attention=torch.rand(4, tokens))
    assert FastV(keep_ratio=keep_ratio).select(signals, Site(3)).keep.numel() == kept


@pytest.mark.parametrize(("layer", "removed"), [(2, 0.5), (2, 0.75), (3, 0.5), (3, 0.75)])
@pytest.mark.parametrize("tokens", [36, 144, 576])
def test_published_settings_agree_with_a_float64_reimplementation(layer: int, removed: float, tokens: int) -> None:
    for seed in range(5):
        logits = torch.randn(32, tokens + 60, generator=torch.Generator().manual_seed(seed)) * 3
        attention = logits.softmax(dim=-1)[:, :tokens]  # not renormalised over the image
        method = FastV(layer=layer, keep_ratio=1 - removed)
        selection = method.select(Signals(num_tokens=tokens, last_query_attention=attention), Site(layer))
        assert selection.keep.tolist() == reference(attention.double().numpy(), 1 - removed)


def test_it_reads_one_attention_row_and_acts_before_its_layer() -> None:
    assert FastV().needs == {Signal.LAST_QUERY_ATTENTION}
    assert FastV(layer=2).sites(12) == (Site(2),)
    assert not FastV().compact_positions


def test_layer_zero_is_refused() -> None:
    with pytest.raises(InvalidOption, match="fastv: layer=0"):
        FastV(layer=0)


def test_whole_ratios_are_one_recipe() -> None:
    assert repr(FastV(keep_ratio=1)) == repr(FastV(keep_ratio=1.0))
