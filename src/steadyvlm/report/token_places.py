"""Where the tokens of a recorded answer lie on the picture that was asked about.

A record holds how the picture was cut into tiles and patches, not the family. What follows: a grid of as many patches
as tokens is CLIP's, which sees the centre square (or the whole, as the report is told); one of more patches than tokens
merges them and is native to the picture; several tiles are LLaVA-NeXT's. Nothing is drawn unless this gives exactly the
number of tokens that was recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadyvlm.records import Cost
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.report.token_map import WHOLE, Box, Panel, panels


@dataclass(frozen=True, slots=True)
class Placed:
    """How a picture was cut, and where its panels lie on it.

    Attributes:
        layout: of the tokens.
        panels: with boxes on the picture.
        merging: patches of the tower that make one token, along one side.
    """

    layout: ImageLayout
    panels: tuple[Panel, ...]
    merging: int = 1


def places(cost: Cost, picture: tuple[int, int], *, centre_square: bool, like: Placed | None = None) -> Placed | None:
    """Return where the tokens of the one picture of a prompt lie, or None when the record does not tell.

    Args:
        cost: of the answer.
        picture: (width, height) of the file in pixels.
        centre_square: whether CLIP was shown the middle square, and not the whole picture.
        like: of the original, which kept every token: how many patches make a token is known from it.
    """
    if like is not None and not cost.image_grids:
        return like
    tokens = cost.visual_tokens_per_layer[0] if cost.visual_tokens_per_layer else 0
    tiles, rows, columns = _tiles(cost, tokens)
    merging = math.isqrt(rows * columns // max(1, tokens)) if like is None else like.merging
    merging = max(1, merging if tiles == 1 else 1)
    grid = (rows // merging, columns // merging)
    if min(*grid, tiles) < 1 or grid == (1, 1):
        return None
    layout = ImageLayout(grid, has_cls=merging == 1)
    if tiles > 1:
        if len(cost.image_cuts) != 1:
            return None
        cut = cost.image_cuts[0]
        layout = ImageLayout(grid, cut[:2], cut[2:], newlines=True, has_cls=True)
    if like is None and tokens != layout.visual_tokens:
        return None
    if tiles > 1:
        whole, stitched = panels(layout)
        return Placed(layout, (whole, stitched.on(window_box(layout, picture))))
    box = _square(picture) if centre_square and merging == 1 else WHOLE
    return Placed(layout, tuple(panel.on(box) for panel in panels(layout)), merging)


def _tiles(cost: Cost, tokens: int) -> tuple[int, int, int]:
    """Return (tiles, rows, columns) of patches; a record without them may still be a square."""
    if len(cost.image_grids) == 1:
        return cost.image_grids[0]
    side = math.isqrt(max(tokens, 0))
    return (1, side, side) if not cost.image_grids and side * side == tokens else (0, 0, 0)


def _square(picture: tuple[int, int]) -> Box:
    """The middle square of a picture."""
    width, height = picture
    side = min(width, height)
    across, down = side / width / 2, side / height / 2
    return (0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down)


def window_box(layout: ImageLayout, picture: tuple[int, int]) -> Box:
    """Return where the window of a map lies on its picture; part of a token of padding may reach beyond.

    >>> window_box(ImageLayout((24, 24), (2, 2), window=(6, 0, 42, 48)), (640, 480))
    (0.0, 0.0, 1.0, 1.0)
    """
    rows, columns = layout.map_size
    width, height = picture
    scale = min(columns / width, rows / height)
    top, left, bottom, right = layout.window
    across, down = width * scale, height * scale
    x, y = (columns - across) / 2, (rows - down) / 2
    return ((left - x) / across, (top - y) / down, (right - x) / across, (bottom - y) / down)
