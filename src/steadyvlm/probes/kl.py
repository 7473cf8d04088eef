"""How far one next-token distribution is from another: the Kullback-Leibler divergence, from logits, in nats.

Source: the measure by which VTW (Lin et al. 2024, arXiv 2405.05803) chooses its layer, with the withdrawn model first.
Differs: log-softmax and sum run in float64; rounding never makes the result negative, and a token to which both give no
chance counts nothing (not-a-number in a plain formula).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steadyvlm.errors import InvalidOption, RunError


def kl_divergence(logits: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return KL(softmax(logits) || softmax(reference)) over the last axis, one value per leading index.

    Args:
        logits: […, V] of the distribution that is asked about; minus infinity is no chance.
        reference: […, V] of the one it is held against. Infinite where a token has a chance under `logits` only.

    Raises:
        InvalidOption: when the shapes differ or there is no token.
        RunError: for logits that are NaN or plus infinity, or a row of nothing but minus infinity.

    >>> kl_divergence([[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [2.0, 1.0]]).round(4)
    array([0.    , 0.4621])
    """
    first, second = np.asarray(logits, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if first.shape != second.shape or first.ndim == 0 or first.shape[-1] == 0:
        raise InvalidOption(
            f"logits of shape {first.shape} and {second.shape} cannot be compared. "
            "Give two arrays of one shape whose last axis is the vocabulary."
        )
    ours, theirs = _log_softmax(first), _log_softmax(second)
    chance = np.exp(ours)
    possible = chance > 0
    ratio = np.subtract(ours, theirs, out=np.zeros_like(ours), where=possible)
    total: NDArray[np.float64] = np.sum(chance * ratio, axis=-1)
    return np.maximum(total, 0.0)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise RunError(
            "logits are not finite, so they are no distribution. Load the model with dtype='float32', "
            "or check its weights for NaN."
        )
    shifted = logits - highest
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
