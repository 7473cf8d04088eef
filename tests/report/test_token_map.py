from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sheets import PLAIN, TILED, WIDE

from steadyvlm.records import Cost, KeptTokens
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.report.token_json import mask, panels_json, stage_json
from steadyvlm.report.token_map import DROPPED, panels, runs_of_layers, stages, unreduced
from steadyvlm.report.token_places import places, window_box


def test_one_tile_is_one_panel_in_raster_order() -> None:
    (panel,) = panels(WIDE)
    assert (panel.name, panel.rows, panel.columns, panel.ids) == ("", 6, 9, tuple(range(54)))


def test_a_tiled_picture_is_the_whole_and_the_window_of_its_map() -> None:
    whole, tiles = panels(TILED)
    assert (whole.name, whole.rows, whole.columns) == ("whole picture", 12, 12)
    assert (tiles.name, tiles.rows, tiles.columns) == ("tiles", 18, 24)
    # reading the panels row by row, with the newline behind each row of the map, is the prompt's own order
    read = list(whole.ids)
    for line in range(tiles.rows):
        read += [*tiles.ids[line * 24 : (line + 1) * 24], tiles.newlines[line]]
    assert tuple(read) == TILED.token_ids()


def test_a_stage_says_for_every_cell_what_became_of_it() -> None:
    kept = KeptTokens(8, 0, (-1, 3, 7), (2, 0, 5))
    (stage,) = stages(PLAIN, [kept, replace(kept, image=1)])
    assert (stage.caption, stage.beside, stage.merges) == ("layer 8: 3 of 144", "CLS", True)
    assert {cell: state for cell, state in enumerate(stage.cells[0]) if state != DROPPED} == {3: 0, 7: 5}
    assert stage.cls == (2,)


def test_tiles_have_row_ends_and_a_cls_each() -> None:
    first = TILED.tiles * TILED.tokens_per_tile
    (stage,) = stages(TILED, [KeptTokens(0, 0, (-2, -4, first + 3, first + 5))])
    assert stage.beside == "CLS of 2 of 5 tiles, 2 of 18 row ends"
    assert stage.cls == (None, 0, None, 0, None)
    assert [row for row, state in enumerate(stage.newlines[1]) if state == 0] == [0, 2]
    assert not stage.merges


def test_nothing_is_missing_from_an_unreduced_picture() -> None:
    stage = unreduced(TILED)
    assert stage.caption == "layer 0: 594 of 594"
    assert {state for cells in (*stage.cells, *stage.newlines) for state in cells} == {0}
    assert stage.cls == ()


def test_runs_join_equal_layers() -> None:
    assert runs_of_layers((5, 5, 3, 5)) == ((0, 1, 5), (2, 2, 3), (3, 3, 5))
    assert runs_of_layers(()) == ()


def cost(tokens: int, *grids: tuple[int, int, int], cut: Any = ()) -> Cost:
    return Cost(1.0, 99, 1, (tokens,) if tokens else (), 1, grids, image_cuts=cut and (cut,))


def test_clip_saw_the_middle_square() -> None:
    placed = places(cost(576, (1, 24, 24)), (200, 100), centre_square=True)
    assert placed is not None
    assert placed.panels[0].box == (0.25, 0.0, 0.75, 1.0)
    whole = places(cost(576, (1, 24, 24)), (200, 100), centre_square=False)
    assert whole is not None
    assert whole.panels[0].box == (0.0, 0.0, 1.0, 1.0)


def test_a_tower_that_merges_sees_the_whole_picture() -> None:
    placed = places(cost(54, (1, 12, 18)), (300, 200), centre_square=True)
    assert placed is not None
    assert (placed.layout.grid, placed.merging, placed.panels[0].box) == ((6, 9), 2, (0.0, 0.0, 1.0, 1.0))
    small = places(cost(7, (1, 8, 12)), (300, 200), centre_square=True, like=placed)
    assert small is not None
    assert small.layout.grid == (4, 6)


def test_a_record_without_grids_may_be_a_square() -> None:
    placed = places(cost(144), (96, 96), centre_square=True)
    assert placed is not None
    assert placed.layout.grid == (12, 12)
    assert places(cost(40), (96, 96), centre_square=True, like=placed) == placed


@pytest.mark.parametrize(
    "unknown",
    [cost(145), cost(1), cost(0), cost(145, (1, 12, 12)), cost(288, (1, 12, 12), (1, 12, 12)), cost(9, (3, 2, 2))],
)
def test_what_the_record_does_not_tell_is_not_drawn(unknown: Cost) -> None:
    assert places(unknown, (96, 96), centre_square=True) is None


# (width, height) of pictures, how LLaVA-NeXT cuts them, and the window it keeps
CUT = {
    (640, 480): ((2, 2), (6, 0, 42, 48)),
    (1000, 340): ((1, 3), (0, 1, 24, 71)),
    (340, 1000): ((3, 1), (1, 0, 71, 24)),
    (672, 336): ((1, 2), (0, 0, 24, 48)),
    (60, 60): ((1, 2), (0, 12, 24, 36)),
}


@pytest.mark.parametrize("size", CUT)
def test_tiles_lie_where_the_model_cut_them(size: tuple[int, int]) -> None:
    mosaic, window = CUT[size]
    tiles = 1 + mosaic[0] * mosaic[1]
    layout = ImageLayout((24, 24), mosaic, window, newlines=True, has_cls=True)
    placed = places(cost(layout.visual_tokens, (tiles, 24, 24), cut=(*mosaic, *window)), size, centre_square=True)
    assert placed is not None
    assert placed.layout == layout
    left, top, right, bottom = placed.panels[1].box
    assert abs(left) + abs(top) + abs(1 - right) + abs(1 - bottom) < 0.12, "padding is at most part of a token"
    assert placed.panels[0].box == (0.0, 0.0, 1.0, 1.0)


def test_tiles_without_their_cut_are_not_drawn() -> None:
    assert places(cost(2340, (5, 24, 24)), (640, 480), centre_square=True) is None
    assert places(cost(2339, (5, 24, 24), cut=(2, 2, 6, 0, 42, 48)), (640, 480), centre_square=True) is None


def test_a_box_reaches_beyond_the_picture_by_its_padding() -> None:
    layout = ImageLayout((24, 24), (2, 1), (0, 0, 48, 24))
    assert window_box(layout, (240, 480)) == (0.0, 0.0, 1.0, 1.0)
    assert window_box(layout, (200, 480)) == pytest.approx((-0.1, 0.0, 1.1, 1.0))


def test_what_the_page_reads_is_short_and_exact() -> None:
    (stage,) = stages(WIDE, [KeptTokens(2, 0, (0, 5, 53), (0, 4, 0))])
    found = stage_json(stage)
    assert found["cells"] == [{"kept": mask([cell in (0, 5, 53) for cell in range(54)]), "merged": [5, 4]}]
    assert (found["caption"], found["merges"], found["beside"]) == ("layer 2: 3 of 54", True, "")
    assert panels_json(panels(WIDE)) == [{"name": "", "rows": 6, "columns": 9, "box": [0.0, 0.0, 1.0, 1.0]}]
