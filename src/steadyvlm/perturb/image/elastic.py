"""Elastic distortion: every point moved a little, its neighbours nearly alike.

Source: `general`: bethgelab/imagecorruptions, whose field is finer and goes by the picture's size; `paper`: ImageNet-C,
arXiv 1903.12261, as in the released generator of Chen et al. 2023. The two share a name and little else: levels 1 and 2
of `paper` are a random affine warp and far stronger than its levels 3 to 5.

Differs: OpenCV's Gaussian and `remap` instead of scikit-image and SciPy. Kept in `paper`: its lengths are multiples of
244 (meant was 224), and rows and columns change places in the points of its affine warp.
"""

from __future__ import annotations

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.blur import gaussian
from steadyvlm.perturb.image.draws import uniform
from steadyvlm.perturb.image.work import Floats, Work, to_bytes

GENERAL = (12.5, 16.25, 21.25, 25.0, 30.0)
"""How far points move, in multiples of the smoothed field."""
PAPER = (
    (488.0, 170.8, 24.4),
    (488.0, 19.52, 48.8),
    (12.2, 2.44, 4.88),
    (17.08, 2.44, 4.88),
    (29.28, 2.44, 4.88),
)
"""The same, then the field's blur and the jitter of the affine points, all in pixels."""


def elastic_transform(work: Work) -> Pixels:
    """Move every point along a smooth random field."""
    height, width = work.size
    picture = work.pixels.astype(np.float32)
    if work.profile == "paper":
        strength, blur, jitter = PAPER[work.severity - 1]
        picture = _affine(picture, work.draws("affine").uniform(-jitter, jitter, (3, 2)))
        reach, down, across = 1.0, blur, blur
    else:
        strength = GENERAL[work.severity - 1]
        reach, down, across = 0.005 * height, 0.01 * height, 0.01 * width
    right, below = (
        gaussian(uniform(work.draws(name), height, width, reach=reach), down, across=across, truncate=3, mirror=True)
        * np.float32(strength)
        for name in ("columns", "rows")
    )
    right += np.arange(width, dtype=np.float32)
    below += np.arange(height, dtype=np.float32)[:, None]
    return to_bytes(cv2.remap(picture, right, below, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _affine(picture: Floats, jitter: Floats) -> Floats:
    """Return the picture warped so that three points around the centre move by `jitter`."""
    height, width = picture.shape[:2]
    centre = np.array([height // 2, width // 2], np.float32)
    side = min(height, width) // 3
    corners = np.array([[side, side], [side, -side], [-side, -side]], np.float32) + centre
    matrix = cv2.getAffineTransform(corners, corners + jitter.astype(np.float32))
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
