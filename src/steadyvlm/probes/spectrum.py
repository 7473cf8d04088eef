"""How the energy of a matrix spreads over its directions: the inverse participation ratio of its spectrum.

With singular values s_1 >= s_2 >= …, the ratio of the first r is sum s_k^4 / (sum s_k^2)^2: 1 when one direction holds
everything, 1 / r when r directions hold the same. Energies s_k^2 are the eigenvalues of the smaller Gram matrix, so no
singular value decomposition is made; over all directions not even eigenvalues are needed, because both sums are traces.

Source: Sun et al. 2025, arXiv 2503.06794v2, section 3.1.
Differs: the rank of the paper, "r = floor(3/4 r)", is read as floor(3/4 min(D, N)). A matrix without energy, or without
rows, has the ratio 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steadyvlm.errors import InvalidOption


def energies(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return the squared singular values of a matrix [N, D], largest first, in float64.

    >>> energies([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    array([16.,  9.])
    """
    values = np.asarray(matrix, dtype=np.float64)
    gram = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    found: NDArray[np.float64] = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
    return found


def participation_ratio(spectrum: ArrayLike, rank: float = 0.75) -> float:
    """Return the inverse participation ratio of the leading energies.

    Args:
        spectrum: squared singular values, largest first, all min(N, D) of them.
        rank: share of them that is counted, rounded down, at least one.

    Raises:
        InvalidOption: for a rank that is not above 0 and at most 1.

    >>> [round(participation_ratio([16.0, 9.0], rank), 4) for rank in (1.0, 0.5)]
    [0.5392, 1.0]
    """
    if not 0 < rank <= 1:
        raise InvalidOption(f"rank={rank!r} is no share of the directions. Give a number above 0 and at most 1.")
    values = np.asarray(spectrum, dtype=np.float64)
    leading = values[: max(1, math.floor(rank * len(values) + 1e-9))]
    total = leading.sum()
    return float(np.square(leading / total).sum()) if total > 0 else 0.0


def full_participation_ratio(matrix: ArrayLike) -> float:
    """Return the inverse participation ratio over all directions of a matrix [N, D], from traces alone.

    >>> round(full_participation_ratio([[3.0, 0.0], [0.0, 4.0]]), 4)
    0.5392
    """
    values = np.asarray(matrix, dtype=np.float64)
    gram = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    total = np.trace(gram)
    return float(np.square(gram / total).sum()) if total > 0 else 0.0
