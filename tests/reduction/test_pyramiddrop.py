from __future__ import annotations

import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware, Signal, Signals, Site
from steadyvlm.reduction.pyramiddrop import PyramidDrop
from steadyvlm.registry import spec_of


def reference(attention: torch.Tensor, original: int, ratio: float) -> list[int]:
    """Section 3 of the specification, in float64 with Python loops."""
    heads, tokens = attention.shape
    table = attention.double().tolist()
    scores = [sum(table[h][i] for h in range(heads)) / heads for i in range(tokens)]
    ranked = sorted(range(tokens), key=lambda i: (-scores[i], i))
    return sorted(ranked[: int(original * ratio)])


@pytest.mark.parametrize("tokens", [36, 45, 64, 144, 576])
@pytest.mark.parametrize("ratios", [(0.5, 0.25, 0.125), (0.9, 0.37, 0.1)])
def test_every_stage_agrees_with_a_float64_reimplementation(tokens: int, ratios: tuple[float, ...]) -> None:
    method, left = PyramidDrop(keep_ratios=ratios), tokens
    for site, ratio in zip(method.sites(32), ratios, strict=True):
        logits = torch.randn(32, left + 70, generator=torch.Generator().manual_seed(left)) * 3
        attention = logits.softmax(dim=-1)[:, 35 : 35 + left]  # not renormalised over the image
        selection = method.select(Signals(left, original_tokens=tokens, fresh_query_attention=attention), site)
        assert selection.keep.tolist() == reference(attention, tokens, ratio)
        assert selection.mix is None
        left = selection.keep.numel()
        assert left == int(tokens * ratio)


def test_counts_round_towards_zero_from_the_original_number() -> None:
    counts, method = [], PyramidDrop()
    for left, site in zip((45, 22, 11), method.sites(32), strict=True):
        signals = Signals(left, original_tokens=45, fresh_query_attention=torch.rand(4, left))
        counts.append(method.select(signals, site).keep.numel())
    assert counts == [22, 11, 5]


@pytest.mark.parametrize("original", [1, 3, 7])
def test_tiny_pictures_may_lose_every_token(original: int) -> None:
    signals = Signals(original, original_tokens=original, fresh_query_attention=torch.rand(4, original))
    assert PyramidDrop().select(signals, Site(24)).keep.numel() == 0


def test_it_asks_the_layer_that_comes_next_and_renumbers() -> None:
    assert PyramidDrop().needs == {Signal.FRESH_QUERY_ATTENTION}
    assert PyramidDrop().sites(32) == (Site(8), Site(16), Site(24))
    assert PyramidDrop().compact_positions


def test_without_an_image_it_keeps_nothing() -> None:
    assert PyramidDrop().select(Signals(0), Site(8)).keep.numel() == 0


@pytest.mark.parametrize(
    "text",
    [
        "pyramiddrop",
        "pyramiddrop(layers=[8, 16, 24], keep_ratios=[0.5, 0.25, 0.125])",
        "pyramiddrop(keep_ratios=(0.5, 0.25, 0.125))",
    ],
)
def test_either_bracket_is_one_recipe(text: str) -> None:
    method = REDUCTIONS.create(text)
    assert hash(method) == hash(PyramidDrop())
    assert str(spec_of(method, "pyramiddrop")) == ("pyramiddrop(keep_ratios=(0.5, 0.25, 0.125), layers=(8, 16, 24))")


@pytest.mark.parametrize(
    "options",
    [
        {"layers": (8, 8, 24)},
        {"layers": (8, 16)},
        {"keep_ratios": (0.25, 0.5, 0.1)},
        {"keep_ratios": (0.5, 0.25)},
        {"layers": 8},
        {"keep_ratios": (0.5, 0.25, -0.1)},
    ],
)
def test_schedules_that_make_no_sense_are_refused(options: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InvalidOption, match="pyramiddrop: "):
        PyramidDrop(**options)


def test_a_layer_beyond_the_model_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"pyramiddrop: layer=16 .* 12 layers"):
        PyramidDrop().sites(12)


def test_it_says_what_becomes_of_three_dimensional_positions() -> None:
    method = PyramidDrop()
    assert isinstance(method, FamilyAware)
    assert set(method.equivalents) == {"qwen2_vl", "qwen2_5_vl"}
    assert not method.refusals
