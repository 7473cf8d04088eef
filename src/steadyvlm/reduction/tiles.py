"""Pictures cut into tiles: choose in every tile, then put the chosen rows into the order the decoder sees.

LLaVA-NeXT shows the whole picture as a base tile and again as crops on a mosaic. Methods that rank by what one tile's
CLS row attends to work tile by tile. Their selections are lifted to rows of the whole picture, joined, and packed: the
base tile first, then what was chosen in the crops in raster order of the map they form together.

Source: the packing of VisionZip and HiRED for LLaVA-NeXT (`visionzip.py`, `hired.py`); shapes from `layout.py`.
Differs: neither packing puts a newline token behind the rows of the map, because it has no encoder row to come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.reduction.base import Selection, Signals
from steadyvlm.reduction.layout import ImageLayout


def rows_per_tile(layout: ImageLayout) -> int:
    """Return R / P: patches of one tile, and its CLS row if it has one.

    >>> rows_per_tile(ImageLayout((24, 24), (2, 2), has_cls=True))
    577
    """
    return layout.tokens_per_tile + layout.has_cls


def is_tiled(signals: Signals) -> bool:
    """Return whether the picture has crops besides the base tile."""
    return signals.layout is not None and signals.layout.tiles > 1


def own_rows(keep: Tensor, rows: int) -> Tensor:
    """Return the [K, R] mix in which every slot is its own row and nothing else.

    >>> own_rows(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    mix = torch.zeros(keep.numel(), rows, dtype=torch.float32, device=keep.device)
    mix[torch.arange(keep.numel(), device=keep.device), keep] = 1.0
    return mix


def join(selections: Sequence[Selection], layout: ImageLayout) -> Selection:
    """Lift one selection per tile to rows of the whole picture and put them one after the other.

    >>> halves = [Selection(torch.tensor([1])), Selection(torch.tensor([0, 2])), Selection(torch.tensor([2]))]
    >>> join(halves, ImageLayout((1, 2), (1, 2), has_cls=True)).keep
    tensor([1, 3, 5, 8])
    """
    rows = rows_per_tile(layout)
    keep = torch.cat([chosen.keep + tile * rows for tile, chosen in enumerate(selections)])
    if all(chosen.mix is None for chosen in selections):
        return Selection(keep)
    mix = keep.new_zeros(keep.numel(), layout.rows, dtype=torch.float32)
    slot = 0
    for tile, chosen in enumerate(selections):
        part = own_rows(chosen.keep, rows) if chosen.mix is None else chosen.mix
        mix[slot : slot + part.shape[0], tile * rows : (tile + 1) * rows] = part
        slot += part.shape[0]
    return Selection(keep, mix)


def take(selection: Selection, order: Tensor) -> Selection:
    """Return the slots of a selection in another order, or some of them."""
    return Selection(selection.keep[order], None if selection.mix is None else selection.mix[order])


def map_places(keep: Tensor, layout: ImageLayout) -> tuple[Tensor, Tensor]:
    """Return the (row, column) in the stitched map of patch rows of crops.

    Args:
        keep: [K] int64 rows of the whole picture, all of them patches of crops.
        layout: how the picture was cut.

    >>> map_places(torch.tensor([6, 12]), ImageLayout((2, 2), (1, 2), has_cls=True))
    (tensor([0, 0]), tensor([0, 3]))
    """
    rows, (height, width) = rows_per_tile(layout), layout.grid
    crop, patch = keep // rows - 1, keep % rows - int(layout.has_cls)
    across = layout.mosaic[1]
    return (crop // across) * height + patch // width, (crop % across) * width + patch % width


def map_order(keep: Tensor, layout: ImageLayout) -> Tensor:
    """Return the order that puts patch rows of crops into raster order of the stitched map.

    >>> map_order(torch.tensor([8, 11, 6]), ImageLayout((2, 2), (1, 2), has_cls=True))  # map rows 1, 0 and 0
    tensor([2, 1, 0])
    """
    row, column = map_places(keep, layout)
    return (row * layout.map_size[1] + column).argsort(stable=True)


def in_window(keep: Tensor, layout: ImageLayout) -> Tensor:
    """Return [K] bool: which patch rows of crops show picture and not padding.

    >>> in_window(torch.tensor([6, 8]), ImageLayout((2, 2), (1, 2), window=(0, 0, 1, 4), has_cls=True))
    tensor([ True, False])
    """
    row, column = map_places(keep, layout)
    top, left, bottom, right = layout.window
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)
