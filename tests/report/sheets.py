"""Invented sheets: several methods on one picture of each kind of layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from steadyvlm.records import KeptTokens
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.report.sheet import Sheet, SheetRow, View
from steadyvlm.report.token_map import stages

PLAIN = ImageLayout((12, 12), has_cls=True)
TILED = ImageLayout((12, 12), (2, 2), window=(3, 0, 21, 24), newlines=True, has_cls=True)
WIDE = ImageLayout((6, 9))
BLUE, LIGHT, DARK = (20, 60, 200), (245, 240, 235), (12, 10, 16)


def picture(width: int = 96, height: int = 96, colour: tuple[int, int, int] = BLUE) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def view(layout: ImageLayout = PLAIN, colour: tuple[int, int, int] = BLUE) -> View:
    rows, columns = layout.grid
    return View.of(layout, [picture(8 * columns, 8 * rows, colour)] * layout.tiles)


def row(
    name: str,
    shown: View,
    kept: Sequence[KeptTokens] = (),
    answer: str = "red",
    per_layer: tuple[int, ...] = (144,) * 12,
    recipe: str = "",
    flops: float | None = None,
) -> SheetRow:
    return SheetRow(name, shown, stages(shown.layout, kept), answer, 1.25, per_layer, flops, recipe)


def plain_sheet(question: str = "What colour is the circle?") -> Sheet:
    seen = view()
    zipped = KeptTokens(0, 0, (-1, *range(0, 60, 2), 100, 120), (0,) * 31 + (12, 7))
    steps = [KeptTokens(layer, 0, tuple(range(size))) for layer, size in ((3, 72), (6, 36), (9, 18))]
    rows = (
        row("original", seen),
        row("zip", seen, [zipped], "blue", (33,) * 12, "visionzip(contextual=2, dominant=31)", 0.31),
        row("steps", seen, steps, per_layer=(144,) * 3 + (72,) * 3 + (36,) * 3 + (18,) * 3),
        row("none", seen, [KeptTokens(6, 0, ())], per_layer=(144,) * 6 + (0,) * 6),
        row("small", view(ImageLayout((8, 8), has_cls=True)), per_layer=(64,) * 12),
    )
    return Sheet(question, "pocket", rows)


def tiled_sheet() -> Sheet:
    seen = view(TILED)
    some = tuple(number for place, number in enumerate(TILED.token_ids()) if place % 3 == 0)
    kept = KeptTokens(0, 0, (-1, -3, *some), (0, 4) + (0,) * len(some))
    return Sheet("what?", "pocket-next", (row("original", seen), row("hired", seen, [kept])))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)
