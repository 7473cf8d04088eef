from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steadyvlm.errors import InvalidOption, RunError
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.lofi import LoFi

Array = np.ndarray[Any, Any]
PUBLISHED = [{"beta": 6.0}, {"beta": 4.0}, {"beta": 2.0}, {"keep_ratio": 0.9}, {"keep_ratio": 0.85}]


def reference(output: Array, hidden: Array, rank: float, **rule: float) -> tuple[list[int], Array]:
    """Section 3.2 of the paper with a full decomposition and loops, in float64: places and rows of what is left."""
    tokens = len(output)
    _, sigma, right = np.linalg.svd(output.T, full_matrices=False)  # D x N, as in the paper
    r = max(1, int(rank * min(output.shape)))
    leverage = [float(sum(right[:r, i] ** 2)) for i in range(tokens)]
    energy = [float(s) ** 2 for s in sigma[:r]]
    ipr = sum(e * e for e in energy) / sum(energy) ** 2
    share = ipr / (1 + rule["beta"] * ipr) if "beta" in rule else round(1 - rule["keep_ratio"], 9)
    removed = math.floor(round(share * tokens, 6))
    if removed <= 1:
        return list(range(tokens)), hidden
    worst = sorted(range(tokens), key=lambda i: (leverage[i], -i))[:removed]
    worst.sort()
    median = worst[(removed - 1) // 2]
    merged = sum(leverage[i] / sum(leverage[j] for j in worst) * hidden[i] for i in worst)
    places = sorted({*range(tokens)} - {*worst} | {median})
    return places, np.stack([merged if place == median else hidden[place] for place in places])


def rows(tokens: int, width: int, seed: int, *, fall: float = 0.7) -> Tensor:
    """Hidden states whose singular values fall as k ** -fall."""
    generator = torch.Generator().manual_seed(seed)
    inner = min(tokens, width)
    weights = torch.arange(1.0, inner + 1) ** -fall
    left = torch.linalg.qr(torch.randn(tokens, inner, generator=generator)).Q
    return left * weights @ torch.linalg.qr(torch.randn(width, inner, generator=generator)).Q.T * 30


def select(method: LoFi, output: Tensor) -> Selection:
    return method.select(Signals(len(output), attention_output=output), Site(1))


def apply(selection: Selection, hidden: Tensor) -> Tensor:
    return hidden[selection.keep] if selection.mix is None else selection.mix @ hidden


@pytest.mark.parametrize("options", PUBLISHED)
@pytest.mark.parametrize(("tokens", "width"), [(36, 64), (144, 128), (144, 160), (576, 640), (576, 96)])
def test_it_agrees_with_a_full_decomposition(options: dict[str, float], tokens: int, width: int) -> None:
    for seed in range(2):
        output, hidden = rows(tokens, width, seed), rows(tokens, 24, seed + 50)
        selection = select(LoFi(**options), output)  # type: ignore[arg-type]  # floats only
        places, left = reference(output.double().numpy(), hidden.double().numpy(), 0.75, **options)
        assert selection.keep.tolist() == places
        assert len(places) < tokens
        np.testing.assert_allclose(apply(selection, hidden).numpy(), left, atol=1e-4)


@pytest.mark.parametrize("rank", [0.1, 0.25, 0.5])
def test_other_ranks_agree_too_and_choose_other_tokens(rank: float) -> None:
    output, hidden = rows(144, 160, 7), rows(144, 24, 8)
    selection = select(LoFi(beta=2.0, rank=rank), output)
    places, left = reference(output.double().numpy(), hidden.double().numpy(), rank, beta=2.0)
    assert selection.keep.tolist() == places
    np.testing.assert_allclose(apply(selection, hidden).numpy(), left, atol=1e-4)
    assert places != select(LoFi(beta=2.0), output).keep.tolist()


def test_the_share_follows_the_formula() -> None:
    """A spectrum with IPR 0.2 at 576 tokens: f = 0.2 / (1 + 0.2 beta)."""
    assert [LoFi(beta=beta).removed(576, 0.2) for beta in (6.0, 4.0, 2.0)] == [52, 64, 82]
    assert [LoFi(beta=beta).removed(576, 1.0) for beta in (6.0, 4.0, 2.0)] == [82, 115, 192]
    assert LoFi().removed(576, 0.0) == 0


def test_fixed_ratios_round_down_what_goes_in_decimal() -> None:
    assert [LoFi(keep_ratio=0.9).removed(n, 0.5) for n in (576, 520, 10, 9)] == [57, 52, 1, 0]
    assert [LoFi(keep_ratio=0.85).removed(n, 0.5) for n in (576, 20, 6)] == [86, 3, 0]


def test_a_huge_beta_removes_nothing() -> None:
    selection = select(LoFi(beta=1e12), rows(144, 160, 1))
    assert selection.mix is None
    assert selection.keep.tolist() == list(range(144))


@pytest.mark.parametrize(("removed", "median"), [(2, 4), (3, 5), (4, 5), (5, 6)])
def test_the_merged_token_takes_the_lower_median_place(removed: int, median: int) -> None:
    """Tokens 4, 5, 6, … have the least leverage; the merged one stands in the middle of those that went."""
    strength = torch.full((10,), 9.0)
    strength[4 : 4 + removed] = 1.0
    output = torch.diag(strength) + 0.01 * torch.ones(10, 10)
    method = LoFi(keep_ratio=1 - removed / 10, rank=(10 - removed) / 10)
    selection = select(method, output)
    lost = list(range(4, 4 + removed))
    assert selection.keep.tolist() == sorted({*range(10)} - {*lost} | {median})
    assert selection.mix is not None
    slot = selection.keep.tolist().index(median)
    assert selection.mix[slot].nonzero().flatten().tolist() == lost
    others = [row for row in range(selection.keep.numel()) if row != slot]
    assert torch.equal(selection.mix[others], torch.eye(10)[selection.keep[others]])


def test_equal_leverage_loses_its_highest_index_first() -> None:
    selection = select(LoFi(keep_ratio=0.5, rank=1.0), torch.eye(8))
    assert selection.keep.tolist() == [0, 1, 2, 3, 5]  # 4 to 7 go, 5 is their lower median
    assert selection.mix is not None
    assert selection.mix[4].tolist() == [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25]


def test_without_merging_the_same_tokens_go_and_none_comes_back() -> None:
    output = rows(144, 160, 3)
    merged, dropped = select(LoFi(), output), select(LoFi(merge=False), output)
    assert dropped.mix is None
    assert len(merged.keep) == len(dropped.keep) + 1
    assert set(dropped.keep.tolist()) < set(merged.keep.tolist())


@pytest.mark.parametrize("merge", [True, False])
def test_one_token_to_remove_is_only_worth_it_without_merging(merge: bool) -> None:
    selection = select(LoFi(keep_ratio=0.9, merge=merge), rows(10, 16, 2))
    assert (selection.keep.numel(), selection.mix) == (10 if merge else 9, None)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_handful_of_tokens_stays(tokens: int) -> None:
    assert select(LoFi(beta=4.0), torch.ones(tokens, 8)).keep.tolist() == list(range(tokens))


def test_attention_that_wrote_nothing_removes_nothing_by_beta_and_equal_weights_by_ratio() -> None:
    zeros = torch.zeros(10, 8)
    assert select(LoFi(beta=0.1), zeros).keep.tolist() == list(range(10))
    selection = select(LoFi(keep_ratio=0.5), zeros)
    assert selection.keep.tolist() == [0, 1, 2, 3, 4, 7]
    assert selection.mix is not None
    torch.testing.assert_close(selection.mix[5], torch.tensor([0.0] * 5 + [0.2] * 5))


def test_keeping_nothing_leaves_the_one_merged_token() -> None:
    output = rows(9, 16, 5)
    assert select(LoFi(keep_ratio=0), output).keep.tolist() == [4]
    assert select(LoFi(keep_ratio=0, merge=False), output).keep.tolist() == []


@pytest.mark.parametrize("options", [{}, {"keep_ratio": 0.5}, {"merge": False}])
def test_a_prompt_without_pictures_keeps_nothing(options: dict[str, Any]) -> None:
    empty = Signals(0, attention_output=torch.empty(0, 8))
    assert LoFi(**options).select(empty, Site(3)).keep.numel() == 0


def test_hidden_states_that_are_not_finite_fail_the_sample() -> None:
    with pytest.raises(RunError, match="not finite"):
        select(LoFi(), torch.full((4, 4), float("nan")))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 24),
    width=st.integers(1, 24),
    seed=st.integers(0, 10_000),
    beta=st.floats(0.05, 20),
    rank=st.floats(0.05, 1),
    ratio=st.none() | st.floats(0, 1),
)
def test_every_selection_is_sorted_and_loses_no_weight(
    tokens: int, width: int, seed: int, beta: float, rank: float, ratio: float | None
) -> None:
    output = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))
    method = LoFi(beta=beta, rank=rank) if ratio is None else LoFi(keep_ratio=ratio, rank=rank)
    selection = select(method, output)
    assert torch.equal(selection.keep, selection.keep.unique())
    assert 1 <= selection.keep.numel() <= tokens
    if selection.mix is not None:
        torch.testing.assert_close(selection.mix.sum(dim=1), torch.ones(selection.keep.numel()))
        assert (selection.mix >= 0).all()
        assert ((selection.mix > 0).sum(dim=0) <= 1).all()  # no token is counted twice


