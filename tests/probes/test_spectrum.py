from __future__ import annotations

import numpy as np
import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.probes.spectrum import energies, full_participation_ratio, participation_ratio
from steadyvlm.reduction.spectrum import participation_ratios, truncated_spectrum


def matrix(rows: int, width: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    generator = np.random.default_rng(seed)
    inner = min(rows, width)
    return (generator.normal(size=(rows, inner)) / np.sqrt(np.arange(1, inner + 1))) @ generator.normal(
        size=(inner, width)
    )


@pytest.mark.parametrize(("rows", "width"), [(36, 64), (144, 128), (20, 300), (5, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize("rank", [0.1, 0.5, 0.75, 1.0])
def test_decomposition_gram_matrix_and_traces_agree(rows: int, width: int, rank: float) -> None:
    values = matrix(rows, width, rows)
    sigma = np.linalg.svd(values, compute_uv=False)
    np.testing.assert_allclose(energies(values), sigma**2, rtol=1e-8, atol=1e-9)
    r = max(1, int(rank * len(sigma)))
    expected = (sigma[:r] ** 4).sum() / (sigma[:r] ** 2).sum() ** 2
    assert participation_ratio(energies(values), rank) == pytest.approx(expected, abs=1e-8)
    batch = torch.from_numpy(np.stack([values, 3 * values]))
    assert participation_ratios(batch, rank).tolist() == pytest.approx([expected] * 2, abs=1e-8)
    assert truncated_spectrum(batch[0], rank).ipr == pytest.approx(expected, abs=1e-8)
    if rank == 1:
        assert full_participation_ratio(values) == pytest.approx(expected, abs=1e-8)


def test_nothing_has_the_ratio_zero() -> None:
    assert participation_ratio([0.0, 0.0]) == 0.0
    assert full_participation_ratio(np.zeros((3, 4))) == 0.0
    assert participation_ratios(torch.zeros(2, 3, 4)).tolist() == [0.0, 0.0]
    assert participation_ratios(torch.zeros(2, 3, 4), rank=1.0).tolist() == [0.0, 0.0]
    assert participation_ratios(torch.zeros(2, 0, 4)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rank", [0, 1.1, -0.5, float("nan")])
def test_a_rank_outside_its_range_is_refused(rank: float) -> None:
    with pytest.raises(InvalidOption, match="share of the directions"):
        participation_ratio([1.0], rank)
