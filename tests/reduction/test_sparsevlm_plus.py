from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import sparse_reference as reference
from steadyvlm.errors import InvalidOption
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware, Rating, Signal, Signals, Site
from steadyvlm.reduction.sparsevlm_plus import SparseVLMPlus
from steadyvlm.registry import spec_of

BUDGETS = [(300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20)]


def random_signals(tokens: int, seed: int, *, heads: int = 32, raters: int = 6, original: int = 576) -> Signals:
    """Attention of raters after the image, and the rotary correction of their distances (head width 64)."""
    generator = torch.Generator().manual_seed(seed)
    attention = (torch.randn(heads, raters, tokens + 60, generator=generator) * 2).softmax(-1)[..., 35 : 35 + tokens]
    angles = 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    distance = torch.arange(raters)[:, None] + 35 + original - torch.arange(tokens)[None]
    rotary = 2 / math.sqrt(64) * torch.cos(distance[..., None] * angles).sum(-1)
    return Signals(tokens, original_tokens=original, rater_attention=attention, rater_rotary=rotary.to(torch.float32))


def expected(signals: Signals, heads: int, keep: int) -> list[int]:
    attention = signals.require(Signal.RATER_ATTENTION).double().numpy()
    scores = reference.plus_scores(attention, signals.require(Signal.RATER_ROTARY).double().numpy(), heads)
    return sorted(reference.ranking(scores)[:keep])


@pytest.mark.parametrize("budget", BUDGETS)
def test_published_settings_agree_with_a_float64_reimplementation(budget: tuple[int, ...]) -> None:
    method, tokens = SparseVLMPlus(keep=budget), 576
    for site, keep in zip(method.sites(32), budget, strict=True):
        signals = random_signals(tokens, seed=tokens)
        selection = method.select(signals, site)
        assert selection.keep.tolist() == expected(signals, 14, keep)
        assert selection.mix is None
        tokens = keep


@pytest.mark.parametrize("tokens", [36, 64, 144, 256])
@pytest.mark.parametrize("heads", [1, 4, 14, 40])
def test_smaller_pictures_and_other_heads_agree_too(tokens: int, heads: int) -> None:
    method = SparseVLMPlus(layers=(2,), keep=(0.4,), heads=heads)
    for total in (8, 28):
        signals = random_signals(tokens, seed=tokens + heads, heads=total, original=tokens)
        assert method.select(signals, Site(3)).keep.tolist() == expected(signals, heads, int(0.4 * tokens))


def test_heads_are_chosen_by_corrected_mass_and_ties_by_index() -> None:
    attention = torch.tensor([[[0.9, 0.0, 0.0]], [[0.0, 0.1, 0.0]], [[0.0, 0.0, 0.1]]])
    rotary = torch.tensor([[9.0, 0.5, 0.5]])  # masses 0.1, 0.2, 0.2
    signals = Signals(3, original_tokens=3, rater_attention=attention, rater_rotary=rotary)
    assert SparseVLMPlus(layers=(2,), keep=(1,), heads=1).select(signals, Site(3)).keep.tolist() == [1]


def test_a_negative_correction_ranks_last() -> None:
    signals = Signals(
        3,
        original_tokens=3,
        rater_attention=torch.tensor([[[0.5, 0.1, 0.2]]]),
        rater_rotary=torch.tensor([[-0.01, 1.0, 1.0]]),
    )
    assert SparseVLMPlus(layers=(2,), keep=(2,)).select(signals, Site(3)).keep.tolist() == [1, 2]


def test_division_by_zero_ranks_first_and_nothing_by_nothing_last() -> None:
    signals = Signals(
        4,
        original_tokens=4,
        rater_attention=torch.tensor([[[0.1, 0.2, 0.0, 0.3]]]),
        rater_rotary=torch.tensor([[0.0, 1.0, 0.0, 1.0]]),
    )
    method = SparseVLMPlus(layers=(2,), keep=(2,))
    assert method.select(signals, Site(3)).keep.tolist() == [0, 3]


@pytest.mark.parametrize(("compat", "left"), [(False, 36), (True, 35)])
def test_a_budget_of_all_tokens_changes_nothing_except_in_compatibility(compat: bool, left: int) -> None:
    selection = SparseVLMPlus(compat=compat).select(random_signals(36, seed=1), Site(3))
    assert selection.keep.numel() == left
    assert selection.mix is None


def test_a_budget_of_zero_and_a_prompt_without_image_keep_nothing() -> None:
    assert SparseVLMPlus(keep=(2, 1, 0)).select(random_signals(36, seed=2), Site(16)).keep.numel() == 0
    assert SparseVLMPlus().select(Signals(0), Site(3)).keep.numel() == 0


def test_it_prunes_outputs_and_leaves_positions_alone() -> None:
    method, generator = SparseVLMPlus(), torch.Generator().manual_seed(3)
    assert method.needs == {Signal.RATER_ATTENTION, Signal.RATER_ROTARY}
    assert method.sites(32) == (Site(3), Site(7), Site(16))
    assert not method.compact_positions
    visual, text = torch.randn(40, 16, generator=generator), torch.randn(9, 16, generator=generator)
    assert isinstance(method, Rating)
    assert method.raters(visual, text).tolist() == reference.raters(visual.double().numpy(), text.double().numpy())
    with pytest.raises(InvalidOption, match=r"sparsevlm_plus: .*output of layer 15"):
        method.sites(12)


def test_recipe_text_is_stable() -> None:
    method = REDUCTIONS.create("sparsevlm_plus(keep=[66, 34, 20])")
    assert method == SparseVLMPlus(keep=(66, 34, 20))
    assert hash(method) == hash(SparseVLMPlus(keep=(66, 34, 20)))
    text = "sparsevlm_plus(compat=False, heads=14, keep=(66, 34, 20), layers=(2, 6, 15))"
    assert str(spec_of(method, "sparsevlm_plus")) == text


@pytest.mark.parametrize(
    "options", [{"heads": 0}, {"keep": (1, 2, 3)}, {"keep": 3}, {"layers": (2, 2, 15)}, {"compat": "yes"}]
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="sparsevlm_plus: "):
        SparseVLMPlus(**options)


def test_it_says_how_it_is_carried_over() -> None:
    method = SparseVLMPlus()
    assert isinstance(method, FamilyAware)
    assert set(method.equivalents) == {"llava_next", "qwen2_vl", "qwen2_5_vl"}
    assert not method.refusals
