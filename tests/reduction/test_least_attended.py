from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steadyvlm.reduction.base import Signal, Signals, Site
from steadyvlm.reduction.fastv import FastV
from steadyvlm.reduction.least_attended import LeastAttended

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "reductions_by_hand.json").read_text())


def test_golden_by_hand() -> None:
    attention = torch.tensor(GOLDEN["fastv"]["attention_sixteenths"]) / 16
    for ratio, keep in GOLDEN["fastv"]["keep_least"].items():
        method = LeastAttended(layer=2, keep_ratio=float(ratio))
        assert method.select(Signals(6, last_query_attention=attention), Site(2)).keep.tolist() == keep


@pytest.mark.parametrize("keep_ratio", [0.25, 0.5, 0.75])
def test_it_keeps_what_fastv_would_drop(keep_ratio: float) -> None:
    attention = torch.rand(8, 144, generator=torch.Generator().manual_seed(4))
    signals = Signals(num_tokens=144, last_query_attention=attention)
    worst = LeastAttended(layer=2, keep_ratio=keep_ratio).select(signals, Site(2)).keep
    best = FastV(layer=2, keep_ratio=1 - keep_ratio).select(signals, Site(2)).keep
    assert sorted([*worst.tolist(), *best.tolist()]) == list(range(144))


def test_it_acts_exactly_as_fastv_does() -> None:
    ours, theirs = LeastAttended(layer=5), FastV(layer=5)
    assert ours.needs == theirs.needs == {Signal.LAST_QUERY_ATTENTION}
    assert ours.sites(12) == theirs.sites(12) == (Site(5),)
    assert ours.compact_positions is theirs.compact_positions is False
