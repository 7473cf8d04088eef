"""Paint one panel of tokens with Pillow: kept tokens stay as they are, dropped ones lie under a grey veil.

The veil is a middle grey over a picture without colours, so dropped places differ from kept ones on dark pictures as
on light ones; a line runs along every border between the two. A token made of several is framed and numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from steadyvlm.report.token_map import DROPPED, Panel

Colour = tuple[int, int, int]

VEIL: Colour = (92, 100, 114)
"""Colour of dropped tokens; templates/report.css has the same."""
VEIL_SHARE = 0.76
MERGED: Colour = (255, 210, 74)
EXTRA: Colour = (43, 140, 129)
EDGE: Colour = (255, 255, 255)
SHADOW: Colour = (14, 17, 22)
PAPER: Colour = (255, 255, 255)
_FONTS = {
    False: ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf"),
    True: ("DejaVuSans-Bold.ttf", "LiberationSans-Bold.ttf", "Arial Bold.ttf"),
}
_SMALL_PICTURE = 160

Pixels = NDArray[np.uint8]


@lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of `size` pixels: one with many letters where there is one, else the one Pillow brings."""
    for name in _FONTS[bold]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def paint(picture: Image.Image, panel: Panel, cells: Sequence[int], *, cell: int) -> Image.Image:
    """Return the picture with its tokens as they are at one stage, each `cell` pixels wide and high.

    Args:
        picture: RGB, what the encoder saw, exactly under the raster.
        panel: the raster.
        cells: state of each cell (see `token_map.Stage`).
        cell: side of a cell in pixels.
    """
    size = (panel.columns * cell, panel.rows * cell)
    small = max(picture.size) <= _SMALL_PICTURE
    base = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    states = np.asarray(cells, dtype=np.int64).reshape(panel.rows, panel.columns)
    shown = np.asarray(base).copy()
    _veil(shown, _spread(states == DROPPED, cell))
    image = Image.fromarray(shown)
    draw = ImageDraw.Draw(image)
    _borders(draw, states, cell)
    for row, column in np.argwhere(states > 0).tolist():
        _frame(draw, column * cell, row * cell, cell, int(states[row, column]))
    return image


def paint_newlines(states: Sequence[int], *, cell: int, width: int) -> Image.Image:
    """Return the newlines behind the rows as a narrow column of `width` pixels."""
    image = Image.new("RGB", (width, len(states) * cell), PAPER)
    draw = ImageDraw.Draw(image)
    for row, state in enumerate(states):
        place = (0, row * cell + 1, width - 1, (row + 1) * cell - 2)
        draw.rectangle(place, fill=VEIL if state == DROPPED else MERGED if state > 0 else EXTRA)
    return image


def _spread(mask: NDArray[np.bool_], cell: int) -> NDArray[np.bool_]:
    return mask.repeat(cell, axis=0).repeat(cell, axis=1)


def _veil(pixels: Pixels, where: NDArray[np.bool_]) -> None:
    grey = pixels[where] @ np.array([0.299, 0.587, 0.114])
    mixed = VEIL_SHARE * np.array(VEIL) + (1 - VEIL_SHARE) * grey[:, None]
    pixels[where] = mixed.round().astype(np.uint8)


def _borders(draw: ImageDraw.ImageDraw, states: NDArray[np.int64], cell: int) -> None:
    """A line between kept and dropped, on the side of the dropped."""
    kept, dropped = states >= 0, states == DROPPED
    width = 1 if cell < 24 else 2
    rows, columns = states.shape
    for row, column in np.argwhere(dropped).tolist():
        left, top = column * cell, row * cell
        right, bottom = left + cell - 1, top + cell - 1
        if column and kept[row, column - 1]:
            draw.rectangle((left, top, left + width - 1, bottom), fill=EDGE)
        if column + 1 < columns and kept[row, column + 1]:
            draw.rectangle((right - width + 1, top, right, bottom), fill=EDGE)
        if row and kept[row - 1, column]:
            draw.rectangle((left, top, right, top + width - 1), fill=EDGE)
        if row + 1 < rows and kept[row + 1, column]:
            draw.rectangle((left, bottom - width + 1, right, bottom), fill=EDGE)


def _frame(draw: ImageDraw.ImageDraw, left: int, top: int, cell: int, count: int) -> None:
    """Frame a merged token; its number is written where it can be read."""
    width = max(1, min(4, round(cell * 0.12)))
    box = (left, top, left + cell - 1, top + cell - 1)
    draw.rectangle(box, outline=SHADOW, width=width + 1)
    draw.rectangle(box, outline=MERGED, width=width)
    text = f"{count}"
    room = cell - 2 * width
    size = next((size for size in range(min(max(15, cell // 2), room), 6, -1) if _fits(text, size, room)), 0)
    if size:
        middle = (left + cell / 2, top + cell / 2)
        draw.text(
            middle, text, font=font(size), fill=PAPER, anchor="mm", stroke_width=max(1, size // 8), stroke_fill=SHADOW
        )


def _fits(text: str, size: int, room: int) -> bool:
    left, top, right, bottom = font(size).getbbox(text)
    return right - left <= room and bottom - top <= room
