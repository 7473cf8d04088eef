"""Scenes are a pure function of their seed, and their item lists are true."""

from __future__ import annotations

import numpy as np
import pytest

from steadyvlm.pocket.assets import SHAPE_SIZES, TEST_DIGITS, digit_mask, load_assets
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.vocabulary import COLOUR_RGB, COLOURS, SHAPES, SIZE, WORDS
from steadyvlm.seeding import bytes_hash


def test_the_same_seed_paints_the_same_bytes_on_every_machine() -> None:
    # Written down from the first run: the shipped benchmark is these bytes.
    assert [bytes_hash(make_scene("test", n).pixels.tobytes())[:12] for n in range(3)] == GOLDEN


GOLDEN = ["94a359ce02e0", "c16ec5f1a94d", "283e5b9cc51b"]


def test_splits_do_not_share_scenes() -> None:
    hashes = {
        bytes_hash(make_scene(split, n).pixels.tobytes())
        for split in ("train", "validation", "test", "calibration")
        for n in range(5)
    }
    assert len(hashes) == 20


@pytest.mark.parametrize("index", range(30))
def test_items_lie_inside_and_apart(index: int) -> None:
    items = make_scene("validation", index).items
    for n, item in enumerate(items):
        left, top, right, bottom = item.box
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        for other in items[:n]:
            a, b = item.box, other.box
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_a_plain_square_has_the_colour_it_claims() -> None:
    checked = 0
    for index in range(60):
        scene = make_scene("validation", index)
        for item in scene.of("shape"):
            if item.name == "square" and not item.second:
                left, top, right, bottom = item.box
                paint = scene.pixels[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3).mean(0)
                # Paint is thinned by up to 40 % with a dark background, so compare directions, not brightness.
                similar = [paint @ np.array(rgb) / np.linalg.norm(paint) / np.linalg.norm(rgb) for rgb in COLOUR_RGB]
                checked += 1
                assert similar[COLOURS.index(item.colour)] > 0.9
    assert checked > 20


def test_ambiguous_colours_name_a_real_neighbour() -> None:
    seconds = [item for n in range(80) for item in make_scene("train", n).items if item.second]
    assert seconds
    assert all(item.second in COLOURS and item.second != item.colour and 0.2 <= item.blend < 0.45 for item in seconds)


def test_assets_cover_the_vocabulary() -> None:
    assets = load_assets()
    assert assets.digits.shape == (1797, 8, 8)
    assert 0 < TEST_DIGITS < len(assets.digits)
    assert set(assets.shapes) == {(kind, size) for kind in range(len(SHAPES)) for size in SHAPE_SIZES}
    assert len(assets.words) == 4 * len(WORDS)
    for (word, _), (mask, edges) in assets.words.items():
        assert mask.max() > 0.9
        assert len(edges) == len(WORDS[word])
    assert digit_mask(assets.digits[0], 22).shape == (22, 22)
