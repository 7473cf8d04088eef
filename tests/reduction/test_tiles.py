"""Tiles put together again, against maps built tile by tile in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steadyvlm.reduction.base import Selection, Signals
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.tiles import in_window, is_tiled, join, map_order, map_places, own_rows, rows_per_tile, take

MOSAICS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]


def stitched(layout: ImageLayout) -> np.ndarray[Any, Any]:
    """The rows of all crops where they lie on the map."""
    height, width = layout.grid
    rows = np.arange(layout.rows).reshape(layout.tiles, -1)[1:, int(layout.has_cls) :]
    crops = rows.reshape(*layout.mosaic, height, width)
    return crops.transpose(0, 2, 1, 3).reshape(layout.map_size)


@pytest.mark.parametrize("mosaic", MOSAICS)
@pytest.mark.parametrize("has_cls", [True, False])
def test_places_and_order_on_the_map(mosaic: tuple[int, int], has_cls: bool) -> None:
    layout = ImageLayout((3, 4), mosaic, window=(1, 2, 3, 4), has_cls=has_cls)
    wanted = stitched(layout)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(wanted.ravel()))
    row, column = map_places(shuffled, layout)
    assert (wanted[row.numpy(), column.numpy()] == shuffled.numpy()).all()
    assert shuffled[map_order(shuffled, layout)].tolist() == wanted.ravel().tolist()
    assert sorted(shuffled[in_window(shuffled, layout)].tolist()) == sorted(wanted[1:3, 2:4].ravel().tolist())


def test_joined_selections_lie_on_a_diagonal() -> None:
    layout = ImageLayout((1, 2), (1, 2), has_cls=True)
    assert rows_per_tile(layout) == 3
    mixed = Selection(torch.tensor([2]), torch.tensor([[0.0, 0.5, 1.0]]))
    plain = Selection(torch.tensor([1, 0]))
    joined = join([plain, mixed, plain], layout)
    assert joined.keep.tolist() == [1, 0, 5, 7, 6]
    assert joined.mix is not None
    assert joined.mix[2].tolist() == [0, 0, 0, 0, 0.5, 1, 0, 0, 0]
    assert torch.equal(joined.mix[[0, 1, 3, 4]], own_rows(joined.keep[[0, 1, 3, 4]], 9))
    turned = take(joined, torch.tensor([2, 0]))
    assert turned.keep.tolist() == [5, 1]
    assert turned.mix is not None
    assert torch.equal(turned.mix, joined.mix[[2, 0]])
    assert join([plain, plain, plain], layout).mix is None
    assert take(plain, torch.tensor([1])).mix is None


def test_only_pictures_with_crops_are_tiled() -> None:
    assert not is_tiled(Signals(4))
    assert not is_tiled(Signals(4, layout=ImageLayout((2, 2))))
    assert is_tiled(Signals(12, layout=ImageLayout((2, 2), (1, 2))))
