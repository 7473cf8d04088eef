"""Noise of sensors: impulse, Gaussian, shot, speckle; every pixel and channel on its own.

Source: ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261; the settings for 224 pixels.

Differs: drawn through tables (see `draws`); impulse noise comes from one draw an element instead of two.
"""

from __future__ import annotations

import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.draws import LEVELS, normal, poisson, sixteen_bits
from steadyvlm.perturb.image.work import Work, to_bytes

GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)
SHOT = (60, 25, 12, 5, 3)
IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE = (0.15, 0.2, 0.35, 0.45, 0.6)


def gaussian_noise(work: Work) -> Pixels:
    """Add a normal number, of deviation `GAUSSIAN` in units of the whole range."""
    values = normal(work.draws("field"), *work.pixels.shape, deviation=255 * GAUSSIAN[work.severity - 1])
    values += work.pixels
    return to_bytes(values)


def shot_noise(work: Work) -> Pixels:
    """Count photons: white is `SHOT` of them on average."""
    most = SHOT[work.severity - 1]
    count = poisson(work.draws("field"), work.pixels, most)
    grey = to_bytes(np.arange(256) * (255 / most))
    return grey[count]


def impulse_noise(work: Work) -> Pixels:
    """Replace a share `IMPULSE` of all elements, half of them by 0 and half by 255."""
    half = round(IMPULSE[work.severity - 1] / 2 * LEVELS)
    bits = sixteen_bits(work.draws("field"), *work.pixels.shape)
    salted = np.where(bits < 2 * half, np.uint8(255), work.pixels)
    return np.where(bits < half, np.uint8(0), salted)


def speckle_noise(work: Work) -> Pixels:
    """Multiply by one plus a normal number of deviation `SPECKLE`: bright places suffer most."""
    values = normal(work.draws("field"), *work.pixels.shape, mean=1.0, deviation=SPECKLE[work.severity - 1])
    values *= work.pixels
    return to_bytes(values)
