"""DivPrune against section 8 of the specification, in float64 with Python loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Signal, Signals, Site
from steadyvlm.reduction.divprune import DivPrune, most_different


def hidden(tokens: int, seed: int, width: int = 64) -> Tensor:
    """Rows of which some lie close together, as projected patches do."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(9, width, generator=generator)
    chosen = torch.randint(9, (tokens,), generator=generator)
    return centres[chosen] + torch.randn(tokens, width, generator=generator)


def reference(rows: Tensor, count: int) -> list[int]:
    table = rows.double().tolist()
    lengths = [math.sqrt(sum(value * value for value in row)) for row in table]
    unit = torch.tensor(
        [[value / length for value in row] for row, length in zip(table, lengths, strict=True)]
    ).double()
    distance = (1 - unit @ unit.T).tolist()
    size = len(table)
    second = [sorted(distance[j][i] for j in range(size))[1] for i in range(size)]
    picks = [max(range(size), key=lambda i: (second[i], -i))]
    while len(picks) < count:
        left = [i for i in range(size) if i not in picks]
        picks.append(max(left, key=lambda i: (min(distance[j][i] for j in picks), -i)))
    return sorted(picks)


@pytest.mark.parametrize(
    ("tokens", "ratio", "count"),
    [(576, 0.098, 56), (576, 0.2222, 128), (144, 0.098, 14), (144, 0.2222, 32), (36, 0.098, 4), (36, 0.5, 18)],
)
def test_it_agrees_with_a_float64_reimplementation(tokens: int, ratio: float, count: int) -> None:
    rows = hidden(tokens, seed=tokens)
    keep = DivPrune(keep_ratio=ratio).select(Signals(tokens, hidden=rows), Site(0)).keep
    assert keep.tolist() == reference(rows, count)


def test_128_of_576_whichever_way_the_ratio_is_written() -> None:
    for ratio in (0.222, 0.2222, 128 / 576):
        assert DivPrune(keep_ratio=ratio).select(Signals(576, hidden=hidden(576, 1)), Site(0)).keep.numel() == 128


def test_equal_tokens_are_never_kept_twice_while_others_are_left() -> None:
    four = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    rows = four[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]]
    assert sorted(i % 4 for i in most_different(rows, 4).tolist()) == [0, 1, 2, 3]
    assert len(set(most_different(rows, 6).tolist())) == 6
    assert most_different(rows, 12).tolist() == list(range(12))


@pytest.mark.parametrize("width", [7, 33, 64, 1000])
def test_of_equal_tokens_the_first_is_kept(width: int) -> None:
    flat = torch.full((40, width), 0.1)
    assert most_different(flat, 5).tolist() == [0, 1, 2, 3, 4]
    rows = torch.cat([torch.randn(20, width, generator=torch.Generator().manual_seed(width)), flat + 0.3])
    newlines = [index for index in most_different(rows, 12).tolist() if index >= 20]
    assert newlines in ([], [20])


def test_zero_and_broken_tokens_lie_apart_from_all_others() -> None:
    rows = hidden(12, seed=3)
    rows[5] = 0
    assert 5 in most_different(rows, 6).tolist()
    rows[7, 0] = float("nan")
    rows[8, 0] = float("inf")
    assert len(set(most_different(rows, 9).tolist())) == 9


def test_pictures_are_treated_one_by_one() -> None:
    rows = hidden(60, seed=4)
    images = torch.tensor([0] * 40 + [1] * 20)
    keep = DivPrune(keep_ratio=0.2).select(Signals(60, hidden=rows, images=images), Site(0)).keep
    assert keep.tolist() == reference(rows[:40], 8) + [40 + index for index in reference(rows[40:], 4)]


@pytest.mark.parametrize(
    ("tokens", "ratio", "count"), [(1, 1.0, 1), (1, 0.098, 0), (2, 0.5, 1), (5, 0.0, 0), (5, 1, 5)]
)
def test_few_tokens_and_extreme_ratios(tokens: int, ratio: float, count: int) -> None:
    keep = DivPrune(keep_ratio=ratio).select(Signals(tokens, hidden=hidden(tokens, 5)), Site(0)).keep
    assert keep.numel() == count
    assert keep.dtype == torch.int64


def test_what_it_says_of_itself() -> None:
    method = DivPrune()
    assert method.needs == {Signal.HIDDEN}
    assert method.sites(32) == (Site(0),)
    assert method.compact_positions
    assert method.select(Signals(0), Site(0)).keep.numel() == 0
    with pytest.raises(InvalidOption, match="divprune: keep_ratio"):
        DivPrune(keep_ratio=2)
