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
    # Apple's devices have no float64
    wide = rows.to("cpu" if rows.device.type == "mps" else rows.device).to(torch.float64)
    gram = wide @ wide.T if count <= width else wide.T @ wide
    if not bool(gram.isfinite().all()):
        raise RunError(
            "the spectrum of hidden states that are not finite was asked for. Load the model with dtype='float32', "
            "or check the weights for NaN."
        )
    energies, vectors = torch.linalg.eigh(gram)  # ascending
    energies, vectors = energies.flip(0).clamp_min(0), vectors.flip(1)
    noise = float(energies[0]) * max(count, width) * torch.finfo(torch.float64).eps
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
