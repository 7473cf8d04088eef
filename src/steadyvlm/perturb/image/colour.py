"""Brightness and saturation, without a round trip through hue.

Both keep the ratio of the three channels' distances from the maximum V, which is all that hue says, so they are closed
forms in V, the minimum m and the channel itself. All are bytes, so the forms are tables.

Source: ImageNet-C, arXiv 1903.12261 (there through scikit-image's HSV); never more than one grey level apart. Kept from
it: saturation counts grey as red (hue 0), so that severities 4 and 5 turn greys reddish.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Work, to_bytes

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Added to V, in units of the whole range."""
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
"""Factor and summand of the saturation: two levels fade the colours, three push them."""


def brightness(work: Work) -> Pixels:
    """Raise every pixel's maximum by the same amount, its colour unchanged."""
    table = _brighter(BRIGHTNESS[work.severity - 1])
    maximum = _maximum(work.pixels).astype(np.int32) << 8
    return np.take(table, maximum[..., None] + work.pixels)


def saturate(work: Work) -> Pixels:
    """Scale every pixel's saturation: 0.3 and 0.1 times, then 2, 5 and 20 times."""
    scale, grey = _saturated(*SATURATE[work.severity - 1])
    maximum = _maximum(work.pixels)
    spread = maximum - np.minimum(np.minimum(work.pixels[..., 0], work.pixels[..., 1]), work.pixels[..., 2])
    values = (maximum[..., None] - work.pixels).astype(np.float32)
    values *= np.take(scale, (maximum.astype(np.int32) << 8) + spread)[..., None]
    np.subtract(maximum[..., None], values, out=values)
    colourless = np.flatnonzero(spread == 0)
    if colourless.size and grey[255] < 255:
        values.reshape(-1, 3)[colourless, 1:] = np.take(grey, maximum.ravel()[colourless])[:, None]
    return to_bytes(values)


def _maximum(pixels: Pixels) -> Pixels:
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


@cache
def _brighter(amount: float) -> NDArray[np.uint8]:
    """The new byte at 256 V + x: x min(V + 255 `amount`, 255) / V, and black becomes grey."""
    maximum = np.arange(256.0)[:, None]
    raised = np.minimum(maximum + 255 * amount, 255)
    channel = np.where(maximum > 0, np.arange(256.0) / np.maximum(maximum, 1), 1.0)
    return to_bytes(raised * channel).ravel()


@cache
def _saturated(factor: float, summand: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """At 256 V + (V - m): how much farther from V a channel lies; and for greys the two lower channels at V."""
    maximum = np.arange(256.0)[:, None]
    spread = np.arange(256.0)
    wanted = np.clip(factor * spread / np.maximum(maximum, 1) + summand, 0, 1)
    scale = maximum * wanted / np.maximum(spread, 1)
    grey = np.arange(256.0) * (1 - min(summand, 1.0))
    return scale.astype(np.float32).ravel(), grey.astype(np.float32)
