"""How the energy of a matrix spreads over its directions, and how much each row takes part in the leading ones.

For rows o_1 … o_N of width D, with singular values s_1 >= s_2 >= … and right singular vectors V of the D x N matrix
whose columns they are, cut off after the first r:

    IPR        sum s_k^4 / (sum s_k^2)^2, both over k <= r: 1 when one direction holds everything, 1 / r when all
               hold the same
    leverage   S_i = sum over k <= r of V[i, k]^2: how much of row i lies in the leading directions, 0 to 1

Both come exactly from the smaller Gram matrix, whose eigenvalues are the s_k^2: N x N when there are no more rows than
columns (its eigenvectors are V), else D x D (then V = O U / s). No singular value decomposition is made, which at
576 x 4096 takes over ten times as long.

Source: Sun et al. 2025, arXiv 2503.06794v2, sections 3.1 and 3.2.1.
Differs:
    - The paper's sentence on the rank refers to itself ("r = floor(3/4 r)"); read as floor(3/4 min(D, N)).
    - Products are summed and the eigenproblem is solved in float64: squaring squares the condition number, and the cut
      at three quarters falls among directions that float32 cannot tell from noise.
    - Directions below the noise of float64 count as absent. Their singular vectors would be arbitrary, so leverage
      would be a matter of the linear algebra library; the sum of all leverage is then the number of real directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import RunError


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What a truncated spectrum says about a matrix and its rows.

    Attributes:
        rank: r, directions counted: the wanted number, or as many as there are above noise.
        ipr: inverse participation ratio of their energies, 1 / r to 1; 0 for a matrix of zeros.
        leverage: [N] float32, share of each row in those directions.
        gap: (s_r^2 - s_(r+1)^2) / s_r^2, 0 to 1; near 0 the r leading directions are not unique, nor is leverage.
            1 when nothing is cut off.
    """

    rank: int
    ipr: float
    leverage: Tensor
    gap: float


def truncated_rank(rows: int, width: int, rank: float) -> int:
    """Return how many directions a share `rank` of the possible ones is: rounded down, at least one.

    >>> [truncated_rank(rows, 4096, 0.75) for rows in (576, 37, 1)]
    [432, 27, 1]
    """
    return max(1, math.floor(rank * min(rows, width) + 1e-9))


def truncated_spectrum(rows: Tensor, rank: float = 0.75) -> Spectrum:
    """Return IPR and leverage of `rows`.

    Args:
        rows: [N, D] float, N and D at least 1, any float dtype; not centred.
        rank: share of the min(N, D) directions to count, above 0 and at most 1.

    Returns:
        The spectrum; `leverage` lies on the device of `rows`.

    Raises:
        RunError: when `rows` holds a value that is not finite.

    >>> found = truncated_spectrum(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), rank=1.0)
    >>> found.rank, round(found.ipr, 4), found.leverage
    (2, 0.82, tensor([1., 1., 0.]))
    """
    count, width = rows.shape
    wide = _wide(rows)
    gram = _gram(wide)
    energies, vectors = torch.linalg.eigh(gram)  # ascending
    energies, vectors = energies.flip(0).clamp_min(0), vectors.flip(1)
    noise = float(energies[0]) * _noise(count, width)
    real = int((energies > noise).sum())
    used = min(truncated_rank(count, width, rank), real)
    leading = energies[:used]
    if count <= width:
        leverage = vectors[:, :used].square().sum(dim=1)
    else:
        leverage = ((wide @ vectors[:, :used]).square() / leading).sum(dim=1)
    total = float(leading.sum())
    return Spectrum(
        rank=used,
        ipr=float((leading / total).square().sum()) if used else 0.0,
        leverage=leverage.to(torch.float32).to(rows.device),
        gap=float(1 - energies[used] / energies[used - 1]) if 0 < used < real else 1.0,
    )


def participation_ratios(rows: Tensor, rank: float = 0.75) -> Tensor:
    """Return the IPR alone of a batch of matrices, without eigenvectors; at rank 1 without any eigenproblem.

    Args:
        rows: [B, N, D] float, any float dtype; N may be 0, which gives 0.
        rank: as for `truncated_spectrum`.

    Returns:
        [B] float64 on the CPU.

    Raises:
        RunError: when `rows` holds a value that is not finite.

    >>> participation_ratios(torch.eye(4).expand(2, 4, 4), rank=0.5)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    batch, count, width = rows.shape
    if count == 0:
        return torch.zeros(batch, dtype=torch.float64)
    gram = _gram(_wide(rows))
    used = truncated_rank(count, width, rank)
    if used == min(count, width):  # both sums are traces
        total = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        squares = gram.square().sum(dim=(1, 2))
    else:
        energies = torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)[:, :used]
        total, squares = energies.sum(dim=1), energies.square().sum(dim=1)
    ratio = torch.where(total > 0, squares / total.square(), torch.zeros_like(total))
    return ratio.cpu()


def _wide(rows: Tensor) -> Tensor:
    """Return the rows in float64, on the CPU when they lie on a device of Apple's, which have none."""
    return rows.to("cpu" if rows.device.type == "mps" else rows.device).to(torch.float64)


def _gram(wide: Tensor) -> Tensor:
    """Return the smaller Gram matrix of [..., N, D].

    Raises:
        RunError: when it is not finite.
    """
    count, width = wide.shape[-2:]
    gram = wide @ wide.mT if count <= width else wide.mT @ wide
    if not bool(gram.isfinite().all()):
        raise RunError(
            "the spectrum of hidden states that are not finite was asked for. Load the model with dtype='float32', "
            "or check the weights for NaN."
        )
    return gram


def _noise(count: int, width: int) -> float:
    """Return the share of the largest energy below which an energy may be rounding."""
    return max(count, width) * torch.finfo(torch.float64).eps
