"""QUOTA's score of a visual token: four metrics, each pulled to 0..1 between two percentiles, in a weighted sum.

    inter_j      attention probability that the question pays token j, mean over heads and question tokens
    magnitude_j  || v_j ||
    intra_j      attention probability that the visual tokens pay token j, mean over heads and visual queries
    quant_j      || v_j - Q(v_j) ||, what a low-bit quantiser loses of the token
    m^_j         clip((m_j - P_lo) / (P_hi - P_lo + eps), 0, 1)
    S_j          sum of weight times m^_j, in this order, in float32

Everything is read from the deployed low-bit forward pass. A larger residual raises the score: fragile tokens are kept.

Source: Li et al. 2026, arXiv 2604.17320, section 3.3, equations (6) to (8); the four metrics, the weights 0.45, 0.25,
0.10 and 0.20, clipping at percentiles and the leave-one-out rule (section 0.C.1) are published.
Differs: formulas, percentiles 5 and 95 and the tensor v are reconstructed. By default v is the residual stream behind
the candidate layer and Q is symmetric, one scale per token, 4 bits, no clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.errors import UnknownName

METRICS = ("inter", "magnitude", "intra", "quant")
"""In the order of the weights."""
WEIGHTS = (0.45, 0.25, 0.10, 0.20)
WITHOUT_QUANT = (0.5625, 0.3125, 0.125, 0.0)
"""The published weights of the three metrics of the stage-wise baselines, scaled to sum to 1."""
EPS = 1e-8


def composite_score(metrics: Sequence[Tensor | None], weights: Sequence[float], percentiles: Sequence[float]) -> Tensor:
    """Return S [N] float32.

    Args:
        metrics: [N] each, in the order of `METRICS`; None where the weight is 0.
        weights: of each.
        percentiles: low and high one, over the tokens given.

    >>> tokens = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    >>> composite_score((tokens, None, -tokens, None), (0.75, 0.0, 0.25, 0.0), (0, 100))
    tensor([0.2500, 0.3750, 0.5000, 0.6250, 0.7500])
    """
    used = [(metric, weight) for metric, weight in zip(metrics, weights, strict=True) if metric is not None]
    total = torch.zeros_like(used[0][0], dtype=torch.float32)
    for metric, weight in used:
        total = total + weight * robust(metric, percentiles)
    return total


def robust(metric: Tensor, percentiles: Sequence[float]) -> Tensor:
    """Return m^ [N] float32 of a metric [N].

    >>> robust(torch.tensor([1.0, 2.0, 3.0, 100.0]), (0, 50))
    tensor([0.0000, 0.6667, 1.0000, 1.0000])
    """
    values = metric.float()
    shares = torch.tensor(percentiles, dtype=torch.float32, device=values.device) / 100
    low, high = torch.quantile(values, shares)
    rescaled: Tensor = (values - low) / (high - low + EPS)
    return rescaled.clamp_(0, 1)


def magnitude(rows: Tensor) -> Tensor:
    """Return the length [N] float32 of each row of [N, D]."""
    return _length(rows.float().contiguous())


def rounding_residual(rows: Tensor, bits: int) -> Tensor:
    """Return what symmetric rounding with one scale per row loses of each row of [N, D], as a length [N] float32.

    >>> rounding_residual(torch.tensor([[7.0, 3.25], [0.0, 0.0]]), 4)
    tensor([0.2500, 0.0000])
    """
    values = rows.float().contiguous()
    most = 2 ** (bits - 1) - 1
    largest = values.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / most, torch.ones_like(largest))
    rounded = (values / scale).round_().clamp_(-most - 1, most).mul_(scale)
    return _length(values - rounded)


def _length(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def corrected_for_causality(received: Tensor) -> Tensor:
    """Return means over all N visual queries as means over those that can see the token: itself and later ones.

    Args:
        received: [N], in the order of the prompt.

    >>> corrected_for_causality(torch.tensor([0.6, 0.4, 0.1]))
    tensor([0.6000, 0.6000, 0.3000])
    """
    tokens = received.shape[0]
    seeing = torch.arange(tokens, 0, -1, dtype=torch.float32, device=received.device)
    return received.float() * tokens / seeing


def without(metric: str, weights: Sequence[float] = WEIGHTS) -> tuple[float, ...]:
    """Return weights with one metric removed and its weight spread equally on the others.

    Raises:
        UnknownName: for a metric there is not.

    >>> [round(weight, 4) for weight in without("inter")]
    [0.0, 0.4, 0.25, 0.35]
    """
    if metric not in METRICS:
        raise UnknownName.among("token metric", metric, METRICS)
    removed = METRICS.index(metric)
    share = weights[removed] / (len(METRICS) - 1)
    return tuple(0.0 if place == removed else weight + share for place, weight in enumerate(weights))