def test_smaller_betas_remove_more() -> None:
    output = rows(144, 160, 9)
    kept = [select(LoFi(beta=beta), output).keep.numel() for beta in (12.0, 6.0, 4.0, 2.0, 1.0, 0.1)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]


def test_it_acts_after_every_layer_but_the_last_and_keeps_positions() -> None:
    assert LoFi().sites(4) == (Site(1), Site(2), Site(3))
    assert LoFi().sites(1) == ()
    assert len(LoFi().sites(32)) == 31
    assert LoFi().needs == {Signal.ATTENTION_OUTPUT}
    assert not LoFi().compact_positions


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 0}, "beta=0"),
        ({"beta": -2.0}, r"beta=-2\.0"),
        ({"beta": math.inf}, "beta=inf"),
        ({"beta": True}, "beta=True"),
        ({"beta": "4"}, "beta='4'"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 1.5}, r"rank=1\.5"),
        ({"keep_ratio": 1.2}, r"keep_ratio=1\.2"),
        ({"merge": 1}, "merge=1"),
        ({"beta": 2, "keep_ratio": 0.9}, "two rules"),
    ],
)
def test_impossible_settings_are_refused_on_construction(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        LoFi(**options)


def test_equal_settings_are_one_recipe() -> None:
    assert REDUCTIONS.create("lofi(beta=6)") == LoFi(beta=6.0)
    assert REDUCTIONS.create("lofi(keep_ratio=1)").keep_ratio == 1.0
