"""Fields of random numbers from 16 random bits each, through a table.

A normal number from NumPy costs seven times one looked up in a table of 65,536 quantiles, and the outputs have 256
levels: the table's largest error in the distribution function is 1/131072.

Differs: the references draw from NumPy's polar normal generator and from its Poisson generator; the distributions are
the same to that precision, the numbers are not.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, pdtr

LEVELS = 1 << 16
_GUIDE_BITS = 6


def sixteen_bits(draws: np.random.RandomState, *shape: int) -> NDArray[np.uint16]:
    """Return whole numbers from 0 to 65,535, all equally likely."""
    count = int(np.prod(shape))
    return np.frombuffer(draws.bytes(2 * count), dtype="<u2").reshape(shape)


def normal(draws: np.random.RandomState, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> NDArray[np.float32]:
    """Return a normal field.

    >>> field = normal(np.random.RandomState(0), 100, 100, mean=3.0)
    >>> round(float(field.mean()), 1), round(float(field.std()), 1)
    (3.0, 1.0)
    """
    table = _quantiles() * np.float32(deviation) + np.float32(mean)
    return np.take(table, sixteen_bits(draws, *shape))


def uniform(draws: np.random.RandomState, *shape: int, reach: float) -> NDArray[np.float32]:
    """Return a field that is uniform between -`reach` and `reach`."""
    table = ((np.arange(LEVELS) + 0.5) / LEVELS * 2 - 1) * reach
    return np.take(table.astype(np.float32), sixteen_bits(draws, *shape))


def poisson(draws: np.random.RandomState, values: NDArray[np.uint8], rate: float) -> NDArray[np.uint8]:
    """Return a Poisson count for each byte v of `values`, with mean v * rate / 255.

    The count is the number of thresholds of the distribution function at or below the draw. A guide table starts the
    search where it ends for most draws; the few others walk on.

    >>> counts = poisson(np.random.RandomState(0), np.full((100, 100), 255, np.uint8), 5)
    >>> round(float(counts.mean()), 1)
    5.0
    """
    thresholds, guide = _poisson_tables(rate)
    width = thresholds.shape[1]
    bits = sixteen_bits(draws, *values.shape).ravel()
    byte = values.ravel().astype(np.int32)
    count = np.take(guide, (byte << (16 - _GUIDE_BITS)) + (bits >> _GUIDE_BITS))
    walking = np.flatnonzero(np.take(thresholds, byte * width + count) <= bits)
    while walking.size:
        count[walking] += 1
        beyond = np.take(thresholds, byte[walking] * width + count[walking]) <= bits[walking]
        walking = walking[beyond]
    return count.reshape(values.shape)


@cache
def _quantiles() -> NDArray[np.float32]:
    quantiles: NDArray[np.float32] = ndtri((np.arange(LEVELS) + 0.5) / LEVELS).astype(np.float32)
    quantiles.setflags(write=False)
    return quantiles


@cache
def _poisson_tables(rate: float) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """For each byte: thresholds [256, K], 65,536 P(count <= k), and guide [256, 1024], the count at a bin's start."""
    most = int(rate + 10 * rate**0.5 + 10)
    chance = pdtr(np.arange(most)[None, :], np.arange(256)[:, None] * (rate / 255))
    thresholds = np.rint(chance * LEVELS).astype(np.int32)
    starts = np.arange(0, LEVELS, 1 << _GUIDE_BITS)
    guide = np.stack([np.searchsorted(row, starts, side="right") for row in thresholds]).astype(np.uint8)
    return thresholds, guide
