from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.errors import RunError
from steadyvlm.reduction.spectrum import truncated_rank, truncated_spectrum


def power_law(rows: int, width: int, seed: int) -> Tensor:
    """Rows whose singular values fall as 1 / sqrt(k), like hidden states do."""
    generator = torch.Generator().manual_seed(seed)
    inner = min(rows, width)
    left, right = torch.randn(rows, inner, generator=generator), torch.randn(inner, width, generator=generator)
    return left / torch.arange(1, inner + 1).sqrt() @ right


@pytest.mark.parametrize(("rows", "width"), [(36, 64), (144, 128), (576, 640), (64, 64), (50, 7), (1, 9), (9, 1)])
@pytest.mark.parametrize("rank", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_it_equals_a_full_singular_value_decomposition(rows: int, width: int, rank: float) -> None:
    values = power_law(rows, width, seed=rows)
    found = truncated_spectrum(values, rank)
    _, sigma, right = np.linalg.svd(values.double().numpy().T, full_matrices=False)
    r = max(1, int(rank * min(rows, width)))
    assert found.rank == r
    assert found.ipr == pytest.approx(float((sigma[:r] ** 4).sum() / (sigma[:r] ** 2).sum() ** 2), abs=1e-8)
    np.testing.assert_allclose(found.leverage.numpy(), (right[:r] ** 2).sum(axis=0), atol=1e-6)
    assert float(found.leverage.double().sum()) == pytest.approx(r, abs=1e-5)
    gap = 1 - (sigma[r] / sigma[r - 1]) ** 2 if r < len(sigma) else 1.0
    assert found.gap == pytest.approx(gap, abs=1e-8)


def test_at_full_rank_the_ratio_needs_no_decomposition_and_leverage_says_nothing() -> None:
    values = power_law(40, 90, seed=1)
    found = truncated_spectrum(values, 1.0)
    gram = (values.double() @ values.double().T).numpy()
    assert found.ipr == pytest.approx(float((gram**2).sum() / np.trace(gram) ** 2), abs=1e-12)
    assert torch.equal(found.leverage, torch.ones(40))


def test_the_ratio_lies_between_one_over_r_and_one() -> None:
    assert truncated_spectrum(torch.eye(8), 0.5).ipr == pytest.approx(1 / 4)
    one = truncated_spectrum(torch.outer(torch.arange(1.0, 6.0), torch.ones(7)), 0.75)
    assert (one.rank, one.gap) == (1, 1.0)  # one real direction, although three were asked for
    assert one.ipr == 1.0
    torch.testing.assert_close(one.leverage, torch.arange(1.0, 6.0) ** 2 / 55)


def test_scaling_and_rotating_change_nothing() -> None:
    values = power_law(30, 50, seed=2)
    turned = values @ torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(3))).Q
    plain, other = truncated_spectrum(values), truncated_spectrum(-1000 * turned)
    assert other.ipr == pytest.approx(plain.ipr, rel=1e-5)
    torch.testing.assert_close(other.leverage, plain.leverage, atol=1e-4, rtol=0)


def test_equal_rows_have_equal_leverage() -> None:
    values = power_law(20, 30, seed=4)
    values[7] = values[3]
    leverage = truncated_spectrum(values).leverage
    assert leverage[7] == leverage[3]


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 1)])
def test_a_matrix_of_zeros_has_no_direction(shape: tuple[int, int]) -> None:
    found = truncated_spectrum(torch.zeros(shape))
    assert (found.rank, found.ipr, found.gap) == (0, 0.0, 1.0)
    assert torch.equal(found.leverage, torch.zeros(shape[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_read_and_none_is_written(dtype: torch.dtype) -> None:
    values = power_law(12, 16, seed=5).to(dtype)
    before = values.clone()
    found = truncated_spectrum(values)
    wide = truncated_spectrum(values.double())
    assert torch.equal(values, before)
    assert found.leverage.dtype == torch.float32
    assert torch.equal(found.leverage, wide.leverage)
    assert found.ipr == wide.ipr


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = torch.ones(4, 4)
    values[1, 2] = bad
    with pytest.raises(RunError, match="not finite"):
        truncated_spectrum(values)


def test_ranks_are_rounded_down_but_never_to_none() -> None:
    assert [truncated_rank(n, 4096, 0.75) for n in (576, 5, 4, 3, 2, 1)] == [432, 3, 3, 2, 1, 1]
    assert truncated_rank(576, 100, 0.75) == 75
    assert truncated_rank(10, 10, 0.7) == 7  # 0.7 x 10 is a hair below 7 in binary
