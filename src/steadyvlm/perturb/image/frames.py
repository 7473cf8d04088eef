"""Pictures of any kind in, RGB bytes out; and the size at which they are perturbed.

Colours: 8-bit RGB. Transparency is flattened onto white, as `tasks.sources` reads pictures; 16-bit greyscale keeps its
high byte; of an animation the frame it stands at is taken. A Pillow picture's EXIF orientation is applied once.

Sizes: settings are lengths in pixels, made for 224. Below 32 pixels they mean nothing and above 2048 they cost much, so
a picture is brought into that range first (bicubic), and back to its own size afterwards; the result's info says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from steadyvlm.errors import ImageError
from steadyvlm.perturb.base import Pixels

MIN_SIDE = 32
MAX_SIDE = 2048

Picture = Image.Image | NDArray[Any]


def to_pixels(image: Picture) -> Pixels:
    """Return a picture as [H, W, 3] uint8, RGB; it may share memory with `image`.

    Args:
        image: a Pillow picture of any mode, or a uint8 or uint16 array [H, W] or [H, W, 1, 3 or 4].

    Raises:
        ImageError: if it is of another kind or shape, empty, or damaged.

    >>> to_pixels(np.zeros((2, 3), np.uint8)).shape
    (2, 3, 3)
    """
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise ImageError(f"cannot perturb a {type(image).__name__}; give a Pillow picture or a NumPy array of bytes.")


def work_size(height: int, width: int) -> tuple[int, int]:
    """Return the height and width at which a picture is perturbed.

    >>> work_size(480, 640), work_size(16, 24), work_size(3000, 4096), work_size(1, 4000)
    ((480, 640), (32, 48), (1500, 2048), (32, 2048))
    """
    longest, shortest = max(height, width), min(height, width)
    scale = 1.0
    if longest > MAX_SIDE:
        scale = MAX_SIDE / longest
    elif shortest < MIN_SIDE:
        scale = min(MIN_SIDE / shortest, MAX_SIDE / longest)
    return max(round(height * scale), MIN_SIDE), max(round(width * scale), MIN_SIDE)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return the picture at another size, bicubic."""
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _from_pillow(image: Image.Image) -> Pixels:
    if 0 in image.size:
        raise ImageError(f"a picture of {image.width} x {image.height} pixels cannot be perturbed; give one with some.")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode[0] in "IF":
            return _stacked(_high_byte(upright))
        if upright.has_transparency_data:
            layer = upright.convert("RGBA")
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            upright = Image.alpha_composite(white, layer)
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the picture cannot be decoded ({error}); restore or re-export it.") from None


def _high_byte(image: Image.Image) -> Pixels:
    """Grey levels of a mode with more than 8 bits: of 16-bit whole numbers the high byte, of numbers 0 to 255."""
    levels: NDArray[Any] = np.asarray(image)
    if image.mode == "F":
        levels = np.clip(np.nan_to_num(levels), 0, 255)
        return levels.astype(np.uint8)
    high: NDArray[np.int64] = levels.astype(np.int64).clip(0, 65535) >> 8
    return high.astype(np.uint8)


def _from_array(array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} cannot be perturbed; give bytes (uint8, 0 to 255), for example "
            "`(255 * picture).astype('uint8')` for a picture from 0 to 1."
        )
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"an array of shape {array.shape} is no picture; give [H, W], or [H, W, channels] with 1, 3 or 4 channels."
        )
    if array.ndim == 2 or array.shape[2] == 1:
        return _stacked(array.reshape(array.shape[:2]))
    return array if array.shape[2] == 3 else _from_pillow(Image.fromarray(np.ascontiguousarray(array)))


def _stacked(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)
