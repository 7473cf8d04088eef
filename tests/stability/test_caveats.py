"""Each caveat appears when it should, and only then."""

from __future__ import annotations

import dataclasses

import pytest

from stability.factory import failed, generation, prediction, two_runs
from steadyvlm.records import UNPARSED
from steadyvlm.stability.compare import compare


def caveats(original: list, accelerated: list, **options: object) -> str:
    return "\n".join(compare(original, accelerated, control=original, **options).caveats)


def test_an_ordinary_comparison_has_none() -> None:
    assert caveats(*two_runs([5, 3, 2, 1, 4, 85])) == ""


def test_without_a_control_the_noise_is_unknown() -> None:
    assert compare(*two_runs([5, 3, 2, 1, 4, 85])).caveats == (
        "no A/A control: how much of the change is noise is unknown. Run the original twice to find out.",
    )


def test_failures_come_first() -> None:
    original, accelerated = two_runs([1, 0, 0, 0, 0, 9])
    found = caveats([failed("q00000"), *original[1:]], [*accelerated[:-1], failed("q00009")])
    assert found.startswith("2 samples have no answer on one side at least (original 1, accelerated 1)")


def test_left_out_questions_are_mentioned() -> None:
    original, accelerated = two_runs([1, 0, 0, 0, 0, 9])
    assert "2 of the original and 0 of the accelerated run are left out" in caveats(
        original, accelerated[:-2], common_only=True
    )


def test_identical_texts_ask_whether_the_method_acted() -> None:
    original, _ = two_runs([0, 0, 0, 0, 0, 10])
    assert "all 10 texts are identical on both sides" in caveats(original, original)
    assert "identical" not in caveats(*two_runs([0, 0, 0, 0, 1, 9]))


@pytest.mark.parametrize(("unparsed", "expected"), [(1, False), (2, True)])
def test_more_than_one_per_cent_more_unparsed(unparsed: int, expected: bool) -> None:
    original, accelerated = two_runs([0, 0, 0, 0, 1, 99])
    for row in range(unparsed):
        accelerated[row] = dataclasses.replace(accelerated[row], answer=UNPARSED, text="hm", score=0.0)
    assert ("could be read" in caveats(original, accelerated)) is expected
    assert ("could be read" in caveats(accelerated, original)) is expected


def test_cut_off_answers_are_counted_per_side() -> None:
    original, accelerated = two_runs([0, 0, 0, 0, 1, 99])
    cut = [dataclasses.replace(item, generation=generation(item.text, "length")) for item in accelerated[:1]]
    found = caveats(original, [*cut, *accelerated[1:]])
    assert "1 accelerated answers were cut off" in found
    assert "original answers were cut off" not in found
    whole = [dataclasses.replace(item, generation=generation(item.text)) for item in accelerated]
    assert "cut off" not in caveats(original, whole)


def test_much_longer_or_shorter_answers() -> None:
    original = [prediction(f"q{row}", text="red") for row in range(4)]
    accelerated = [prediction(f"q{row}", text="it is red") for row in range(4)]
    assert "3 characters long on average in the original and 9 in the accelerated" in caveats(original, accelerated)
    assert "9 characters long" in caveats(accelerated, original)
    assert "characters" not in caveats(original, [prediction(f"q{row}", text="is red") for row in range(4)])


def test_too_good_to_be_true() -> None:
    assert "significantly more answers mended (20) than broke (1)" in caveats(*two_runs([1, 20, 0, 0, 0, 80]))
    assert "mended" not in caveats(*two_runs([20, 1, 0, 0, 0, 80]))
    assert "mended" not in caveats(*two_runs([3, 5, 0, 0, 0, 80]))
