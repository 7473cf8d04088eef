from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.linear import Int8Linear, RoundedLinear


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, -1.0])])
def test_a_rounded_linear_is_a_linear_with_its_own_parameters(bias: torch.Tensor | None) -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    linear = RoundedLinear(weight, bias, Grid(4, 3, symmetric=False))
    inputs = torch.randn(2, 5, 3)
    assert torch.equal(linear(inputs), nn.functional.linear(inputs, weight, bias))
    assert not any(parameter.requires_grad for parameter in linear.parameters())
    assert bias is None or linear.bias.data_ptr() != bias.data_ptr()
    assert repr(linear).endswith(f"bias={bias is not None}, grid=4 bits, group 3, asymmetric)")


def test_an_int8_linear_describes_itself_and_moves_as_one() -> None:
    linear = Int8Linear(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3), torch.zeros(3), threshold=6.0)
    assert repr(linear) == "Int8Linear(in_features=4, out_features=3, bias=True, threshold=6.0)"
    assert sorted(linear.state_dict()) == ["bias", "codes", "scale"]
    moved = copy.deepcopy(linear).to("meta")
    assert {tensor.device.type for tensor in moved.buffers()} == {"meta"}
    assert {tensor.device.type for tensor in linear.buffers()} == {"cpu"}


def test_no_rows_give_no_rows() -> None:
    linear = Int8Linear(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3), None, threshold=6.0)
    assert linear(torch.empty(2, 0, 4)).shape == (2, 0, 3)
