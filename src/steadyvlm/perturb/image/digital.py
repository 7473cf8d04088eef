"""What storing and displaying does: JPEG, low contrast, few pixels; and no picture at all.

Source: ImageNet-C, arXiv 1903.12261; the blank picture: Chen et al. 2023, arXiv 2306.02080 (white: every byte 255).

Differs:
    - JPEG is OpenCV's: faster than Pillow's, and with both on libjpeg-turbo the same to the bit.
    - Pixelation goes by the picture's own size in `general`. In `paper` it is the released generator's, which squashes
      every picture to 224 by 224 pixels whatever its shape: the only output of another size.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.work import Work, to_bytes

JPEG = (25, 18, 15, 10, 7)
"""Quality as Pillow counts it."""
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Share of the pixels along each side that remain."""
PAPER_SIDE = 224


def jpeg_compression(work: Work) -> Pixels:
    """Store as JPEG of low quality, and read it again."""
    return reencoded(work.pixels, quality=JPEG[work.severity - 1])


def reencoded(pixels: Pixels, *, quality: int) -> Pixels:
    """Return the picture after one trip through JPEG, colours at half the resolution (4:2:0), as Pillow stores it."""
    half = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, half]
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB), np.uint8)


def contrast(work: Work) -> Pixels:
    """Pull every channel towards its mean."""
    share = CONTRAST[work.severity - 1]
    means = np.array(cv2.mean(work.pixels)[:3])
    table = to_bytes((np.arange(256)[:, None] - means) * share + means)
    return np.asarray(cv2.LUT(work.pixels, table[None]), np.uint8)


def pixelate(work: Work) -> Pixels:
    """Average into few pixels, and show each as a block."""
    share = PIXELATE[work.severity - 1]
    picture = Image.fromarray(work.pixels)
    if work.profile == "paper":
        side = int(PAPER_SIDE * share)
        few = picture.resize((side, side), Image.Resampling.BOX)
        return np.array(few.resize((PAPER_SIDE, PAPER_SIDE), Image.Resampling.BOX))
    height, width = work.size
    few = picture.resize((max(int(width * share), 1), max(int(height * share), 1)), Image.Resampling.BOX)
    return np.array(few.resize((width, height), Image.Resampling.NEAREST))


def blank_image(work: Work) -> Pixels:
    """Show nothing: white everywhere. What is still answered was answered from the text."""
    return np.full_like(work.pixels, 255)
