"""Blurs that are one filter: Gaussian, out of focus, motion.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions.

Differs:
    - The Gaussian is OpenCV's on float32 instead of scikit-image's; at most one grey level, in fewer than one of
      10,000 values.
    - Motion adds up shifted views of the picture with its border continued; ImageNet-C calls ImageMagick,
      imagecorruptions rolls the picture once per tap, and stops short (darkening it) when a side is below 41 pixels.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Floats, Work, to_bytes

GAUSSIAN = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Standard deviation in pixels."""
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
"""Radius of the disc in pixels, and the standard deviation its own edge is smoothed with."""
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
"""Radius and standard deviation of the trail in pixels."""


def gaussian_blur(work: Work) -> Pixels:
    """Blur with a Gaussian."""
    return to_bytes(gaussian(work.pixels.astype(np.float32), GAUSSIAN[work.severity - 1]))


def defocus_blur(work: Work) -> Pixels:
    """Blur with a disc, as a lens out of focus does."""
    return to_bytes(cv2.filter2D(work.pixels.astype(np.float32), -1, _disc(*DEFOCUS[work.severity - 1])))


def motion_blur(work: Work) -> Pixels:
    """Blur along a line whose direction is drawn between -45 and 45 degrees."""
    radius, deviation = MOTION[work.severity - 1]
    angle = work.draws("angle").uniform(-45, 45)
    return to_bytes(motion(work.pixels.astype(np.float32), radius, deviation, angle))


def gaussian(
    values: Floats, deviation: float, *, across: float | None = None, truncate: float = 4.0, mirror: bool = False
) -> Floats:
    """Return `values` blurred: deviation down the rows, and `across` the columns if that differs.

    The kernel reaches `truncate` deviations far. The border is repeated, or mirrored with its edge doubled.
    """
    across = deviation if across is None else across
    width, height = (2 * int(truncate * item + 0.5) + 1 for item in (across, deviation))
    border = cv2.BORDER_REFLECT if mirror else cv2.BORDER_REPLICATE
    return cv2.GaussianBlur(values, (width, height), across, sigmaY=deviation, borderType=border)


def motion(values: Floats, radius: int, deviation: float, angle: float) -> Floats:
    """Return `values` smeared one way along `angle` degrees, with a half Gaussian of 2 `radius` + 1 taps."""
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * deviation**2))
    taps /= taps.sum()
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    weights: dict[tuple[int, int], float] = {}
    for at, weight in enumerate(taps):
        place = math.ceil(at * sine - 0.5), math.ceil(at * cosine - 0.5)
        weights[place] = weights.get(place, 0.0) + float(weight)
    rows, columns = zip(*weights, strict=True)
    above, below, left, right = -min(rows), max(rows), -min(columns), max(columns)
    wide = cv2.copyMakeBorder(values, above, below, left, right, cv2.BORDER_REPLICATE)
    height, width = values.shape[:2]
    total = np.zeros_like(values)
    for (row, column), weight in weights.items():
        top, start = row + above, column + left
        cv2.scaleAdd(wide[top : top + height, start : start + width], weight, total, total)
    return total


@cache
def _disc(radius: int, deviation: float) -> Floats:
    """The references' kernel: smoothed after it was normalised, and not normalised again."""
    reach = max(radius, 8)
    line = np.arange(-reach, reach + 1)
    disc = ((line[:, None] ** 2 + line**2) <= radius**2).astype(np.float32)
    disc /= disc.sum()
    side = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(disc, (side, side), deviation)
