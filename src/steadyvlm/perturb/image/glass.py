"""Frosted glass: pixels exchanged with near neighbours, between two slight blurs.

Source: ImageNet-C, arXiv 1903.12261. The references visit pixel after pixel and mean to swap two of them; their tuple
assignment on array views copies instead: the visited pixel takes its partner's colour and the partner keeps its own.
That is what the published data hold, and so does this.

A pixel's final colour is found without a loop over pixels. In one pass every visited pixel points at its partner. Was
the partner visited earlier in the pass, its colour is what *it* had taken, and so on back in time. Chains of pointers
are shortened by doubling until they end; the result equals the loop's, bit for bit, for the same draws.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.blur import gaussian
from steadyvlm.perturb.image.draws import sixteen_bits
from steadyvlm.perturb.image.work import Work, to_bytes

SETTINGS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""Standard deviation of both blurs, reach of an exchange, passes."""

Indices = NDArray[np.int32]


def glass_blur(work: Work) -> Pixels:
    """Look through frosted glass."""
    deviation, reach, passes = SETTINGS[work.severity - 1]
    height, width = work.size
    pixels = to_bytes(gaussian(work.pixels.astype(np.float32), deviation))
    source = np.arange(height * width, dtype=np.int32)
    for turn in range(passes):
        visits = max(height - 2 * reach, 0) * max(width - 2 * reach, 0)
        bits = sixteen_bits(work.draws(f"pass {turn}"), visits, 2)
        steps = ((bits.astype(np.int32) * (2 * reach)) >> 16) - reach
        source = source[chase(height, width, reach, steps)]
    mixed = np.take(pixels.reshape(-1, 3), source, axis=0).reshape(pixels.shape)
    return to_bytes(gaussian(mixed.astype(np.float32), deviation))


def chase(height: int, width: int, reach: int, steps: NDArray[np.int32]) -> Indices:
    """Return for every pixel the one whose colour it has after a pass.

    Args:
        height: of the picture.
        width: of the picture.
        reach: largest step.
        steps: [visits, 2] int, steps right and down in the order of visits, each from -`reach` to `reach` - 1.

    >>> chase(5, 5, 1, np.full((9, 2), -1)).reshape(5, 5)[2:, 2:].tolist()  # each takes its upper left neighbour's
    [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    """
    visited, order = _visits(height, width, reach)
    partner = visited + steps[:, 1].astype(np.int32) * np.int32(width) + steps[:, 0].astype(np.int32)
    earlier = order[partner] < np.arange(len(visited), dtype=np.int32)
    final = np.arange(height * width, dtype=np.int32)
    # a visited pixel whose partner was not visited before it holds the partner's own colour; others wait for theirs
    final[visited] = np.where(earlier, visited, partner)
    waiting = np.flatnonzero(earlier)
    link = np.arange(height * width, dtype=np.int32)
    link[visited[waiting]] = partner[waiting]
    pixel = visited[waiting]
    while pixel.size:
        ahead = link[link[pixel]]
        moved = ahead != link[pixel]
        link[pixel] = ahead
        pixel = pixel[moved]
    return final[link]


@lru_cache(maxsize=32)
def _visits(height: int, width: int, reach: int) -> tuple[Indices, Indices]:
    """Pixels in the order of visits (from below, from the right), and for every pixel its turn, or a late one."""
    rows = np.arange(height - reach, reach, -1, dtype=np.int32)
    columns = np.arange(width - reach, reach, -1, dtype=np.int32)
    visited = (rows[:, None] * width + columns).ravel()
    order = np.full(height * width, np.iinfo(np.int32).max, np.int32)
    order[visited] = np.arange(len(visited), dtype=np.int32)
    visited.setflags(write=False)
    order.setflags(write=False)
    return visited, order
