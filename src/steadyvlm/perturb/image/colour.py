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
from steadyvlm.perturb.image.work import Floats, Work, to_bytes

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Added to V, in units of the whole range."""
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
"""Factor and summand of the saturation: two levels fade the colours, three push them."""
_UNITS = np.arange(256) / 255


def brightness(work: Work) -> Pixels:
    """Raise every pixel's maximum by the same amount, its colour unchanged."""
    table = _brighter(BRIGHTNESS[work.severity - 1])
    maximum = _maximum(work.pixels).astype(np.int32) << 8
    return np.take(table, maximum[..., None] + work.pixels)


def saturate(work: Work) -> Pixels:
    """Scale every pixel's saturation: 0.3 and 0.1 times, then 2, 5 and 20 times."""
    maximum = _maximum(work.pixels)
    minimum = np.minimum(np.minimum(work.pixels[..., 0], work.pixels[..., 1]), work.pixels[..., 2])
    wanted = np.take(_saturated(*SATURATE[work.severity - 1]), (maximum.astype(np.int32) << 8) + minimum)[..., None]
    highest = np.take(_UNITS, maximum)[..., None]
    spread = highest - np.take(_UNITS, minimum)[..., None]
    grey = np.flatnonzero(spread == 0)
    spread.reshape(-1)[grey] = 1
    below = np.subtract(highest, np.take(_UNITS, work.pixels))
    below.reshape(-1, 3)[grey, 1:] = 1  # hue 0: red keeps the maximum, green and blue are the minimum
    # the references' formula in their order: twice a saturation is often a whole number of bytes, and rounding decides
    # whether cutting its fraction gives that number or the one below
    below *= wanted
    below /= spread
    np.subtract(1, below, out=below)
    below *= highest
    below *= 255
    return below.astype(np.uint8)


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
def _saturated(factor: float, summand: float) -> Floats:
    """The new saturation at 256 V + m, in float64."""
    maximum, minimum = _UNITS[:, None], _UNITS[None, :]
    saturation = np.divide(maximum - minimum, maximum, out=np.zeros((256, 256)), where=maximum > 0)
    return np.clip(factor * saturation + summand, 0, 1).ravel()
