"""The manifest: it survives a round trip, and an answer about another input is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from steadyvlm.errors import PairingError, StoreError
from steadyvlm.perturb.base import SUITE_VERSION, Status
from steadyvlm.perturb.manifest import Entry, Manifest, image_hash, library_versions, weakest
from steadyvlm.records import Prediction

FOG = Entry("t", "s1", "image/fog@2", Status.APPLIED, ("a",), ("b",), {"worked_at": "32x32"})
TYPO = Entry("t", "s1", "text/typos@1", Status.NOOP, ("p",), ("p",))
LOST = Entry("t", "s2", "text/back_trans@1", Status.UNAVAILABLE, ("p",), ("p",), {"unavailable": "a model"})
MANIFEST = Manifest((FOG, TYPO, LOST), versions={"numpy": "2"})


def answer(level: str, *, prompt: str = "p", image: tuple[str, ...] = ("b",), sample: str = "s1") -> Prediction:
    return Prediction(
        sample, "t", "open", "?", prompt, image, ("x",), (), "", "", "x", "x", 1.0, perturbation=level, parent=sample
    )


def test_a_manifest_survives_json() -> None:
    assert Manifest.from_json(json.loads(json.dumps(MANIFEST.to_json()))) == MANIFEST
    assert MANIFEST.suite == SUITE_VERSION
    assert MANIFEST.statuses[("t", "s1", "text/typos@1")] == "noop"


def test_what_could_not_be_applied_is_not_asked() -> None:
    assert [entry.asked for entry in MANIFEST.entries] == [True, True, False]


@pytest.mark.parametrize("damage", [{"inputs": [[1]]}, {"profile": "loud"}, {"versions": None}])
def test_a_damaged_manifest_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="run the study again"):
        Manifest.from_json(MANIFEST.to_json() | damage)
    with pytest.raises(StoreError):
        Manifest.from_json([])


def test_answers_about_the_recorded_inputs_pass() -> None:
    clean = answer("", image=("any",))
    MANIFEST.check([answer("image/fog@2"), answer("image/fog@2", image=()), answer("text/typos@1"), clean], "half")


@pytest.mark.parametrize(
    "wrong",
    [
        answer("image/fog@2", image=("c",)),
        answer("text/typos@1", prompt="q"),
        answer("image/fog@3"),
        answer("image/fog@2", sample="s9"),
    ],
)
def test_an_answer_about_another_input_is_refused(wrong: Prediction) -> None:
    with pytest.raises(PairingError, match="1 perturbed inputs of arm 'half'"):
        MANIFEST.check([answer("image/fog@2"), wrong] if wrong.key != answer("image/fog@2").key else [wrong], "half")


def test_the_hash_of_a_picture_depends_on_pixels_and_shape() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_hash(pixels) == image_hash(pixels.copy())
    assert image_hash(pixels) != image_hash(pixels.reshape(4, 2, 3))
    assert image_hash(pixels) != image_hash(255 - pixels)


def test_libraries_that_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "numpy" in library_versions()
    monkeypatch.setattr("steadyvlm.perturb.manifest.LIBRARIES", ("numpy", "no-such-library"))
    assert set(library_versions()) == {"numpy"}


def test_of_several_pictures_the_weakest_status_counts() -> None:
    assert weakest([Status.UNAVAILABLE, Status.APPLIED]) is Status.UNAVAILABLE
    assert weakest([Status.REVERTED, Status.NOOP]) is Status.REVERTED
    assert replace(FOG, status=weakest([Status.NOOP])).status is Status.NOOP
