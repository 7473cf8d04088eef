"""Frost: photographs found and not imported, a folder of one's own, and what is made when there are none."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.perturb.image.pictures import photo

from steadyvlm.errors import ImageError
from steadyvlm.perturb.image import Resources, apply_image, ice
from steadyvlm.perturb.streams import stream

KEY = "1|image/frost@3|a picture|0"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "_shipped", lambda: ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs whose red says the row, whose green says the column, and whose blue says which they are."""
    for number in range(5):
        rows, columns = np.mgrid[0:150, 0:180]
        levels = np.stack([rows, columns, np.full_like(rows, 20 * number)], axis=-1)
        Image.fromarray(levels.astype(np.uint8)).save(tmp_path / f"frost{number}.PNG")
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def test_a_photograph_lies_over_the_picture(folder: Path) -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    result = apply_image(pixels, "frost", 1, KEY, resources=Resources(folder))
    assert (result.status, result.info) == ("applied", {})
    number = stream(KEY, "photograph").randint(5)
    assert (result.image[..., 2] == int(0.4 * 20 * number)).all()
    # 1.1 times as large, so that a step of one pixel is 1 / 1.1 levels, of which 0.4 are added
    red, green = result.image[..., 0].astype(int), result.image[..., 1].astype(int)
    assert abs((red[-1, 0] - red[0, 0]) - 59 / 1.1 * 0.4) <= 1
    assert abs((green[0, -1] - green[0, 0]) - 79 / 1.1 * 0.4) <= 1
    place = stream(KEY, "place")
    top, left = place.randint(165 - 60), place.randint(198 - 80)
    assert abs(red[0, 0] - top / 1.1 * 0.4) <= 1
    assert abs(green[0, 0] - left / 1.1 * 0.4) <= 1


def test_all_photographs_are_drawn_and_the_weights_are_those_of_the_levels(folder: Path) -> None:
    pixels = np.full((40, 40, 3), 100, np.uint8)
    seen = set()
    for seed in range(60):
        found = apply_image(pixels, "frost", 5, seed=seed, resources=Resources(folder)).image[0, 0, 2]
        seen.add(int(found))
    assert seen == {int(0.6 * 100 + 0.75 * 20 * number + 1e-3) for number in range(5)}
    white = np.full((40, 40, 3), 255, np.uint8)
    assert (apply_image(white, "frost", 1, resources=Resources(folder)).image == 255).all()


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (300, 300)])
@pytest.mark.parametrize("profile", ["general", "paper"])
def test_photographs_grow_to_cover_the_picture(folder: Path, size: tuple[int, int], profile: str) -> None:
    pixels = photo(*size)
    result = apply_image(pixels, "frost", 2, profile=profile, resources=Resources(folder))  # type: ignore[arg-type]
    assert result.image.shape == pixels.shape
    assert result.status == "applied"


def test_the_channels_of_the_paper_are_mixed_where_its_photographs_grow(tmp_path: Path) -> None:
    """The generator enlarges the axis of the channels as well: blue 10, green 100, red 200 come out as 10, 28, 72."""
    Image.new("RGB", (50, 50), (200, 100, 10)).save(tmp_path / "only.png")
    black = np.zeros((60, 60, 3), np.uint8)
    grown = apply_image(black, "frost", 1, profile="paper", resources=Resources(tmp_path)).image
    assert np.abs(grown[30, 30] - 0.4 * np.array([72, 28, 10])).max() <= 1
    small = apply_image(black[:40, :40], "frost", 1, profile="paper", resources=Resources(tmp_path)).image
    assert small[20, 20].tolist() == [80, 40, 4]


def test_without_photographs_frost_is_made_and_says_so(nothing_installed: None) -> None:
    pixels = photo(96, 80)
    results = [apply_image(pixels, "frost", severity) for severity in (1, 2, 3, 4, 5)]
    assert {result.status for result in results} == {"fallback"}
    assert {result.info["fallback"] for result in results} == {"procedural-frost"}
    assert np.array_equal(results[2].image, apply_image(pixels, "frost", 3).image)
    black = apply_image(np.zeros((96, 80, 3), np.uint8), "frost", 1).image.astype(float) / 0.4 / 255
    assert 0.45 < black.mean() < 0.65  # like the photographs
    assert 0.06 < black[..., 1].std() < 0.2
    assert black[..., 0].mean() < black[..., 1].mean() < black[..., 2].mean()  # ice is bluish
    assert ice.source(Resources()) == "procedural-frost"


def test_without_photographs_and_substitutes_nothing_is_changed(nothing_installed: None) -> None:
    pixels = photo(40, 40)
    result = apply_image(pixels, "frost", 3, resources=Resources(fallbacks=False))
    assert result.status == "unavailable"
    assert "imagecorruptions" in str(result.info["unavailable"])
    assert np.array_equal(result.image, pixels)
    assert not np.shares_memory(result.image, pixels)
    assert ice.source(Resources(fallbacks=False)) == "unavailable"


def test_the_record_names_the_photographs_by_their_bytes(folder: Path) -> None:
    before = ice.source(Resources(folder))
    assert before.startswith("5 photographs, sha256:")
    Image.new("RGB", (50, 50)).save(folder / "frost0.PNG")
    assert ice.source(Resources(folder)) != before


def test_bad_folders_and_photographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="another folder"):
        apply_image(photo(40, 40), "frost", 1, resources=Resources(tmp_path / "missing"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        apply_image(photo(40, 40), "frost", 1, resources=Resources(tmp_path))


class Wheel:
    """An installed distribution whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


def test_the_wheel_is_located_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = tmp_path / "imagecorruptions" / "frost"
    lying.mkdir(parents=True)
    for name in ice.PHOTOGRAPHS[:4]:
        Image.new("RGB", (64, 64), (9, 90, 180)).save(lying / name)
    monkeypatch.setattr(metadata, "distribution", lambda name: Wheel(tmp_path))
    ice._shipped.cache_clear()
    try:
        assert ice.photographs(Resources()) == ()  # one of the five is missing
        Image.new("RGB", (64, 64), (9, 90, 180)).save(lying / ice.PHOTOGRAPHS[4])
        ice._shipped.cache_clear()
        assert [path.name for path in ice.photographs(Resources())] == list(ice.PHOTOGRAPHS)
        assert apply_image(photo(40, 40), "frost", 1).status == "applied"
        assert "imagecorruptions" not in sys.modules

        def absent(name: str) -> Wheel:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "distribution", absent)
        ice._shipped.cache_clear()
        assert ice.photographs(Resources()) == ()
    finally:
        ice._shipped.cache_clear()
