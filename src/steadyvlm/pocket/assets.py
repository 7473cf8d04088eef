"""Masks that scenes are painted with: handwritten digits and printed words, prepared once and shipped.

Digits are the 1,797 8x8 images of scikit-learn's `load_digits` (UCI "Optical Recognition of Handwritten Digits",
CC BY 4.0). Words are rendered with the DejaVu fonts that matplotlib bundles. Shipping the masks
(`data/assets.npz`, no pickled objects) keeps scenes identical to the byte on machines with other font libraries.
`python -m steadyvlm.pocket.assets` makes the file again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steadyvlm.pocket.vocabulary import SHAPES, WORDS

PATH = Path(__file__).parent / "data" / "assets.npz"
TEST_DIGITS = 497
"""The last digit images are never seen in training."""
FONTS = (("DejaVuSans.ttf", 12), ("DejaVuSans-Bold.ttf", 12), ("DejaVuSerif.ttf", 13), ("DejaVuSansMono.ttf", 12))

Mask = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Assets:
    """Masks in [0, 1].

    Attributes:
        digits: [1797, 8, 8] handwritten digits; digit_labels: [1797].
        words: word index and font index to (mask [h, w], right edge of each letter in pixels).
        shapes: (shape index, size) to mask [size, size].
    """

    digits: Mask
    digit_labels: NDArray[np.int64]
    words: dict[tuple[int, int], tuple[Mask, tuple[int, ...]]]
    shapes: dict[tuple[int, int], Mask]


SHAPE_SIZES = (11, 13, 15, 18)


@lru_cache(maxsize=1)
def load_assets() -> Assets:
    """Read the shipped masks; about 10 ms, cached."""
    with np.load(PATH, allow_pickle=False) as file:
        digits = file["digits"].astype(np.float32) / 16
        labels = file["digit_labels"].astype(np.int64)
        flat, sizes, edges = file["word_pixels"], file["word_sizes"].astype(int), file["word_edges"].astype(int)
    words: dict[tuple[int, int], tuple[Mask, tuple[int, ...]]] = {}
    start = 0
    for row, (height, width) in enumerate(sizes):
        mask = flat[start : start + height * width].reshape(height, width).astype(np.float32) / 255
        start += int(height) * int(width)
        word, font = divmod(row, len(FONTS))
        words[word, font] = (mask, tuple(int(x) for x in edges[row] if x > 0))
    shapes = {(kind, size): _shape_mask(name, size) for kind, name in enumerate(SHAPES) for size in SHAPE_SIZES}
    return Assets(digits, labels, words, shapes)


def digit_mask(image: Mask, size: int) -> Mask:
    """Enlarge an 8x8 digit to [size, size] with bilinear weights."""
    weights = _bilinear(size)
    return np.asarray(weights @ image @ weights.T, np.float32)


@lru_cache(maxsize=16)
def _bilinear(size: int) -> Mask:
    centre = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    low = np.minimum(centre.astype(int), 6)
    weights: Mask = np.zeros((size, 8), np.float32)
    weights[np.arange(size), low] = 1 - (centre - low)
    weights[np.arange(size), low + 1] += centre - low
    return weights


def _shape_mask(name: str, size: int, oversample: int = 8) -> Mask:
    axis = (np.arange(size * oversample) + 0.5) / (size * oversample) * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    if name == "circle":
        inside = radius < 0.95
    elif name == "ring":
        inside = (radius < 0.97) & (radius > 0.55)
    elif name == "square":
        inside = (abs(x) < 0.85) & (abs(y) < 0.85)
    elif name == "triangle":
        inside = (y < 0.85) & (y > -0.9 + 2.0 * abs(x))
    elif name == "cross":
        inside = (abs(x) < 0.32) | (abs(y) < 0.32)
    else:
        angle = np.arctan2(x, -y)
        sector = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        inside = radius * (np.cos(sector) + 1.45 * np.sin(sector)) < 0.98
    blocks = inside.reshape(size, oversample, size, oversample)
    mask: Mask = blocks.mean(axis=(1, 3)).astype(np.float32)
    return mask


def build(path: Path = PATH) -> None:
    """Make the shipped file; needs scikit-learn, matplotlib and Pillow with FreeType."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pixels, sizes, edges = [], [], []
    for word in WORDS:
        for file, points in FONTS:
            font = ImageFont.truetype(str(folder / file), points)
            canvas = Image.new("L", (80, 24), 0)
            ImageDraw.Draw(canvas).text((4, 3), word, font=font, fill=255)
            left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
            mask = np.asarray(canvas)[top:bottom, left:right]
            ends = [round(4 + font.getlength(word[: n + 1]) - left) for n in range(len(word))]
            pixels.append(mask.ravel())
            sizes.append(mask.shape)
            edges.append([*ends, *[0] * (5 - len(word))])
    np.savez_compressed(
        path,
        digits=digits.images.astype(np.uint8),
        digit_labels=digits.target.astype(np.uint8),
        word_pixels=np.concatenate(pixels),
        word_sizes=np.array(sizes, np.int16),
        word_edges=np.array(edges, np.int16),
    )


if __name__ == "__main__":
    build()
