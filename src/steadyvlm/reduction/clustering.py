"""Group rows by density peaks: a centre is a row in a crowd, far from any denser crowd.

Distances are those of the rows scaled by the square root of their width. A row is dense when its nearest neighbours
are near. It is a centre when it is dense and no denser row is near; every other row joins the nearest centre.

Source: Du, Ding, Jia 2016, "Study on density peaks clustering based on k-nearest neighbors", as SparseVLM's released
code uses it (Gumpest/SparseVLMs at 26a5f48), with as many neighbours as clusters and the row itself among them.
Differs:
    - The code adds a random jitter of up to 1e-6 to the densities, so it clusters differently from run to run, and yet
      leaves ties in half precision. Here there is none unless given, and ties go to the row that comes first.
    - Squared distances come from one float64 product instead of float32, so near rows do not cancel to noise, and a row
      is at distance 0 from itself and from its copies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steadyvlm.reduction.tensor_ops import by_score

_SAME = 1e-13
"""Squared distances below this share of the squared lengths are what float64 leaves of equal rows."""


class Clusters(NamedTuple):
    """Rows grouped around centres.

    Attributes:
        centres: [c] int64, which rows are centres, the strongest first.
        labels: [m] int64, for each row the cluster it joined, counted in the order of `centres`.
    """

    centres: Tensor
    labels: Tensor


def density_peaks(rows: Tensor, count: int, *, jitter: Tensor | None = None) -> Clusters:
    """Group [m, D] rows into `count` clusters.

    Args:
        rows: any float dtype; the order decides ties.
        count: clusters, 1 to m.
        jitter: [m] added to the densities; None adds nothing.

    >>> rows = torch.tensor([[0.0], [0.125], [0.25], [1.0], [1.125], [1.25]])
    >>> density_peaks(rows, 3)  # the middle of either crowd, then the first of what is left
    Clusters(centres=tensor([1, 4, 0]), labels=tensor([2, 0, 0, 1, 1, 1]))
    """
    distances = _distances(rows)
    nearest = distances.sort(dim=1).values[:, :count]
    densities = torch.exp(-nearest.square().mean(dim=1))
    if jitter is not None:
        densities = densities + jitter.to(densities)
    denser = densities[None, :] > densities[:, None]
    separations = distances.where(denser, distances.max()).min(dim=1).values
    centres = by_score(separations * densities)[:count]
    labels = distances[:, centres].argmin(dim=1)
    labels[centres] = torch.arange(count, device=labels.device)
    return Clusters(centres, labels)


def _distances(rows: Tensor) -> Tensor:
    """Return [m, m] float32 distances divided by the square root of the width, exactly symmetric and 0 to itself."""
    # Apple's devices have no float64
    wide = rows.to("cpu" if rows.device.type == "mps" else rows.device).to(torch.float64)
    products = wide @ wide.T
    lengths = products.diagonal()
    sums = lengths[:, None] + lengths[None, :]
    squared = sums - (products + products.T)
    squared = squared.where(squared > _SAME * sums, 0.0)
    return (squared.sqrt() / math.sqrt(rows.shape[1])).to(rows.device, torch.float32)
