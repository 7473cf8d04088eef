from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.reduction.tensor_ops import (
    bottom_k,
    complement,
    mean_over_heads,
    round_budget,
    sum_over_heads,
    top_k,
    trunc_budget,
)


@given(st.lists(st.integers(-3, 3), max_size=40), st.integers(0, 40))
def test_top_k_orders_by_score_descending_then_index_ascending(values: list[int], k: int) -> None:
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    scores = torch.tensor(values, dtype=torch.float32)
    assert top_k(scores, k).tolist() == sorted(order[:k])


@given(st.lists(st.integers(-3, 3), max_size=40), st.integers(0, 40))
def test_bottom_k_orders_by_score_ascending_then_index_ascending(values: list[int], k: int) -> None:
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    scores = torch.tensor(values, dtype=torch.float32)
    assert bottom_k(scores, k).tolist() == sorted(order[:k])


def test_nan_never_beats_a_finite_score() -> None:
    scores = torch.tensor([torch.nan, -torch.inf, 1.0, torch.inf, 2.0])
    assert top_k(scores, 3).tolist() == [2, 3, 4]
    assert bottom_k(scores, 3).tolist() == [1, 2, 4]


def test_zero_and_minus_zero_tie() -> None:
    assert top_k(torch.tensor([-0.0, 0.0]), 1).tolist() == [0]


@pytest.mark.parametrize("heads", [1, 2, 4, 7, 8, 16, 32])
@pytest.mark.parametrize("tokens", [5, 36, 144, 577])
def test_equal_columns_get_exactly_equal_scores(heads: int, tokens: int) -> None:
    column = torch.rand(heads, 1, generator=torch.Generator().manual_seed(heads))
    scores = sum_over_heads(column.expand(heads, tokens))
    assert torch.equal(scores, scores[:1].expand(tokens))


def test_head_sums_and_means_are_float32_and_agree_with_float64() -> None:
    attention = torch.rand(16, 144, generator=torch.Generator().manual_seed(1))
    exact = attention.numpy().astype(np.float64)
    np.testing.assert_allclose(sum_over_heads(attention).numpy(), exact.sum(0), rtol=1e-6)
    np.testing.assert_allclose(mean_over_heads(attention).numpy(), exact.mean(0), rtol=1e-6)
    assert sum_over_heads(attention.bfloat16()).dtype == torch.float32
    assert mean_over_heads(torch.zeros(0, 3)).tolist() == [0.0, 0.0, 0.0]


def test_half_to_even_and_truncation_differ_where_the_specification_says() -> None:
    assert [round_budget(n, 0.5) for n in (45, 47, 49)] == [22, 24, 24]
    assert [trunc_budget(n, 0.5) for n in (45, 47, 49)] == [22, 23, 24]
    assert [trunc_budget(45, ratio) for ratio in (1.0, 0.5, 0.25, 0.125)] == [45, 22, 11, 5]
    assert [trunc_budget(n, kept / n) for n in (36, 144, 576) for kept in range(n + 1)] == [
        kept for n in (36, 144, 576) for kept in range(n + 1)
    ]


@given(st.integers(0, 3000), st.floats(0, 1))
def test_budgets_stay_within_the_tokens_there_are(tokens: int, ratio: float) -> None:
    assert 0 <= trunc_budget(tokens, ratio) <= round_budget(tokens, ratio) <= tokens


def test_complement_is_everything_else_in_order() -> None:
    assert complement(torch.tensor([4, 0]), 6).tolist() == [1, 2, 3, 5]
    assert complement(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 1]
