"""Hadamard matrices of every construction, and rotations of every width a model has."""

from __future__ import annotations

import pytest
import torch

from steadyvlm.quantization.hadamard import hadamard, random_orthogonal, rotation, rotation_factors

WIDTHS = (96, 128, 256, 352, 384, 1024, 1280, 3420, 3584, 4096, 5120, 11008, 18944)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 40, 44, 60, 76, 128, 148, 172, 344])
def test_rows_are_orthogonal_and_entries_of_one_magnitude(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 10, 52, 86, 92])
def test_orders_without_a_construction_say_so(order: int) -> None:
    assert hadamard(order) is None


@pytest.mark.parametrize("width", WIDTHS)
def test_rotations_of_model_widths_are_orthogonal(width: int) -> None:
    a, b = rotation_factors(width)
    assert a * b == width
    for order in (a, b):
        matrix = rotation(order, torch.Generator().manual_seed(0))
        assert float((matrix @ matrix.T - torch.eye(order, dtype=torch.float64)).abs().max()) < 1e-12
        if width != 3420:
            assert float((matrix.abs() - order**-0.5).abs().max()) < 1e-12


def test_known_factors() -> None:
    found = {width: rotation_factors(width) for width in WIDTHS}
    assert found[11008] == (64, 172)
    assert found[18944] == (128, 148)
    assert found[3420] == (57, 60)
    assert found[352] == (8, 44)
    assert rotation_factors(7) == (1, 7)


@pytest.mark.parametrize("order", [1, 6, 7, 57, 86, 90])
def test_orders_with_a_random_part_are_orthogonal_too(order: int) -> None:
    first, again, other = (rotation(order, torch.Generator().manual_seed(seed)) for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert torch.allclose(first @ first.T, torch.eye(order, dtype=torch.float64))
    assert order == 1 or not torch.allclose(first, other)


def test_a_large_channel_is_spread_evenly() -> None:
    spike = torch.zeros(172, dtype=torch.float64)
    spike[5] = 1.0
    assert torch.allclose((spike @ rotation(172, torch.Generator())).abs(), torch.full_like(spike, 172**-0.5))


def test_random_orthogonal_matrices_have_no_preferred_signs() -> None:
    generator = torch.Generator().manual_seed(1)
    diagonal = torch.stack([random_orthogonal(3, generator).diagonal() for _ in range(400)])
    assert bool((diagonal.mean(dim=0).abs() < 0.1).all())
