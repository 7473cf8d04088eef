"""Fog: a cloud made by midpoint displacement, under which the picture's own contrast fades.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions: the cloud's side is the next power of
two, so that its structure doubles between 256 and 257 pixels. `paper`: always a cloud of 256, enlarged by whole numbers
along each side with cubic splines.

Kept: the amplitude of the cloud is the *square* of the width that shrinks from step to step.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Floats, Work, thrice, to_bytes

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
    values += thrice(veil)
    return to_bytes(values)


def cloud(side: int, decay: float, draws: np.random.RandomState) -> Floats:
    """Return a fractal height field on a torus, [`side`, `side`] from 0 to 1; `side` is a power of two, at least 2.

    Diamond and square: the middle of four known points is their mean plus noise, then the middle of each edge, and so
    on at half the distance with less noise.

    >>> cloud(4, 2.0, np.random.RandomState(0)).shape
    (4, 4)
    """
    # the torus is opened: its first row and column are repeated at the end
    field = np.zeros((2, 2))
    width = 100.0
    while len(field) <= side:
        beside = field[:, :-1] + field[:, 1:]
        below = field[:-1] + field[1:]
        centres = _mean(beside[:-1] + beside[1:], width, draws)
        above = np.concatenate((centres[-1:], centres))
        before = np.concatenate((centres[:, -1:], centres), axis=1)
        half = len(centres)
        finer = np.empty((2 * half + 1, 2 * half + 1))
        finer[::2, ::2] = field
        finer[1::2, 1::2] = centres
        finer[:-1:2, 1::2] = _mean(beside[:-1] + above[:-1] + above[1:], width, draws)
        finer[1::2, :-1:2] = _mean(below[:, :-1] + before[:, :-1] + before[:, 1:], width, draws)
        finer[-1] = finer[0]
        finer[:, -1] = finer[:, 0]
        field = finer
        width /= decay
    heights: Floats = field[:side, :side] - field.min()
    heights /= heights.max()
    return heights


def _mean(total: Floats, width: float, draws: np.random.RandomState) -> Floats:
    """A quarter of `total`, plus noise between -`width` and `width` that is multiplied by `width` once more."""
    noise = np.asarray(draws.random_sample(total.shape), np.float64)
    noise *= 2 * width**2
    noise -= width**2
    total *= 0.25
    noise += total
    return noise
