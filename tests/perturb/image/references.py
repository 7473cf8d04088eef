"""Slow references, written from the specification's formulas: float64, SciPy, and plain loops over pixels and taps.

Each takes bytes and, where numbers are drawn, the drawn fields; it returns bytes.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from steadyvlm.perturb.base import Pixels

Array = NDArray[Any]


def cut(values: Array) -> Pixels:
    """From [0, 1] to bytes, cutting off the fraction."""
    return np.uint8(np.clip(values, 0, 1) * 255)


def unit(pixels: Pixels) -> Array:
    return pixels.astype(np.float64) / 255


def blurred(values: Array, sigma: float | Sequence[float], *, truncate: float = 4.0, mode: str = "nearest") -> Array:
    sigmas = [sigma, sigma] if isinstance(sigma, float | int) else list(sigma)
    if values.ndim == 3:
        sigmas.append(0)
    return ndimage.gaussian_filter(values, sigmas, mode=mode, truncate=truncate)


def gaussian_blur(pixels: Pixels, severity: int) -> Pixels:
    return cut(blurred(unit(pixels), [1, 2, 3, 4, 6][severity - 1]))


def defocus_blur(pixels: Pixels, severity: int) -> Pixels:
    radius, alias = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)][severity - 1]
    reach, half = (8, 1) if radius <= 8 else (radius, 2)
    disc = np.array(
        [[float(i * i + j * j <= radius * radius) for i in range(-reach, reach + 1)] for j in range(-reach, reach + 1)]
    )
    disc /= disc.sum()
    window = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * alias**2))
    window /= window.sum()
    kernel = ndimage.correlate(disc, np.outer(window, window), mode="mirror")
    return cut(np.stack([ndimage.correlate(channel, kernel, mode="mirror") for channel in channels(pixels)], axis=-1))


def channels(pixels: Pixels) -> list[Array]:
    return [unit(pixels)[..., channel] for channel in range(3)]


def smeared(values: Array, radius: int, sigma: float, angle: float) -> Array:
    """Motion, tap by tap, indices clamped."""
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    height, width = values.shape[:2]
    total = np.zeros_like(values)
    for i, weight in enumerate(weights):
        dx = -math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        dy = -math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(height) - dy, 0, height - 1)
        columns = np.clip(np.arange(width) - dx, 0, width - 1)
        total += weight / sum(weights) * values[rows][:, columns]
    return total


def motion_blur(pixels: Pixels, severity: int, angle: float) -> Pixels:
    radius, sigma = [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)][severity - 1]
    return cut(smeared(unit(pixels), radius, sigma, angle))


def zoomed(values: Array, factor: float, *, centred: bool = False, whole: bool = False) -> Array:
    height, width = values.shape[:2]
    ch, cw = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - ch) // 2, (width - cw) // 2
    factors = (factor, factor, 1)[: values.ndim]
    large = ndimage.zoom(values[top : top + ch, left : left + cw], factors, order=1)
    if whole:
        return large
    down, right = ((large.shape[0] - height) // 2, (large.shape[1] - width) // 2) if centred else (0, 0)
    return large[down : down + height, right : right + width]


ZOOMS = (
    [1 + 0.01 * k for k in range(12)],
    [1 + 0.01 * k for k in range(16)],
    [1 + 0.02 * k for k in range(11)],
    [1 + 0.02 * k for k in range(13)],
    [1 + 0.03 * k for k in range(11)],
)


def zoom_blur(pixels: Pixels, severity: int, *, centred: bool = False) -> Pixels:
    factors = ZOOMS[severity - 1]
    total = unit(pixels)
    for factor in factors:
        total = total + zoomed(unit(pixels), factor, centred=centred)
    return cut(total / (len(factors) + 1))


def glass_loop(pixels: Pixels, reach: int, passes: Sequence[Array]) -> Pixels:
    """The references' loop on bytes; the exchange is a copy because both sides of it are views."""
    mixed = pixels.copy()
    height, width = mixed.shape[:2]
    for steps in passes:
        turn = iter(steps)
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = next(turn)
                other = (h + int(dy), w + int(dx))
                mixed[h, w], mixed[other] = mixed[other], mixed[h, w]
    return mixed


def jpeg_compression(pixels: Pixels, severity: int) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=[25, 18, 15, 10, 7][severity - 1])
    return np.array(Image.open(stored))


def contrast(pixels: Pixels, severity: int) -> Pixels:
    c = [0.4, 0.3, 0.2, 0.1, 0.05][severity - 1]
    out = [(channel - channel.mean()) * c + channel.mean() for channel in channels(pixels)]
    return cut(np.stack(out, axis=-1))


def pixelate(pixels: Pixels, severity: int) -> Pixels:
    c = [0.6, 0.5, 0.4, 0.3, 0.25][severity - 1]
    height, width = pixels.shape[:2]
    few = Image.fromarray(pixels).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return np.array(few.resize((width, height), Image.Resampling.NEAREST))


def in_hsv(pixels: Pixels, change: Any) -> Pixels:
    """Every pixel through hue, saturation and value, one by one."""
    out = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in unit(pixels).reshape(-1, 3)]
    return cut(np.array(out).reshape(pixels.shape))


