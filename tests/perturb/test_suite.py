"""The tables of the suite: counts, names, what studies may write."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from steadyvlm.errors import ConfigError, InvalidOption, UnknownName
from steadyvlm.perturb.base import Level, check_profile
from steadyvlm.perturb.suite import (
    IMAGE,
    IMAGE_LEVELS,
    LEVELS,
    SUITE,
    TEXT,
    TEXT_LEVELS,
    Special,
    draw,
    expand,
    find,
    groups,
    parse,
)


def test_the_counts_of_the_paper() -> None:
    assert (len(IMAGE), len(IMAGE_LEVELS), len(TEXT), len(TEXT_LEVELS)) == (20, 96, 35, 87)
    assert len({str(level) for level in LEVELS}) == 183
    assert Counter(row.levels for row in IMAGE) == {5: 19, 1: 1}
    assert Counter(row.levels for row in TEXT) == {5: 13, 1: 22}


def test_every_id_is_unique_and_fully_described() -> None:
    assert len({row.id for row in (*IMAGE, *TEXT)}) == 55
    assert len({row.label for row in (*IMAGE, *TEXT)}) == 55
    assert all(row.group and row.label and row.name == name for name, row in SUITE.items())
    assert Counter(row.group for row in IMAGE) == {"noise": 4, "blur": 5, "digital": 6, "weather": 4, "blank": 1}
    sizes = {"char": 9, "style": 6, "add": 3, "drop-by-POS": 8, "positional": 5, "swap": 4}
    assert Counter(row.group for row in TEXT) == sizes
    assert groups("text") == tuple(sizes)


def test_what_draws_nothing_is_marked() -> None:
    assert {row.id for row in IMAGE if row.deterministic} == {
        *("defocus_blur", "gaussian_blur", "zoom_blur", "jpeg_compression", "contrast", "saturate", "pixelate"),
        *("brightness", "blank_image"),
    }
    assert {row.id for row in TEXT if row.deterministic} == {
        *("drop_nn", "drop_vb", "drop_vb_nn", "only_nn", "only_vb", "only_vb_nn"),
        *("drop_first", "drop_last", "drop_first_and_last", "double_denial"),
    }


@pytest.mark.parametrize("row", IMAGE, ids=lambda row: row.id)
def test_every_picture_row_leads_to_its_function(row) -> None:
    module, _, name = row.path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert name == row.id


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_a_level_is_read_back_from_its_text(level: Level) -> None:
    assert parse(str(level)) == level


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("image/all", 96),
        ("text/all", 87),
        ("image/all@3", 19),
        ("text/all@5", 13),
        ("image/noise", 20),
        ("image/weather@2", 4),
        ("image/blank", 1),
        ("image/blank@1", 1),
        ("text/drop-by-POS", 8),
        ("image/fog", 5),
        (" image/fog@2 ", 1),
        ("text/drop_first", 1),
    ],
)
def test_words_for_several_levels(text: str, count: int) -> None:
    assert len(expand([text])) == count


def test_each_level_is_expanded_once_and_in_the_order_asked() -> None:
    found = expand(["random", "image/fog@2", "none", "image/fog", "none"])
    assert found[:3] == (Special.RANDOM, parse("image/fog@2"), Special.NONE)
    assert [str(item) for item in found[3:]] == [f"image/fog@{at}" for at in (1, 3, 4, 5)]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("image/fogg", UnknownName, "image/fog"),
        ("fog", UnknownName, "image/fog"),
        ("audio/all", UnknownName, "perturbation or group"),
        ("", UnknownName, "no perturbation"),
        ("image/fog@6", InvalidOption, "1 to 5"),
        ("image/fog@0", InvalidOption, "1 to 5"),
        ("image/all@9", InvalidOption, "1 to 5"),
        ("image/blank@2", InvalidOption, "1 only"),
        ("text/drop_first@2", InvalidOption, "1 only"),
        ("image/fog@", ConfigError, "severity"),
        ("image/fog@-1", ConfigError, "severity"),
        ("image/fog@²", ConfigError, "severity"),
        ("image/fog@two", ConfigError, "severity"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        expand([text])


def test_one_level_must_be_one_level() -> None:
    with pytest.raises(ConfigError, match="image/fog@3"):
        parse("image/fog")
    with pytest.raises(UnknownName, match="image/fog"):
        find("image/fogs")
    for severity in (True, 2.0, 6, 0):
        with pytest.raises(InvalidOption):
            Level(find("image/fog"), severity)  # type: ignore[arg-type]  # what a study file may hold


def test_profiles_are_two() -> None:
    assert check_profile("paper") == "paper"
    with pytest.raises(InvalidOption, match="general"):
        check_profile("strict")


def test_the_random_level_is_drawn_evenly_and_by_content() -> None:
    drawn = Counter(draw(f"sample {number}") for number in range(183 * 40))
    assert len(drawn) == 183
    assert max(drawn.values()) < 80
    assert draw("sample 1", seed=0) != draw("sample 1", seed=1)
    assert all(
        level.perturbation.modality == "text" for level in (draw(str(at), among=TEXT_LEVELS) for at in range(50))
    )
