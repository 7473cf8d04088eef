"""Spatter on the lens: drops of water at severities 1 to 3, mud at 4 and 5.

Source: ImageNet-C, arXiv 1903.12261.

Differs: where no drop is drawn (about 1.5 % of pictures of 32 pixels at severity 1) the references divide 0 by 0; here
the picture stays as it is.
"""

from __future__ import annotations

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.blur import gaussian
from steadyvlm.perturb.image.draws import normal
from steadyvlm.perturb.image.work import Floats, Work, thrice, to_bytes

SETTINGS = (
    (0.65, 0.3, 4.0, 0.69, 0.6),
    (0.65, 0.3, 3.0, 0.68, 0.6),
    (0.65, 0.3, 2.0, 0.68, 0.5),
    (0.65, 0.3, 1.0, 0.65, 1.5),
    (0.67, 0.4, 1.0, 0.65, 1.5),
)
"""Mean and deviation of the field, its blur, the threshold of a drop; strength of water, or blur of mud."""
FIRST_MUD = 4
WATER = (175, 238, 238)
MUD = (63, 42, 20)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def spatter(work: Work) -> Pixels:
    """Look through drops of water, or through mud."""
    mean, deviation, blur, threshold, strength = SETTINGS[work.severity - 1]
    field = gaussian(normal(work.draws("field"), *work.size, mean=mean, deviation=deviation), blur)
    if work.severity >= FIRST_MUD:
        cover = gaussian((field > threshold).astype(np.float32), strength)
        cover[cover < 0.8] = 0
        values = thrice(1 - cover)
        values *= work.pixels
        values += cv2.merge([cover * part for part in MUD])
        return to_bytes(values)
    field[field < threshold] = 0
    shine = _water((field * 255).astype(np.uint8))
    brightest = float(shine.max())
    if brightest == 0:
        return work.pixels.copy()
    values = cv2.merge([shine * (part * strength / brightest) for part in WATER])
    values += work.pixels
    return to_bytes(values)


def _water(layer: Pixels) -> Floats:
    """How bright each place of the water shines: its depth times how far it is from an edge, lit from one side."""
    distance = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    np.minimum(distance, 20, out=distance)
    height = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    lit = cv2.blur(cv2.filter2D(height, cv2.CV_8U, _EMBOSS), (3, 3))
    return layer * lit.astype(np.float32)
