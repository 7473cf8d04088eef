"""Zoom blur: the average of a picture and a dozen enlargements of it, as of a lens turned during the exposure.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions.

Differs:
    - One affine resampling a layer instead of SciPy's `zoom`, on float32; at most one grey level.
    - `paper` trims enlargements at their centre, `general` at their lower right, each like its reference. The released
      generator also cuts columns at the *row* offset and mirrors portraits of snow; neither is repeated.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Floats, Work, to_bytes

SETTINGS = ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))
"""Step from one factor to the next and number of factors, from 1 on. Severity 1 has 12, ending at 1.11: the references
build the factors with a float `arange` that rounds up to one more than its text says."""


def zoom_blur(work: Work) -> Pixels:
    """Average enlargements; the picture itself counts twice."""
    step, count = SETTINGS[work.severity - 1]
    picture = work.pixels.astype(np.float32)
    total = picture * 2
    for layer in range(1, count):
        total += zoomed(picture, 1 + layer * ((1 + step) - 1), centred=work.profile == "paper")
    total *= 1 / (count + 1)
    return to_bytes(total)


def zoomed(values: Floats, factor: float, *, centred: bool = False, whole: bool = False) -> Floats:
    """Return the middle of `values` enlarged by `factor`, sampled linearly from corner to corner.

    Args:
        values: [H, W] or [H, W, 3] float32.
        factor: at least 1.
        centred: cut the enlargement to [H, W] around its centre instead of from its upper left.
        whole: do not cut it.
    """
    height, width = values.shape[:2]
    rows, down, top, tall = _axis(height, factor, centred)
    columns, right, left, wide = _axis(width, factor, centred)
    size = (wide, tall) if whole else (width, height)
    if whole:
        top, left = (height - rows) // 2, (width - columns) // 2
    matrix = np.array([[right, 0, left], [0, down, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _axis(length: int, factor: float, centred: bool) -> tuple[int, float, float, int]:
    """Crop length, source pixels per output pixel, where the first output pixel lies, and the enlarged length."""
    crop = math.ceil(length / factor)
    enlarged = round(crop * factor)
    pitch = (crop - 1) / (enlarged - 1)
    start = (length - crop) // 2
    trimmed = (enlarged - length) // 2 if centred else 0
    return crop, pitch, start + trimmed * pitch, enlarged