def brightness(pixels: Pixels, severity: int) -> Pixels:
    return in_hsv(pixels, lambda h, s, v: (h, s, min(v + severity / 10, 1.0)))


def saturate(pixels: Pixels, severity: int) -> Pixels:
    a, b = [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)][severity - 1]
    return in_hsv(pixels, lambda h, s, v: (h, min(max(a * s + b, 0.0), 1.0), v))


def blank_image(pixels: Pixels, severity: int) -> Pixels:
    return np.full(pixels.shape, 255, np.uint8)


def cloud(side: int, decay: float, draws: np.random.RandomState) -> Array:
    """Diamond and square, point by point; the uniform numbers in the order of the families."""
    field = [[0.0] * side for _ in range(side)]
    step, width = side, 100.0
    while step >= 2:
        half, count = step // 2, side // step
        at = [(row * step, column * step) for row in range(count) for column in range(count)]
        around = lambda r, c, offsets: sum(field[(r + y) % side][(c + x) % side] for y, x in offsets) / 4  # noqa: E731
        corners = [(-half, -half), (-half, half), (half, -half), (half, half)]
        edges = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for shift, offsets in (((half, half), corners), ((0, half), edges), ((half, 0), edges)):
            noise = draws.uniform(-width, width, (count, count)).ravel()
            places = [(row + shift[0], column + shift[1]) for row, column in at]
            new = [around(r, c, offsets) + width * u for (r, c), u in zip(places, noise, strict=True)]
            for (r, c), value in zip(places, new, strict=True):
                field[r][c] = value
        step, width = half, width / decay
    heights = np.array(field)
    heights -= heights.min()
    return heights / heights.max()


def fog(pixels: Pixels, severity: int, draws: np.random.RandomState) -> Pixels:
    c, decay = [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)][severity - 1]
    height, width = pixels.shape[:2]
    side = 1
    while side < max(height, width):
        side *= 2
    x = unit(pixels)
    return cut((x + c * cloud(side, decay, draws)[:height, :width, None]) * x.max() / (x.max() + c))


def snow(pixels: Pixels, severity: int, noise: Array, angle: float, *, paper: bool = False) -> Pixels:
    """`noise` is standard normal, [H, W]."""
    loc, scale, zoom, threshold, radius, sigma, blend = [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ][severity - 1]
    height, width = pixels.shape[:2]
    layer = zoomed(loc + scale * noise.astype(np.float64), zoom, centred=paper, whole=not paper)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    if paper:
        layer = np.uint8(layer * 255) / 255
    layer = np.round(smeared(layer, radius, sigma, angle) * 255)[:height, :width, None] / 255
    x = unit(pixels)
    grey = x @ np.array([0.299, 0.587, 0.114])
    x = blend * x + (1 - blend) * np.maximum(x, grey[..., None] * 1.5 + 0.5)
    return cut(x + layer + np.rot90(layer, 2))


def spatter(pixels: Pixels, severity: int, noise: Array) -> Pixels:
    """`noise` is standard normal, [H, W]."""
    loc, scale, sigma, threshold, strength = [
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ][severity - 1]
    layer = blurred(loc + scale * noise.astype(np.float64), sigma)
    layer[layer < threshold] = 0
    x = unit(pixels)
    if severity >= 4:
        m = blurred((layer > threshold).astype(np.float64), strength)
        m[m < 0.8] = 0
        return cut(x * (1 - m[..., None]) + m[..., None] * np.array([63, 42, 20]) / 255)
    water = np.uint8(layer * 255)
    distance = cv2.distanceTransform(255 - cv2.Canny(water, 50, 150), cv2.DIST_L2, 5)
    height = cv2.equalizeHist(np.uint8(cv2.blur(np.minimum(distance, 20), (3, 3))))
    lit = ndimage.correlate(height.astype(np.int64), np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    m = water * cv2.blur(np.uint8(np.clip(lit, 0, 255)), (3, 3)).astype(np.float64)
    return cut(x + (m / m.max() * strength)[..., None] * np.array([175, 238, 238]) / 255)


def warped(values: Array, dx: Array, dy: Array) -> Array:
    rows, columns = np.mgrid[0 : values.shape[0], 0 : values.shape[1]]
    moved = [
        ndimage.map_coordinates(values[..., k], [rows + dy, columns + dx], order=1, mode="reflect") for k in range(3)
    ]
    return np.stack(moved, axis=-1)


def elastic_transform(pixels: Pixels, severity: int, right: Array, below: Array) -> Pixels:
    """`right` and `below` are uniform in [-1, 1], [H, W]."""
    alpha = [12.5, 16.25, 21.25, 25, 30][severity - 1]
    height, width = pixels.shape[:2]
    sigma = (0.01 * height, 0.01 * width)
    dx, dy = (
        alpha * blurred(0.005 * height * field.astype(np.float64), sigma, truncate=3, mode="reflect")
        for field in (right, below)
    )
    return cut(warped(unit(pixels), dx, dy))
