"""Products of int8 matrices summed in int32, and whether this machine sums them exactly.

Not every processor does. x86 without VNNI instructions (Intel before Ice Lake, AMD before Zen 4) adds pairs of products
in 16 bits, one factor shifted to 0..255: 2 * 255 * 127 does not fit, is cut off, and nobody says so. So the machine is
asked, with the largest numbers there are, before it is trusted.

Source: oneDNN developer guide, "Nuances of int8 computations" (the library behind `torch._int_mm` on CPUs).

Letters: N rows, K summands, O output width.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def sums_exactly(device: str) -> bool:
    """Return whether `int_product` on a device of this type is exact for all codes; asked once, in microseconds.

    >>> sums_exactly("cuda")
    True
    """
    return device != "cpu" or all(_right(2, *shape) and _right(32, *shape) for shape in ((16, 8), (64, 64)))


def int_product(codes: Tensor, weight: Tensor, *, padded: bool | None = None) -> Tensor:
    """Return codes [N, K] int8 times weight [O, K] int8: [N, O] int32, exact where `sums_exactly`.

    Args:
        codes: of the activations.
        weight: of the linear.
        padded: fill up with zeros to the shapes that CUDA takes (more than 16 rows, widths in eights); None for where
            the tensors lie there.
    """
    rows, outputs = codes.shape[0], weight.shape[0]
    if codes.is_cuda if padded is None else padded:
        width = -codes.shape[1] % 8
        codes = torch.nn.functional.pad(codes, (0, width, 0, max(0, 32 - rows)))
        weight = torch.nn.functional.pad(weight, (0, width, 0, -outputs % 8))
    return torch._int_mm(codes, weight.t())[:rows, :outputs]


def _right(rows: int, width: int, outputs: int) -> bool:
    """Whether the largest codes there are come to the right sums, of either sign."""
    codes, weight = torch.full((rows, width), 127, dtype=torch.int8), torch.full((outputs, width), 127).to(torch.int8)
    weight[::2] = -128
    expected = torch.where(torch.arange(outputs) % 2 == 0, -128, 127) * 127 * width
    return torch.equal(int_product(codes, weight), expected.to(torch.int32).expand(rows, -1))
