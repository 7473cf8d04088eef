from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont
from sheets import BLUE, DARK, LIGHT, PLAIN, TILED, picture, pixels, plain_sheet, row, tiled_sheet, view

from steadyvlm.errors import InvalidOption, RunError
from steadyvlm.records import Cost, Generation, KeptTokens
from steadyvlm.report import painting
from steadyvlm.report.painting import EXTRA, MERGED, VEIL, font, paint, paint_newlines
from steadyvlm.report.sheet import MOST_STAGES, Sheet, SheetRow, View
from steadyvlm.report.sheet_image import INK, ORANGE, sheet_image
from steadyvlm.report.sheet_page import render_sheet, write_sheet_page
from steadyvlm.report.token_map import panels, stages


def has(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((pixels(image) == colour).all(-1).any())


@pytest.mark.parametrize("colour", [BLUE, LIGHT, DARK])
@pytest.mark.parametrize("cell", [10, 30])
def test_kept_tokens_stay_and_dropped_ones_are_veiled(colour: tuple[int, int, int], cell: int) -> None:
    (stage,) = stages(PLAIN, [KeptTokens(3, 0, tuple(range(72)))])
    painted = pixels(paint(picture(colour=colour), panels(PLAIN)[0], stage.cells[0], cell=cell))
    assert painted.shape == (12 * cell, 12 * cell, 3)
    assert (painted[: 6 * cell] == colour).all()
    dropped = painted[6 * cell + 3 :]
    assert len(np.unique(dropped.reshape(-1, 3), axis=0)) == 1
    assert abs(dropped[0, 0] - np.array(colour)).sum() > 60, "seen on light and dark pictures alike"
    assert abs(dropped[0, 0] - np.array(VEIL)).max() < 45
    assert (painted[6 * cell] == 255).all(), "a white line along the border, on the side of the dropped"


def test_every_side_of_a_lone_token_has_a_line() -> None:
    (stage,) = stages(PLAIN, [KeptTokens(3, 0, (13,))])
    painted = pixels(paint(picture(), panels(PLAIN)[0], stage.cells[0], cell=10))
    for row_, column in ((15, 9), (15, 20), (9, 15), (20, 15)):
        assert (painted[row_, column] == 255).all()
    assert (painted[10:20, 10:20] == BLUE).all()


def test_merged_tokens_are_framed_and_numbered_where_there_is_room() -> None:
    (stage,) = stages(PLAIN, [KeptTokens(3, 0, (0, 1), (0, 12))])
    large = paint(picture(), panels(PLAIN)[0], stage.cells[0], cell=30)
    assert has(large.crop((30, 0, 60, 30)), MERGED)
    assert not has(large.crop((0, 0, 30, 30)), MERGED)
    (other,) = stages(PLAIN, [KeptTokens(3, 0, (0, 1), (0, 13))])
    changed = paint(picture(), panels(PLAIN)[0], other.cells[0], cell=30)
    assert (pixels(changed) != pixels(large)).any(), "the number can be read"
    tiny = [paint(picture(), panels(PLAIN)[0], made.cells[0], cell=6) for made in (stage, other)]
    assert (pixels(tiny[0]) == pixels(tiny[1])).all(), "no room for a number"
    assert has(tiny[0], MERGED)


def test_row_ends_are_a_column_of_their_own() -> None:
    column = pixels(paint_newlines([0, -1, 3], cell=10, width=4))
    assert column.shape == (30, 4, 3)
    assert [tuple(column[10 * line + 5, 0]) for line in range(3)] == [EXTRA, VEIL, MERGED]


def test_there_is_always_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ImageFont.truetype

    def missing(name: Any, *arguments: Any, **options: Any) -> ImageFont.FreeTypeFont:
        if isinstance(name, str):
            raise OSError
        return real(name, *arguments, **options)  # the one Pillow brings is read from memory

    font.cache_clear()
    monkeypatch.setattr(painting.ImageFont, "truetype", missing)
    assert font(14).getbbox("steady")[2] > 20
    font.cache_clear()


def test_tiles_become_one_picture_without_its_padding() -> None:
    colours = [(10 * tile, 0, 0) for tile in range(5)]
    made = View.of(TILED, [picture(48, 48, colour) for colour in colours])
    whole, stitched = made.pictures
    assert (whole.size, stitched.size) == ((48, 48), (96, 72))
    corners = [(0, 0), (95, 0), (0, 71), (95, 71)]
    assert [stitched.getpixel(corner) for corner in corners] == colours[1:]


def test_a_picture_too_few_is_refused() -> None:
    with pytest.raises(InvalidOption, match="5 tiles, but 1 pictures"):
        View.of(TILED, [picture()])


def test_a_row_tells_what_was_answered_and_what_it_cost() -> None:
    generation = Generation(
        "red", (2,), "eos", (), 0.5, (KeptTokens(1, 0, (3,)),), Cost(1.0, 9, 1, (144, 1), 1, ((1, 12, 12),))
    )
    made = SheetRow.of("fastv", generation, view(), flops=0.25)
    assert made.facts == "margin 0.50 · mean 72.5 tokens · 25.0 % FLOPs"
    assert made.layers == "0: 144; 1: 1"
    assert [caption for caption, _ in made.shown] == ["layer 1: 1 of 144"]
    assert replace(made, per_layer=()).mean == 0


def test_many_changes_are_drawn_at_some_layers_and_a_note_says_so() -> None:
    kept = [KeptTokens(layer, 0, tuple(range(100 - layer))) for layer in range(1, 32)]
    many = row("lofi", view(), kept)
    layers = [stage.layer for _, stage in many.shown]
    assert len(layers) == MOST_STAGES
    assert (layers[0], layers[-1]) == (1, 31)
    assert layers == sorted(set(layers))
    sheet = Sheet("what?", "pocket", (row("original", view()), many))
    assert sheet.note(many) == "8 of 31 changes are drawn"
    assert sheet.note(sheet.rows[0]) == ""


def test_a_smaller_picture_is_named() -> None:
    sheet = plain_sheet()
    assert sheet.note(sheet.rows[-1]) == "sees 8 × 8 places, 64 visual tokens"
    assert sheet.rows[-1].shown[0][0] == "every layer: 64"


def test_a_changed_answer_is_marked() -> None:
    sheet = plain_sheet()
    assert [sheet.changed(item) for item in sheet.rows] == [False, True, False, False, False]
    assert has(sheet_image(sheet), ORANGE)
    assert not has(sheet_image(replace(sheet, rows=sheet.rows[:1])), ORANGE)


@pytest.mark.parametrize("make", [plain_sheet, tiled_sheet])
def test_the_picture_holds_every_card_and_nothing_else(make: Callable[[], Sheet]) -> None:
    image = sheet_image(make())
    grid = pixels(image)
    assert (grid[:, [0, -1]] == 255).all()
    assert (grid[[0, -1]] == 255).all()
    assert has(image, INK)
    assert has(image, EXTRA)
    assert has(image, MERGED)
    assert image.height < 4 * image.width


def test_words_of_any_length_stay_on_the_page() -> None:
    long = "w" * 500 + " \u202e and a word " * 30
    sheet = plain_sheet(long)
    sheet = replace(sheet, rows=tuple(replace(item, name=long, answer=long) for item in sheet.rows))
    image = sheet_image(sheet)
    assert image.width == sheet_image(plain_sheet()).width
    assert (pixels(image)[:, -20:] == 255).all()


def test_an_answer_without_text_or_layers_is_drawn(tmp_path: Path) -> None:
    bare = row("bare", view(), answer="", per_layer=())
    sheet = Sheet("what?", "pocket", (bare, replace(bare, answer="red")))
    assert sheet_image(sheet).height > 300
    assert "(no text)" in render_sheet(sheet)


def test_the_page_holds_every_picture_once() -> None:
    page = render_sheet(plain_sheet())
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert (len(data["pictures"]), [item["view"] for item in data["rows"]]) == (2, [0, 0, 0, 0, 1])
    assert len(data["rows"][2]["stages"]) == 3


def test_a_page_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write the page to .*sheet\.html"):
        write_sheet_page(plain_sheet(), tmp_path / "file" / "sheet.html")
    assert write_sheet_page(plain_sheet(), tmp_path / "new" / "sheet.html").is_file()
