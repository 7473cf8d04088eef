"""TRIM against section 7 of the specification, in float64 with Python loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.reduction.base import FamilyAware, Signal, Signals, Site, TextAware
from steadyvlm.reduction.trim import Trim


def made(tokens: int, seed: int) -> tuple[Signals, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.randn(tokens, generator=generator) * 1.5
    return Signals(tokens, has_cls=True, text_relevance=relevance), torch.randn(tokens + 1, 12, generator=generator)


def reference(relevance: list[float], ratio: float | None, sign: int) -> list[int]:
    """The kept patches in raster order."""
    powers = [math.exp(sign * value) for value in relevance]
    scores = [power / sum(powers) for power in powers]
    if ratio is None:
        q1, q3 = np.percentile(scores, [25, 75])
        ratio = sum(score > q3 + 1.5 * (q3 - q1) for score in scores) / len(scores)
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(ranked[: int(len(scores) * ratio)])


@pytest.mark.parametrize("tokens", [36, 144, 576])
@pytest.mark.parametrize("ratio", [None, 0.21, 0.5])
@pytest.mark.parametrize(("rule", "sign"), [("code", -1), ("paper", 1)])
def test_it_agrees_with_a_float64_reimplementation(tokens: int, ratio: float | None, rule: Any, sign: int) -> None:
    for seed in range(3):
        signals, rows = made(tokens, seed)
        relevance = signals.require(Signal.TEXT_RELEVANCE).double().tolist()
        kept = reference(relevance, ratio, sign)
        selection = Trim(keep_ratio="auto" if ratio is None else ratio, rule=rule).select(signals, Site())
        assert [row - 1 for row in selection.keep.tolist()][:-1] == kept
        assert selection.mix is not None
        hidden = rows.double().numpy()[1:]
        rest = [patch for patch in range(tokens) if patch not in kept]
        expected = np.stack([*(hidden[patch] for patch in kept), np.mean([hidden[patch] for patch in rest], axis=0)])
        np.testing.assert_allclose((selection.mix @ rows).numpy(), expected, atol=1e-5)
        strongest = max(rest, key=lambda patch: (sign * relevance[patch], -patch))
        assert selection.keep[-1].item() == strongest + 1


def test_the_code_and_the_paper_keep_opposite_ends() -> None:
    signals = Signals(4, has_cls=True, text_relevance=torch.tensor([3.0, -3.0, 0.0, 1.0]))
    assert Trim(keep_ratio=0.25).select(signals, Site()).keep.tolist() == [2, 3]
    assert Trim(keep_ratio=0.25, rule="paper").select(signals, Site()).keep.tolist() == [1, 4]


def test_nothing_kept_leaves_the_mean_and_everything_kept_leaves_it_out() -> None:
    signals, _ = made(36, seed=1)
    nothing = Trim(keep_ratio=0.0).select(signals, Site())
    assert nothing.keep.numel() == 1
    assert nothing.mix is not None
    torch.testing.assert_close(nothing.mix, torch.cat([torch.zeros(1), torch.full((36,), 1 / 36)])[None])
    flat = Trim().select(Signals(36, has_cls=True, text_relevance=torch.ones(36)), Site())
    assert flat.keep.tolist() == [1], "equal patches have no outliers"
    everything = Trim(keep_ratio=1.0).select(signals, Site())
    assert everything.keep.tolist() == list(range(1, 37))
    assert everything.mix is None


def test_large_products_do_not_overflow() -> None:
    signals = Signals(144, has_cls=True, text_relevance=torch.linspace(-250, 250, 144))
    keep = Trim(keep_ratio=0.1).select(signals, Site()).keep
    assert keep.tolist()[:-1] == list(range(1, 15))


def test_what_it_says_of_itself() -> None:
    method = Trim(text_tower="some/clip")
    assert isinstance(method, TextAware)
    assert method.text_tower == "some/clip"
    assert method.needs == {Signal.TEXT_RELEVANCE}
    assert method.sites(32) == (Site(),)
    assert method.compact_positions
    assert isinstance(method, FamilyAware)
    assert set(method.refusals) == {"llava_next", "qwen2_vl", "qwen2_5_vl"}
    assert not method.equivalents
    assert method.select(Signals(0), Site()).keep.numel() == 0


@pytest.mark.parametrize("options", [{"keep_ratio": 1.1}, {"keep_ratio": "some"}, {"text_tower": " "}])
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"trim: {next(iter(options))}"):
        Trim(**options)


def test_an_unknown_rule_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'paper'"):
        Trim(rule="papers")  # type: ignore[arg-type]  # what a recipe could hold
