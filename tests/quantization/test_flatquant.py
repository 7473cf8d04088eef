"""The settings of FlatQuant, its step sizes and its loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.flat_parameters import LearnedMatrix, first_matrix, first_scale
from steadyvlm.quantization.flatquant import FlatQuant, block_loss, mean_squared_error


def test_defaults_are_those_of_the_published_scripts() -> None:
    found = FlatQuant()
    found.check_available()
    assert (found.epochs, found.batch, found.lr, found.clip_lr, found.lr_floor) == (15, 4, 5e-3, 5e-2, 1e-3)
    assert (found.alpha, found.clip_start, found.samples) == (0.3, 4.0, 128)
    assert found.settings.method == "flatquant"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 1}, "weight_bits=1"),
        ({"modules": "head"}, "modules='head'"),
        ({"parametrization": "svd"}, "parametrization='svd' is not allowed. Give 'inverse' or 'cayley'"),
        ({"start": 0}, "start=0"),
        ({"connector_scale": "both"}, "connector_scale='both'"),
        ({"decoder_inputs": None}, "decoder_inputs=None"),
        ({"lr": 0.0}, "lr=0.0 is not allowed. Give a number above 0 up to 1"),
        ({"clip_lr": "0.1"}, "clip_lr='0.1' is not allowed. Give a number from 0 up to 10"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"weight_decay": True}, "weight_decay=True"),
        ({"clip_start": math.nan}, "clip_start=nan"),
        ({"epochs": -1}, "epochs=-1 is not allowed. Give a whole number from 0 up"),
        ({"batch": 0}, "batch=0"),
        ({"samples": 1.0}, "samples=1.0"),
        ({"seed": False}, "seed=False is not allowed. Give a whole number."),
        ({"diag": 1}, "diag=1 is not allowed. Give True or False"),
        ({"pruned": "no"}, "pruned='no'"),
        ({"calibration": ""}, "calibration='' is not allowed"),
    ],
)
def test_values_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=f"flatquant: {message}"):
        FlatQuant(**options)


def test_whole_numbers_will_do_for_step_sizes() -> None:
    assert FlatQuant(clip_lr=1) == FlatQuant(clip_lr=1.0)
    assert FlatQuant(seed=-3, epochs=0).seed == -3


def test_step_sizes_fall_along_a_cosine() -> None:
    quantizer = FlatQuant(lr_floor=0.1)
    rates = [quantizer.rate(step, 100) for step in range(101)]
    assert rates[0] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.55)
    assert rates == sorted(rates, reverse=True)


def test_padding_counts_for_nothing() -> None:
    output, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.stack(
        [(output[0, :2] - target[0, :2]).square().sum(), (output[1, :1] - target[1, :1]).square().sum()]
    )
    assert torch.allclose(mean_squared_error(output, target, valid), expected.sum() / 12)
    spoiled = output.clone()
    spoiled[~valid] = 1e6
    assert torch.equal(mean_squared_error(spoiled, target, valid), mean_squared_error(output, target, valid))


def test_the_gradient_of_the_loss_is_that_of_its_logarithm() -> None:
    target, valid = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    first, second = (torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True) for _ in "ab")
    loss = block_loss(first, target, valid)
    assert float(loss.detach()) == pytest.approx(1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    mean_squared_error(second, target, valid).log().backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert torch.allclose(first.grad, second.grad, rtol=1e-5)  # type: ignore[arg-type]
    assert float(block_loss(target, target, valid)) == 0.0


def test_first_scales_even_channels_out() -> None:
    weight, largest = torch.randn(5, 3), torch.tensor([10.0, 0.0, 1e-9])
    expected = weight.abs().amax(0) ** 0.7 / torch.tensor([10.0, 1e-5, 1e-5]) ** 0.3
    assert torch.allclose(first_scale(weight, largest, 0.3), expected)
    assert torch.equal(first_scale(torch.zeros(2, 3), None, 0.3), torch.full((3,), 1e-5))


@pytest.mark.parametrize("parametrization", ["inverse", "cayley"])
def test_matrices_start_where_they_are_told_and_stay_invertible(parametrization: str) -> None:
    start = first_matrix(6, "orthogonal", torch.Generator().manual_seed(0))
    matrix = LearnedMatrix(start, parametrization)
    assert torch.allclose(matrix().detach(), start)
    with torch.no_grad():
        for part in matrix.parameters():
            part.add_(0.3 * torch.randn(part.shape, dtype=part.dtype, generator=torch.Generator().manual_seed(1)))
        kept = matrix(torch.float64)
        singular = torch.linalg.svdvals(kept)
        if parametrization == "cayley":  # the spread alone decides how far it is from orthogonal
            assert torch.allclose(singular.sort().values, matrix.spread.exp().sort().values)
        for part in matrix.parameters():
            part.zero_()
    assert float(singular.min()) > 0.1
    assert not kept.requires_grad
