"""Calibration sets: what is read, what is drawn, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steadyvlm.calibration import CALIBRATION_SETS
from steadyvlm.calibration.examples import Wanted, drawn_set, examples_of, examples_sha256
from steadyvlm.calibration.sets import CalibrationSample, CalibrationSet, find_set, read_set, shares
from steadyvlm.errors import ImageError, InvalidOption, SampleError, UnknownName, Unsupported
from tiny import make_image, tiny_llava
from tiny_sets import write_set


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["samples"]
    return rows


def test_a_set_becomes_requests_with_its_pictures(tmp_path: Path) -> None:
    requests = read_set(write_set(tmp_path)).requests()
    assert [request.prompt for request in requests] == ["what 0", "what 1", "what 2", "how"]
    assert [len(request.images) for request in requests] == [1, 1, 1, 0]
    assert requests[1].images[0].tobytes() == make_image(1).tobytes()
    assert len({request.seed for request in requests}) == 4


def test_a_folder_may_be_anywhere(tmp_path: Path) -> None:
    write_set(tmp_path)
    moved = write_set(tmp_path, folder=str(tmp_path / "pictures")).rename(tmp_path.parent / f"{tmp_path.name}.json")
    assert len(read_set(moved).requests()) == 4


def test_the_hash_is_that_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    first = read_set(write_set(tmp_path))
    again = read_set(write_set(tmp_path, name="other", about="moved", folder=str(tmp_path / "pictures")))
    assert first.sha256 == again.sha256
    rows = rows_of(tmp_path / "mine.json")
    for change in ({"prompt": "who"}, {"image_sha256": "0" * 64}, {"group": "b"}, {"id": "q"}):
        assert read_set(write_set(tmp_path, samples=[{**rows[0], **change}, *rows[1:]])).sha256 != first.sha256
    assert read_set(write_set(tmp_path, samples=rows[::-1])).sha256 != first.sha256


def test_a_picture_of_several_samples_is_named_once(tmp_path: Path) -> None:
    sample = CalibrationSample("a", "What?", "gone.png", "0" * 64, "general")
    several = CalibrationSet("mine", (sample, dataclasses.replace(sample, id="b", prompt="Where?")), tmp_path)
    with pytest.raises(ImageError, match=r"1 of 1 pictures are missing: gone\.png\. Put"):
        several.requests()


def test_missing_changed_and_damaged_pictures_are_named_in_one_error(tmp_path: Path) -> None:
    found = read_set(write_set(tmp_path))
    (tmp_path / "pictures" / "0.png").unlink()
    make_image(9).save(tmp_path / "pictures" / "1.png")
    (tmp_path / "pictures" / "2.png").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        found.requests()
    message = str(caught.value)
    assert "1 of 3 pictures are missing: 0.png" in message
    assert "1 of 3 pictures are not the pictures the set was made with: 1.png" in message
    assert "1 of 3 pictures cannot be read: 2.png" in message
    assert str(tmp_path / "pictures") in message


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 2}, "version is '2'"),
        ({"format": "something"}, "format"),
        ({"samples": []}, "holds 0 samples"),
        ({"extra": 1}, "unknown: extra"),
        ({"name": None}, "expected a text"),
        ({"source": "nowhere"}, "no source of calibration images is called 'nowhere'"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SampleError, match=complaint):
        read_set(write_set(tmp_path, **changes))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": "p1"}, "sample 'p1' occurs twice"),
        ({"prompt": "  "}, "has a prompt of 2 characters"),
        ({"image_sha256": None}, "a picture without a hash"),
        ({"image": None}, "a hash without a picture"),
        ({"image": "../secret.png"}, "outside the set's folder"),
        ({"image": "/etc/secret.png"}, "outside the set's folder"),
        ({"group": 3}, "expected a text"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    rows = rows_of(write_set(tmp_path))
    with pytest.raises(SampleError, match=complaint):
        read_set(write_set(tmp_path, samples=[{**rows[0], **change}, *rows[1:]]))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(SampleError, match=r"bad\.json"):
        read_set(tmp_path / "bad.json")


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steadyvlm.calibration.sets.MAX_BYTES", 100)
    with pytest.raises(SampleError, match="more than 100 bytes"):
        read_set(write_set(tmp_path))


def grouped(**sizes: int) -> CalibrationSet:
    names = [(group, number) for group, size in sizes.items() for number in range(size)]
    return CalibrationSet("s", tuple(CalibrationSample(f"{g}{n}", "a", None, None, g) for g, n in names))


def test_a_draw_keeps_proportions_and_order() -> None:
    found = grouped(a=60, b=30, c=10).draw(20, 1)
    assert Counter(item.group for item in found.samples) == {"a": 12, "b": 6, "c": 2}
    order = [item.id for item in grouped(a=60, b=30, c=10).samples]
    assert [item.id for item in found.samples] == sorted((i.id for i in found.samples), key=order.index)


def test_a_draw_depends_on_its_seed_alone() -> None:
    whole = grouped(a=50)
    assert whole.draw(10, 3) == whole.draw(10, 3)
    assert whole.draw(10, 3) != whole.draw(10, 4)
    reordered = CalibrationSet("s", whole.samples[::-1])
    assert {i.id for i in reordered.draw(10, 3).samples} == {i.id for i in whole.draw(10, 3).samples}
    assert whole.draw(50, 3) == whole
    with pytest.raises(InvalidOption, match="holds 50 samples, 51 were asked for"):
        whole.draw(51, 0)


@pytest.mark.parametrize(("sizes", "count"), [((5, 5, 5), 7), ((1, 9), 5), ((3, 3, 1), 6), ((2, 2), 4), ((7,), 3)])
def test_shares_add_up_and_never_exceed_a_group(sizes: tuple[int, ...], count: int) -> None:
    found = shares({str(place): size for place, size in enumerate(sizes)}, count)
    assert sum(found.values()) == count
    exact = [size * count / sum(sizes) for size in sizes]
    for share, size, ideal in zip(found.values(), sizes, exact, strict=True):
        assert share <= size
        assert abs(share - ideal) < 1


def test_the_mixture_of_five_is_that_of_the_specification() -> None:
    found = find_set("pocket-mixed").draw(128, 0)
    assert sorted(Counter(item.group for item in found.samples).values(), reverse=True) == [26, 26, 26, 25, 25]


@pytest.mark.parametrize("name", list(CALIBRATION_SETS))
def test_registered_sets_hold_enough(name: str) -> None:
    assert len(find_set(name).draw(128, 0).samples) == 128


def test_auto_is_refused_for_a_model_without_a_set_of_its_own() -> None:
    with pytest.raises(Unsupported, match=r"no calibration set belongs to 'mine'.*calibration-set"):
        find_set("auto", weights_sha256="0" * 64, model="mine")


@pytest.mark.parametrize("name", ["pockett", "there/is/none", "none.json"])
def test_a_set_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName if name == "pockett" else SampleError):
        find_set(name)


def test_examples_are_those_that_were_asked_for(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    asking = Wanted(path, 2, 5)
    examples = examples_of(asking, tiny_llava())
    assert [example.prompt for example in examples] == [item.prompt for item in drawn_set(asking, "", "").samples]


def test_the_hash_of_examples_sees_pixels_and_prompts(tmp_path: Path) -> None:
    requests = read_set(write_set(tmp_path)).requests()
    again = read_set(write_set(tmp_path)).requests()
    assert examples_sha256(requests) == examples_sha256(again)
    assert examples_sha256(requests[:3]) != examples_sha256(requests)
    assert examples_sha256(requests[::-1]) != examples_sha256(requests)
    image: Image.Image = again[0].images[0]
    image.putpixel((0, 0), (1, 2, 3))
    assert examples_sha256(requests) != examples_sha256(again)
