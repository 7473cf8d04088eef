"""Derivatives written out by hand are those torch finds operation by operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from steadyvlm.quantization.fake_gradients import learn_clip, learn_groups, learn_rows, learn_weight
from steadyvlm.quantization.integer import fake_groups, fake_rows, fake_weight
from steadyvlm.quantization.state import Clip
from steadyvlm.quantization.transforms import clipped

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[Function, Function]] = {
    "rows": (lambda x, high, low: learn_rows(x, 4, high, low), lambda x, high, low: fake_rows(x, 4, high, low)),
    "coarse": (lambda x, high, low: learn_rows(x, 2, high, low), lambda x, high, low: fake_rows(x, 2, high, low)),
    "groups": (lambda x, high, low: learn_groups(x, 3, high, low), lambda x, high, low: fake_groups(x, 3, high, low)),
    "half": (lambda x, *_: learn_weight(x, 4), lambda x, *_: fake_weight(x, 4)),
    "single": (
        lambda x, *_: learn_weight(x, 4, torch.float32),
        lambda x, *_: fake_weight(x, 4, scale_dtype=torch.float32),
    ),
    "clip": (learn_clip, lambda x, high, low: clipped(x, Clip(high, low))),
}


def kinds() -> dict[str, Tensor]:
    x = 3 * torch.randn(40, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tiny = x.clone()
    tiny[::2] *= 1e-12
    zeros = x.clone()
    zeros[::3] = 0
    return {"mixed": x, "above zero": x.abs() + 0.1, "below zero": -x.abs() - 0.1, "tiny": tiny, "zeros": zeros}


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(), (40, 1)])
def test_values_and_gradients_agree(name: str, kind: str, shape: tuple[int, ...]) -> None:
    x, found = kinds()[kind], []
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for function in PAIRS[name]:
        inputs = [x.clone(), torch.full(shape, 0.7, dtype=x.dtype), torch.full(shape, 0.8, dtype=x.dtype)]
        for tensor in inputs:
            tensor.requires_grad_()
        output = function(*inputs)
        (output * weights).sum().backward()  # type: ignore[no-untyped-call]
        grads = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in inputs]
        found.append((output.detach(), *grads))
    assert torch.equal(found[0][0], found[1][0])
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.5, 0.9)])
def test_shares_may_be_numbers(shares: tuple[float, float]) -> None:
    x = kinds()["mixed"].float()
    assert torch.equal(learn_rows(x, 4, *shares), fake_rows(x, 4, *shares))
    assert torch.equal(learn_groups(x, 4, *shares), fake_groups(x, 4, *shares))


def test_numbers_are_those_of_the_quantisers_in_single_precision() -> None:
    x = torch.randn(500, 33, generator=torch.Generator().manual_seed(2)) * torch.logspace(-8, 4, 500)[:, None]
    assert torch.equal(learn_rows(x, 4), fake_rows(x, 4))
    assert torch.equal(learn_groups(x, 4), fake_groups(x, 4))
    assert torch.equal(learn_weight(x, 4), fake_weight(x, 4))
