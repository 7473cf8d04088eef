"""The contact sheet: every tile in its place, marked where a reader must know more."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.perturb.image.pictures import photo

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb.image import Resources, apply_image, ice
from steadyvlm.perturb.sheet import CAPTION_HEIGHT, GAP, LABEL_WIDTH, MARGIN, image_sheet

TOP = MARGIN + CAPTION_HEIGHT + GAP
LEFT = MARGIN + LABEL_WIDTH


def tile(sheet: Image.Image, row: int, column: int, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    y, x = TOP + row * (height + CAPTION_HEIGHT + GAP), LEFT + column * (width + GAP)
    return np.asarray(sheet)[y : y + height, x : x + width]


def test_tiles_are_the_levels_pixel_by_pixel() -> None:
    pixels = photo(48, 64)
    ids = ["impulse_noise", "contrast", "blank_image"]
    sheet = image_sheet(pixels, perturbations=ids, severities=(1, 4), side=64, seed=2)
    assert sheet.mode == "RGB"
    for row, id in enumerate(ids):
        assert np.array_equal(tile(sheet, row, 0, (48, 64)), pixels)
        for column, severity in enumerate((1, 4), start=1):
            if id == "blank_image":
                severity = 1
            expected = apply_image(pixels, id, severity, seed=2).image
            assert np.array_equal(tile(sheet, row, column, (48, 64)), expected)


def test_the_whole_suite_fits_one_sheet() -> None:
    sheet = image_sheet(Image.fromarray(photo(30, 90)), side=48)
    assert sheet.size == (LEFT + 6 * (48 + GAP) - GAP + MARGIN, TOP + 20 * (16 + CAPTION_HEIGHT + GAP) - GAP + MARGIN)


def test_a_result_of_another_size_is_fitted() -> None:
    sheet = image_sheet(photo(48, 64), perturbations=["pixelate"], profile="paper", side=64)
    assert tile(sheet, 0, 5, (48, 64)).std() > 10


def test_substitutes_and_no_ops_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "_shipped", lambda: ())
    for pixels, ids, resources in (
        (photo(40, 40), ["frost"], Resources()),
        (photo(40, 40), ["frost"], Resources(fallbacks=False)),
        (np.zeros((40, 40, 3), np.uint8), ["fog"], Resources()),
    ):
        marked = image_sheet(pixels, perturbations=ids, severities=(1,), side=40, resources=resources)
        plain = image_sheet(pixels, perturbations=["brightness"], severities=(1,), side=40)
        y = TOP + 40 + 2
        captions = [np.asarray(sheet)[y : y + CAPTION_HEIGHT, LEFT + 48 :] for sheet in (marked, plain)]
        assert (captions[0] < 250).any()
        assert (captions[1] > 250).all()


def test_sheets_that_would_show_nothing_are_refused() -> None:
    with pytest.raises(InvalidOption, match="at least 32"):
        image_sheet(photo(40, 40), side=8)
    with pytest.raises(InvalidOption, match="at least one"):
        image_sheet(photo(40, 40), severities=())
    with pytest.raises(InvalidOption, match="1 to 5"):
        image_sheet(photo(40, 40), perturbations=["fog"], severities=(6,))
    with pytest.raises(UnknownName, match="fog"):
        image_sheet(photo(40, 40), perturbations=["fogg"])
