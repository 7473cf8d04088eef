"""Snow: enlarged specks of noise, smeared as they fall, over a paler picture; a second layer is the first turned round.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions.

Differs: motion as in `blur`. The released generator returns portraits mirrored left to right, which turns "left" into
"right" in questions; no profile repeats that.
"""

from __future__ import annotations

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.blur import motion
from steadyvlm.perturb.image.draws import normal
from steadyvlm.perturb.image.work import Work, thrice, to_bytes
from steadyvlm.perturb.image.zoom import zoomed

SETTINGS = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of the field, its enlargement, the threshold of a flake, radius and deviation of its trail, and
the share of the picture that stays as it was."""


def snow(work: Work) -> Pixels:
    """Let it snow."""
    mean, deviation, factor, threshold, radius, trail, share = SETTINGS[work.severity - 1]
    height, width = work.size
    field = normal(work.draws("field"), height, width, mean=mean, deviation=deviation)
    paper = work.profile == "paper"
    # imagecorruptions smears the whole enlargement and then cuts it: the cut has no border of its own
    flakes = zoomed(field, factor, centred=paper, whole=not paper)[: height + _reach(radius), : width + _reach(radius)]
    flakes[flakes < threshold] = 0
    np.clip(flakes, 0, 1, out=flakes)
    if paper:
        flakes = np.floor(flakes * 255) / 255
    angle = work.draws("angle").uniform(-135, -45)
    layer = np.rint(motion(flakes, radius, trail, angle)[:height, :width] * 255)
    picture = work.pixels.astype(np.float32)
    pale = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * 1.5 + 127.5
    values = np.maximum(picture, thrice(pale))
    values *= 1 - share
    values += share * picture
    values += thrice(layer + layer[::-1, ::-1])
    return to_bytes(values)


def _reach(radius: int) -> int:
    """How far a smear of this radius looks."""
    return 2 * radius + 1
