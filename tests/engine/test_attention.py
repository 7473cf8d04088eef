"""Means of attention are those of the full matrix, however few rows are taken at a time, and equal keys tie exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steadyvlm.engine.attention import mean_received


def causal(rows: Tensor) -> Tensor:
    return torch.arange(13) <= rows[:, :, None]


def heads(count: int, seed: int) -> Tensor:
    return torch.randn(2, count, 13, 4, generator=torch.Generator().manual_seed(seed))


COLUMNS = torch.tensor([[2, 3, 7, 8, 12], [4, 5, 0, 0, 0]])


@pytest.mark.parametrize("at_once", [1, 2 * 4 * 13 * 2, 2 * 4 * 13 * 3, 1 << 24])
def test_means_are_those_of_the_whole_matrix(at_once: int) -> None:
    queries, keys = heads(4, 0), heads(2, 1)
    got = mean_received(queries, keys, COLUMNS, [5, 2], scaling=0.7, visible=causal, at_once=at_once)
    scores = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3) * 0.7
    full = scores.masked_fill(~torch.ones(13, 13).tril().bool(), -torch.inf).softmax(-1)
    expected = torch.stack([full[0, :, COLUMNS[0]].mean((0, 1)), full[1, :, [4, 5]].mean((0, 1))])
    torch.testing.assert_close(got, expected)
    assert got.dtype == torch.float32


def test_rows_that_nobody_asks_for_give_zeros() -> None:
    for columns, counts in ((COLUMNS[:, :0], [0, 0]), (COLUMNS, [5, 0])):
        got = mean_received(heads(4, 0), heads(2, 1), columns, counts, scaling=1.0, visible=causal)
        assert got.shape == (2, 13)
        assert not got[1].any()
        assert bool(got[0].any()) == bool(counts[0])


def test_half_precision_is_read_in_float32() -> None:
    queries, keys = heads(4, 0).half(), heads(2, 1).half()
    low, high = (
        mean_received(kind(queries), kind(keys), COLUMNS, [5, 2], scaling=0.5, visible=causal)
        for kind in (Tensor.half, Tensor.float)
    )
    assert torch.equal(low, high)


@pytest.mark.parametrize("length", [13, 64, 577])
def test_keys_that_receive_the_same_have_the_same_sum(length: int) -> None:
    queries = torch.randn(1, 8, length, 4, generator=torch.Generator().manual_seed(2))
    columns = torch.arange(length // 2, length)[None]
    got = mean_received(
        queries,
        torch.zeros(1, 2, length, 4),
        columns,
        [columns.shape[1]],
        scaling=1.0,
        visible=lambda rows: torch.arange(length) <= rows[:, :, None],
    )
    assert len(got[0, : length // 2].unique()) == 1
