"""A picture is decoded once for all questions about it, within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from steadyvlm.errors import ImageError
from steadyvlm.study.images import ImageCache
from steadyvlm.tasks.sources import FileImage
from study.pictures import items, picture, png, sample


class Counting:
    def __init__(self, shade: int) -> None:
        self.loads, self._shade = 0, shade

    def load(self) -> Image.Image:
        self.loads += 1
        return picture(self._shade).load()

    def sha256(self) -> str:
        return f"digest-{self._shade}"


def test_a_picture_is_decoded_once_and_hands_out_the_same_pixels() -> None:
    image = Counting(7)
    cache = ImageCache()
    decoded = [cache.decoded(item) for item in items(sample(1, image), sample(2, image, image))]
    assert image.loads == 1
    assert decoded[1].images[1].load() is decoded[0].images[0].load()
    assert decoded[0].images[0].sha256() == "digest-7"
    assert decoded[0].prompt == "What is number 1?"


def test_the_budget_drops_the_least_recently_used() -> None:
    images = [Counting(shade) for shade in range(3)]
    asked = items(*(sample(n, image) for n, image in enumerate(images)))
    cache = ImageCache(budget=2 * 16)
    for index in (0, 1, 0, 2, 0, 1):
        cache.decoded(asked[index])
    assert [image.loads for image in images] == [1, 2, 1]


def test_one_picture_above_the_budget_is_still_answered() -> None:
    image = Counting(1)
    asked = items(sample(1, image), sample(2, image))
    cache = ImageCache(budget=1)
    assert [cache.decoded(item).id for item in asked] == ["s1", "s2"]
    assert image.loads == 1


def test_unreadable_pictures_raise_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    (item,) = items(sample(1, FileImage(path)))
    with pytest.raises(ImageError, match="does not exist"):
        ImageCache().decoded(item)
    path.write_bytes(png(3))
    with pytest.raises(ImageError, match="could not be read when the study began"):
        ImageCache().decoded(item)
