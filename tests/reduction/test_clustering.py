from __future__ import annotations

import numpy as np
import pytest
import torch

import sparse_reference as reference
from steadyvlm.reduction.clustering import density_peaks


def random_rows(size: int, width: int, seed: int) -> torch.Tensor:
    """Rows in loose crowds, as hidden states are, so that nearest centres are clear."""
    generator = torch.Generator().manual_seed(seed)
    crowds = torch.randn(max(2, size // 8), width, generator=generator)
    chosen = torch.randint(len(crowds), (size,), generator=generator)
    return crowds[chosen] + 0.4 * torch.randn(size, width, generator=generator)


@pytest.mark.parametrize(
    ("size", "count"), [(83, 9), (33, 4), (29, 3), (154, 16), (9, 1), (16, 2), (5, 1), (1, 1), (4, 4)]
)
@pytest.mark.parametrize("jittered", [False, True])
def test_it_agrees_with_a_float64_reimplementation(size: int, count: int, jittered: bool) -> None:
    rows = random_rows(size, 48, seed=size)
    jitter = torch.rand(size, generator=torch.Generator().manual_seed(1)) * 1e-2 if jittered else None
    centres, members, _ = reference.clusters(
        rows.double().numpy(), count, None if jitter is None else jitter.double().numpy()
    )
    found = density_peaks(rows, count, jitter=jitter)
    assert found.centres.tolist() == centres
    assert [(found.labels == k).nonzero().flatten().tolist() for k in range(count)] == members


def test_two_crowds_and_an_outlier_by_hand() -> None:
    # in eighths: 0 1 2 | 8 9 10 | 24. With c = 3 the squared distances that count are 0 1 1 in the middle of a crowd,
    # 0 1 4 at its rim, and 0 196 225 for the outlier
    rows = torch.tensor([[0.0], [0.125], [0.25], [1.0], [1.125], [1.25], [3.0]])
    found = density_peaks(rows, 3)
    # 1 and 4 are densest and tie, so both are as far from a denser one as rows ever are: 3; then comes 6, 1.75 from 5
    assert found.centres.tolist() == [1, 4, 6]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_equal_rows_are_at_distance_zero_and_ties_go_to_the_first() -> None:
    rows = torch.full((12, 4096), 37.3)
    found = density_peaks(rows, 2)
    assert found.centres.tolist() == [0, 1]
    assert found.labels.tolist() == [0, 1] + [0] * 10


def test_a_single_cluster_takes_the_first_row_as_centre() -> None:
    found = density_peaks(random_rows(20, 8, seed=3), 1)
    assert found.centres.tolist() == [0]
    assert not found.labels.any()


def test_large_common_offsets_do_not_blur_distances() -> None:
    rows = random_rows(60, 256, seed=4)
    shifted = density_peaks((rows.double() + 3000.0), 5)
    plain = density_peaks(rows, 5)
    assert torch.equal(shifted.centres, plain.centres)
    assert torch.equal(shifted.labels, plain.labels)


def test_inputs_stay_untouched_and_half_precision_is_widened() -> None:
    rows = random_rows(40, 16, seed=5).half()
    before = rows.clone()
    found, wide = density_peaks(rows, 4), density_peaks(rows.float(), 4)
    assert torch.equal(rows, before)
    assert torch.equal(found.labels, wide.labels)
    assert np.array_equal(found.centres.numpy(), wide.centres.numpy())
