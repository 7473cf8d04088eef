"""Pictures for the tests, made by arithmetic: nothing in them is symmetric, and every kind of colour occurs."""

from __future__ import annotations

import numpy as np

from steadyvlm.perturb.base import Pixels


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Return a scene: a fading sky, a textured ground, a disc, a red sign upper left, grey, black and white bars."""
    draws = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:height, 0:width] / np.array([max(height - 1, 1), max(width - 1, 1)])[:, None, None]
    picture = np.stack([90 + 120 * rows, 150 - 30 * columns, 230 - 110 * rows * columns], axis=-1)
    ground = rows > 0.6 + 0.1 * np.sin(6 * columns)
    texture = draws.normal(0, 18, (height, width, 3))
    picture[ground] = (np.array([70, 110, 50]) + texture)[ground]
    picture[(rows - 0.45) ** 2 + (columns - 0.7) ** 2 < 0.03] = [240, 170, 40]
    picture[(rows < 0.3) & (rows > 0.05) & (columns < 0.25)] = [200, 20, 30]
    for at, grey in enumerate((0, 85, 128, 255)):
        picture[(rows > 0.85) & (columns > 0.2 * at) & (columns < 0.2 * at + 0.12)] = grey
    return np.clip(picture, 0, 255).astype(np.uint8)
