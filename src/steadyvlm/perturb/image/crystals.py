"""Frost made by us, for when no photograph of it is installed: needles of ice over a cloudy, paler rim.

Specks are drawn and smeared along six directions, the brightest needle winning at every pixel; a fractal cloud and a
vignette lie below. Mean and spread of the grey levels are about those of the photographs (0.3 to 0.85, 0.06 to 0.17).

Differs from the specification's recipe, a ridged fractal stretched along one direction: at the size of a picture that
has no edges and looks like fog.
"""

from __future__ import annotations

import numpy as np

from steadyvlm.perturb.image.blur import gaussian, motion
from steadyvlm.perturb.image.clouds import cloud
from steadyvlm.perturb.image.draws import LEVELS, sixteen_bits
from steadyvlm.perturb.image.work import Floats, Work

TINT = np.array([0.86, 0.93, 1.0], np.float32)
MEAN, SPREAD = 0.6, 0.13
DIRECTIONS = 6
SPECKS = 0.006
"""Share of pixels from which a needle grows, in each direction."""
RADIUS, TRAIL = 20, 16
CLOUD_DECAY = 1.6


def crystals(work: Work) -> Floats:
    """Return frost, [H, W, 3] in grey levels."""
    height, width = work.size
    side = 1 << (max(height, width) - 1).bit_length()
    haze = cloud(side, CLOUD_DECAY, work.draws("haze"))[:height, :width]
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    mixed = 0.6 * _standard(_needles(work)) + 0.5 * _standard(haze) + 0.4 * _standard(rows**2 + columns**2)
    levels = np.clip(MEAN + SPREAD * _standard(mixed), 0, 1) * 255
    frosted: Floats = levels[..., None].astype(np.float32) * TINT
    return frosted


def _needles(work: Work) -> Floats:
    """Return needles of ice, [H, W]."""
    height, width = work.size
    reach = 2 * RADIUS + 1  # needles also grow in from outside
    brightest = np.zeros((height, width), np.float32)
    angles = work.draws("angles").uniform(0, 360, DIRECTIONS)
    for number, angle in enumerate(angles):
        draws = work.draws(f"needles {number}")
        size = (height + 2 * reach, width + 2 * reach)
        grows = sixteen_bits(draws, *size) < SPECKS * LEVELS
        specks = np.where(grows, sixteen_bits(draws, *size), np.float32(0))
        layer = motion(specks, RADIUS, TRAIL, angle)[reach : reach + height, reach : reach + width]
        np.maximum(brightest, layer, out=brightest)
    return gaussian(brightest, 0.6)


def _standard(field: Floats) -> Floats:
    standard: Floats = (field - field.mean()) / field.std()
    return standard
