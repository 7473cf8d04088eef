from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steadyvlm.errors import UnknownName
from steadyvlm.reduction.composite import (
    WEIGHTS,
    WITHOUT_QUANT,
    composite_score,
    corrected_for_causality,
    magnitude,
    robust,
    rounding_residual,
    without,
)


def test_robust_agrees_with_numpys_percentiles() -> None:
    values = torch.randn(173, generator=torch.Generator().manual_seed(0)) ** 3
    low, high = np.percentile(values.double().numpy(), (5, 95))
    expected = np.clip((values.double().numpy() - low) / (high - low + 1e-8), 0, 1)
    assert robust(values, (5, 95)).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 7])
def test_where_all_are_alike_no_token_stands_out(tokens: int) -> None:
    assert robust(torch.full((tokens,), 3.0), (5, 95)).tolist() == [0.0] * tokens


def test_a_metric_without_weight_is_not_asked_for() -> None:
    ones = torch.tensor([0.0, 1.0])
    assert composite_score((None, None, ones, None), (0, 0, 1.0, 0), (0, 100)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_residual_is_that_of_a_symmetric_grid_with_one_scale_per_token(bits: int) -> None:
    rows = torch.randn(40, 24, generator=torch.Generator().manual_seed(bits)) * torch.logspace(-3, 3, 40)[:, None]
    most = 2 ** (bits - 1) - 1
    for row, found in zip(rows.double().tolist(), rounding_residual(rows, bits).tolist(), strict=True):
        scale = max(map(abs, row)) / most
        lost = [x - max(-most - 1, min(most, round(x / scale))) * scale for x in row]
        assert found == pytest.approx(math.sqrt(sum(x * x for x in lost)), rel=1e-4)


def test_an_all_zero_token_loses_nothing() -> None:
    assert rounding_residual(torch.zeros(2, 8), 4).tolist() == [0.0, 0.0]


def test_lengths_do_not_depend_on_how_rows_lie_in_memory() -> None:
    rows = torch.randn(64, 96, generator=torch.Generator().manual_seed(3))
    turned = rows.T.contiguous().T
    assert not turned.is_contiguous()
    assert torch.equal(magnitude(rows), magnitude(turned))
    assert torch.equal(rounding_residual(rows, 4), rounding_residual(turned, 4))


def test_the_causal_correction_divides_by_those_that_can_see_the_token() -> None:
    attention = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)).tril()
    received = attention.mean(dim=0)
    expected = [sum(attention[i][j].item() for i in range(j, 6)) / (6 - j) for j in range(6)]
    assert corrected_for_causality(received).tolist() == pytest.approx(expected)


def test_leaving_a_metric_out_spreads_its_weight_equally() -> None:
    """0.45 removed leaves 0.40, 0.25 and 0.35, as in the published ablation."""
    assert without("inter") == pytest.approx((0, 0.40, 0.25, 0.35))
    assert without("quant") == pytest.approx((0.45 + 0.2 / 3, 0.25 + 0.2 / 3, 0.1 + 0.2 / 3, 0))
    for metric in ("inter", "magnitude", "intra", "quant"):
        assert sum(without(metric)) == pytest.approx(1)
    with pytest.raises(UnknownName, match="Did you mean 'intra'"):
        without("intro")


def test_the_three_metrics_of_the_baselines_are_the_published_weights_scaled() -> None:
    assert pytest.approx([weight / sum(WEIGHTS[:3]) for weight in WEIGHTS[:3]]) == WITHOUT_QUANT[:3]
    assert WITHOUT_QUANT[3] == 0
