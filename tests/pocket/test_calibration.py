"""Pocket's calibration sets are what the generator makes, and nothing a benchmark shows."""

from __future__ import annotations

import pytest

from steadyvlm.calibration.sets import SetFile, find_set, read_set, to_json
from steadyvlm.errors import ImageError
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.pocket import calibration
from steadyvlm.pocket.benchmark import SCENES
from steadyvlm.pocket.calibration import FIRST, SIZES, image, make_set, set_of
from steadyvlm.pocket.weights import pocket_path

BEGINNING = 12


@pytest.mark.parametrize("name", list(SIZES))
def test_the_file_is_what_the_generator_makes(name: str) -> None:
    frozen = find_set(name)
    assert len(frozen.samples) == SIZES[name]
    assert frozen.samples[:BEGINNING] == make_set(name, BEGINNING).samples


@pytest.mark.parametrize("name", list(SIZES))
def test_scenes_are_in_no_split_of_the_benchmark(name: str) -> None:
    assert SCENES["validation"] <= FIRST
    for sample in find_set(name).samples:
        assert int(sample.id.split("-")[1]) >= FIRST
        assert sample.image is None or sample.image == f"validation/{sample.id.split('-')[1]}"


def test_every_picture_is_asked_about_once_and_groups_are_equal() -> None:
    for name in SIZES:
        samples = find_set(name).samples
        pictures = [sample.image for sample in samples if sample.image is not None]
        assert len(pictures) == len(set(pictures))
        groups = [sample.group for sample in samples]
        assert len({groups.count(group) for group in groups}) == 1
    assert all(sample.image is None for sample in find_set("pocket-text").samples)


def test_pictures_have_the_recorded_hashes() -> None:
    requests = find_set("pocket").draw(8, 0).requests()
    assert all(request.images[0].size == (96, 96) for request in requests)


@pytest.mark.parametrize("name", ["validation/12", "test/1000", "validation/1000/..", "../1000", "validation/10000"])
def test_other_names_are_no_scenes(name: str) -> None:
    with pytest.raises(ImageError, match="no calibration scene"):
        image(name)


def test_each_shipped_model_has_its_set() -> None:
    own = {architecture: set_of(folder_sha256(pocket_path(architecture))) for architecture in calibration.ARCHITECTURES}
    assert own == {"llava": "pocket", "qwen2_5_vl": "pocket-mixed", "llava_next": "pocket"}
    assert set_of("0" * 64) is None


def test_a_set_survives_being_written(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    monkeypatch.setattr(calibration, "SIZES", {"pocket-mixed": 10})
    calibration.write_sets(tmp_path)
    content: SetFile = make_set("pocket-mixed", 10)
    assert (tmp_path / "pocket-mixed.json").read_text(encoding="utf-8") == to_json(content)
    assert read_set(tmp_path / "pocket-mixed.json").samples == content.samples
