"""Fog: a cloud made by midpoint displacement, under which the picture's own contrast fades.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions: the cloud's side is the next power of
two, so that its structure doubles between 256 and 257 pixels. `paper`: always a cloud of 256, enlarged by whole numbers
along each side with cubic splines.

Kept: the amplitude of the cloud is the *square* of the width that shrinks from step to step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Work, to_bytes

SETTINGS = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""Strength of the fog, and how fast its finer structure fades."""
PAPER_SIDE = 256


def fog(work: Work) -> Pixels:
    """Fill the air with fog."""
    strength, decay = SETTINGS[work.severity - 1]
    height, width = work.size
    draws = work.draws("field")
    if work.profile == "paper":
        times = (height // PAPER_SIDE + 1, width // PAPER_SIDE + 1)
        field = cloud(PAPER_SIDE, decay, draws)
        field = field if times == (1, 1) else ndimage.zoom(field, times)
    else:
        field = cloud(1 << (max(height, width) - 1).bit_length(), decay, draws)
    brightest = float(work.pixels.max()) / 255
    scale = brightest / (brightest + strength)
    veil = (field[:height, :width] * (255 * strength * scale)).astype(np.float32)
    values = work.pixels * np.float32(scale)
    values += veil[..., None]
    return to_bytes(values)


def cloud(side: int, decay: float, draws: np.random.RandomState) -> NDArray[np.float64]:
    """Return a fractal height field on a torus, [`side`, `side`] from 0 to 1; `side` is a power of two.

    Diamond and square: the middle of four known points is their mean plus noise, then the middle of each edge, and so
    on at half the distance with less noise.

    >>> cloud(4, 2.0, np.random.RandomState(0)).shape
    (4, 4)
    """
    field = np.zeros((side, side))
    step, width = side, 100.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        centres = field[half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=1)
        centres[:] = _mean(beside + np.roll(beside, -1, axis=0), width, draws)
        field[::step, half::step] = _mean(beside + centres + np.roll(centres, 1, axis=0), width, draws)
        below = corners + np.roll(corners, -1, axis=0)
        field[half::step, ::step] = _mean(below + centres + np.roll(centres, 1, axis=1), width, draws)
        step, width = half, width / decay
    field -= field.min()
    highest = field.max()
    return field / highest if highest > 0 else field


def _mean(total: NDArray[np.float64], width: float, draws: np.random.RandomState) -> NDArray[np.float64]:
    noise = draws.random_sample(total.shape)
    noise *= 2 * width**2
    noise += total / 4 - width**2
    return noise
