"""Pictures in, and what the encoder saw of them out again."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from steadyvlm.errors import ImageError

_MAX_ASPECT = 100


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB.

    Raises:
        ImageError: for a picture that is empty, all edge, or cannot be decoded.
    """
    width, height = image.size
    if min(width, height) < 1 or max(width, height) > _MAX_ASPECT * min(width, height):
        raise ImageError(f"an image of {width} x {height} pixels cannot be shown to the model; crop it first.")
    try:
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for truncated or broken files
        raise ImageError(f"the image cannot be decoded: {error}. Replace the file.") from error


def as_pictures(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[Image.Image]:
    """Return normalised pixel values [P, 3, height, width] as RGB pictures."""
    scale, shift = values.new_tensor(std)[:, None, None], values.new_tensor(mean)[:, None, None]
    levels = ((values * scale + shift) * 255).round().clamp(0, 255).byte()
    return [Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()) for tile in levels.cpu()]
