"""Numbers of tokens and rows, checked by hand on a picture of five tiles of two by two."""

from __future__ import annotations

import pytest

from steadyvlm.reduction.layout import ImageLayout

SINGLE = ImageLayout((2, 3), has_cls=True)
TILED = ImageLayout((2, 2), (2, 2), window=(1, 0, 4, 3), newlines=True, has_cls=True)


def test_one_grid_counts_its_tokens_in_raster_order() -> None:
    assert SINGLE.token_ids() == (0, 1, 2, 3, 4, 5)
    assert SINGLE.row_ids() == (-1, 0, 1, 2, 3, 4, 5)
    assert (SINGLE.tiles, SINGLE.rows, SINGLE.visual_tokens, SINGLE.map_size) == (1, 7, 6, (0, 0))
    assert SINGLE.tile() == SINGLE


def test_a_checkpoint_may_read_the_cls_row() -> None:
    assert ImageLayout((1, 2), has_cls=True, cls_is_token=True).token_ids() == (-1, 0, 1)
    assert ImageLayout((1, 2), has_cls=False, cls_is_token=True).token_ids() == (0, 1)


def test_tiles_follow_the_base_and_lie_on_the_map() -> None:
    # map rows:  4 5 | 8 9      of which the window shows rows 1 to 3 and columns 0 to 2
    #            6 7 | 10 11
    #            12 13 | 16 17
    #            14 15 | 18 19
    assert (TILED.tiles, TILED.tokens_per_tile, TILED.rows, TILED.map_size) == (5, 4, 25, (4, 4))
    assert TILED.token_ids() == (0, 1, 2, 3, 6, 7, 10, 21, 12, 13, 16, 22, 14, 15, 18, 23)
    assert TILED.visual_tokens == 16
    assert [TILED.map_id(0, column) for column in range(4)] == [4, 5, 8, 9]
    bare = ImageLayout((2, 2), (2, 2), window=(1, 0, 2, 3))
    assert bare.token_ids() == (0, 1, 2, 3, 6, 7, 10)


def test_rows_of_tiles_stand_one_after_the_other() -> None:
    assert TILED.row_ids()[:7] == (-1, 0, 1, 2, 3, -2, 4)
    for row, number in enumerate(TILED.row_ids()):
        assert TILED.row_of(number) == row
    without = ImageLayout((2, 2), (1, 2))
    assert [without.row_of(number) for number in without.row_ids()] == list(range(12))


def test_a_newline_has_no_row() -> None:
    with pytest.raises(ValueError, match="token 21 is a newline"):
        TILED.row_of(21)


def test_a_tile_by_itself_has_no_map() -> None:
    assert TILED.tile() == ImageLayout((2, 2), has_cls=True)


def test_merged_tokens_stand_for_several_patches() -> None:
    assert ImageLayout((3, 5), merge=2).patch_grid == (6, 10)
    assert SINGLE.patch_grid == (2, 3)
