"""What FlatQuant learns about a block: invertible matrices, scales above zero, clips between zero and one.

Source: Sun et al. 2024, arXiv 2410.09426, sections 3.1 and 3.2; repository ruikangliu/FlatQuant at 9d88ffc, both of its
parametrisations of a matrix.
Differs: a scale is learned by its logarithm, so that it stays above zero whatever the step.

Letters: n order of a matrix, I input width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steadyvlm.quantization.hadamard import random_orthogonal, rotation
from steadyvlm.quantization.state import Clip

SMALLEST_SCALE = 1e-5
"""No channel's scale starts below this."""


class LearnedMatrix(nn.Module):
    """An invertible matrix [n, n] that starts orthogonal.

    Attributes:
        free: the matrix itself ("inverse": whoever needs its inverse computes it).
        left, right: [n, n] of which the antisymmetric part is turned into an orthogonal factor by the Cayley map, and
            spread: [n] logarithms of what stands between them ("cayley"): P = U diag(s) V^T.
    """

    start: Tensor

    def __init__(self, start: Tensor, parametrization: str) -> None:
        """Start at the orthogonal matrix `start`."""
        super().__init__()
        self.cayley = parametrization == "cayley"
        if self.cayley:
            self.register_buffer("start", start)
            self.left, self.right = (nn.Parameter(torch.zeros_like(start)) for _ in range(2))
            self.spread = nn.Parameter(start.new_zeros(len(start)))
        else:
            self.free = nn.Parameter(start.clone())

    def forward(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the matrix; a copy, computed in `dtype`, where one is given."""
        if not self.cayley:
            return self.free if dtype is None else self.free.detach().to(dtype, copy=True)
        left, right, spread, start = (
            part if dtype is None else part.to(dtype) for part in (self.left, self.right, self.spread, self.start)
        )
        return _rotated(left) @ start * spread.exp() @ _rotated(right).T


class ClipLogits(nn.Module):
    """Clip shares as sigmoids, one pair for each of some rows, or one pair for all.

    Attributes:
        high, low: [O, 1], or [] for one pair.
    """

    def __init__(self, shape: tuple[int, ...], start: float) -> None:
        """Start all at the logit `start`; 4 is a share of 0.982."""
        super().__init__()
        self.high = nn.Parameter(torch.full(shape, start))
        self.low = nn.Parameter(torch.full(shape, start))

    def forward(self) -> Clip:
        """Return the shares."""
        return Clip(self.high.sigmoid(), self.low.sigmoid())


def first_matrix(order: int, start: str, generator: torch.Generator) -> Tensor:
    """Return the orthogonal [n, n] float64 a matrix starts from: "hadamard" as far as it goes, or "orthogonal"."""
    return rotation(order, generator) if start == "hadamard" else random_orthogonal(order, generator)


def first_scale(weight: Tensor, largest: Tensor | None, alpha: float) -> Tensor:
    """Return c [I] = max|W_i|^(1 - alpha) / max|x_i|^alpha, which evens channels out before anything is learned.

    Args:
        weight: [O, I] of all linears that read the input.
        largest: [I] largest magnitude of each channel; None counts every channel as one.
        alpha: share of the range that moves from the activations into the weights.

    >>> first_scale(torch.tensor([[1.0, -1.0]]), torch.tensor([16.0, 1.0]), alpha=0.5)
    tensor([0.2500, 1.0000])
    """
    scale = weight.abs().amax(dim=0) ** (1.0 - alpha)
    if largest is not None:
        scale = scale / largest.to(weight).clamp(min=SMALLEST_SCALE) ** alpha
    return scale.clamp(min=SMALLEST_SCALE)


def _rotated(matrix: Tensor) -> Tensor:
    """The Cayley map of the antisymmetric part A: (I + A)^-1 (I - A), orthogonal; the identity for zeros."""
    skew = (matrix - matrix.T) / 2
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    turned: Tensor = torch.linalg.solve(identity + skew, identity - skew)
    return turned
