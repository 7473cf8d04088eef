from __future__ import annotations

import pytest
import torch

from steadyvlm.quantization import grid, integer
from steadyvlm.quantization.nibbles import apart, pack4, sixteenfold, unpack4


def codes(*shape: int, low: int = -8, high: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("width", [1, 2, 3, 16, 17])
def test_the_bytes_are_those_of_the_grid_and_come_back(width: int) -> None:
    signed = codes(5, width)
    packed = pack4(signed)
    assert packed.dtype == torch.uint8
    assert torch.equal(packed, grid.pack(signed, 4))
    assert torch.equal(unpack4(packed, width), signed)
    assert torch.equal(pack4(signed.to(torch.int16)), packed)
    unsigned = codes(5, width, low=0, high=16).to(torch.uint8)
    assert torch.equal(unpack4(pack4(unsigned), width, signed=False), unsigned)


def test_every_byte_is_read_as_two_nibbles() -> None:
    every = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    expected = [[(low & 15) - 16 * (low & 15 > 7) for low in (byte, byte >> 4)] for byte in range(256)]
    assert unpack4(every, 2).tolist() == expected
    assert unpack4(every, 2, signed=False).tolist() == [[byte & 15, byte >> 4] for byte in range(256)]
    assert sixteenfold(every).tolist() == [[16 * low, 16 * high] for low, high in expected]
    assert pack4(unpack4(every, 2)).tolist() == every.tolist()


def test_tensors_of_any_layout_are_taken() -> None:
    signed = codes(8, 6)
    assert torch.equal(pack4(signed.t()), pack4(signed.t().contiguous()))
    packed = pack4(codes(6, 8))
    assert torch.equal(unpack4(packed.t(), 12), unpack4(packed.t().contiguous(), 12))
    assert torch.equal(sixteenfold(packed.t()), sixteenfold(packed.t().contiguous()))
    assert pack4(codes(2, 0, 5)).shape == (2, 0, 3)
    assert unpack4(torch.empty(2, 0, 3, dtype=torch.uint8), 5).shape == (2, 0, 5)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_both_factors_are_taken_apart_alike(width: int) -> None:
    left, right = codes(3, width), codes(4, width, seed=1)
    assert torch.equal(sixteenfold(pack4(right)), 16 * apart(right))
    product = apart(left).long() @ sixteenfold(pack4(right)).long().t()
    assert torch.equal(product >> 4, left.long() @ right.long().t())


def test_they_are_reached_through_integer_as_well() -> None:
    assert (integer.pack4, integer.unpack4) == (pack4, unpack4)
