"""Ratios under perturbation: who is counted where, and the paired difference to clean."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np
import pytest

from stability.factory import failed, prediction
from steadyvlm.errors import PairingError
from steadyvlm.records import Prediction
from steadyvlm.stability.differences import difference
from steadyvlm.stability.perturbed import Kind, UnderPerturbation, under_perturbation

KINDS = (
    Kind("image/fog", "Fog", "weather", 5),
    Kind("image/blank_image", "Blank", "blank", 1),
    Kind("text/typos", "Typos", "char", 5),
)


def side(rows: Sequence[tuple[str, str, bool]], answer: str) -> list[Prediction]:
    """(id, level, whether the accelerated side changes) -> predictions of the accelerated side, or of the original."""
    return [
        prediction(
            name,
            answer if changes else "red",
            perturbation=level,
            parent=name if level else "",
            cluster=f"picture {name[:2]}",
            prompt_sha256=f"{name}{level}",
        )
        for name, level, changes in rows
    ]


def under(
    rows: Sequence[tuple[str, str, bool]], statuses: dict[tuple[str, str], str] | None = None
) -> UnderPerturbation:
    given = {("toy", name, level): status for (name, level), status in (statuses or {}).items()}
    return under_perturbation(side(rows, "red"), side(rows, "blue"), kinds=KINDS, statuses=given)


CLEAN = [(f"q{n}", "", n < 1) for n in range(6)]
FOG = [(f"q{n}", f"image/fog@{level}", n < level) for level in (1, 3) for n in range(4)]
TYPOS = [(f"q{n}", "text/typos@2", False) for n in range(6)]


def test_every_level_family_and_severity_has_its_own_state() -> None:
    found = under([*CLEAN, *TYPOS, *FOG, ("q0", "image/blank_image@1", True)])
    assert list(found.levels) == ["image/fog@1", "image/fog@3", "image/blank_image@1", "text/typos@2"]
    assert list(found.perturbations) == ["image/fog", "image/blank_image", "text/typos"]
    assert list(found.groups) == ["image/weather", "image/blank", "text/char"]
    assert list(found.modalities) == ["image", "text"]
    assert list(found.severities) == ["image@1", "image@3", "text@2"]  # a single level is no severity
    assert [kind.name for kind in found.kinds] == ["image/fog", "image/blank_image", "text/typos"]
    assert (found.clean.n, found.clean.divergence_ratio.numerator) == (6, 1)
    assert found.levels["image/fog@3"].divergence_ratio.numerator == 3
    assert found.perturbations["image/fog"].negative_divergence_ratio.numerator == 4
    assert found.modalities["image"].n == 9
    assert found.perturbations["image/fog"].n_clusters == 4
    assert found.levels["image/fog@3"].score_original == 1.0
    assert found.levels["image/fog@3"].score_change.value == -0.75


def test_the_difference_to_clean_is_taken_question_by_question() -> None:
    found = under([*CLEAN, *FOG])
    # severity 3: questions 0 to 2 change, of which question 0 changes when clean, too
    assert found.levels["image/fog@3"].more_changed.value == pytest.approx((3 - 1) / 4)
    assert found.levels["image/fog@1"].more_changed.value == 0.0
    both = np.array([1.0, 0, 0, 0, 1, 1, 1, 0]), np.array([1.0, 0, 0, 0, 1, 0, 0, 0])
    expected = difference(*both, np.array([0, 1, 2, 3, 0, 1, 2, 3]), alpha=0.05, seed=0)
    more = found.perturbations["image/fog"].more_changed
    assert (more.value, more.low, more.high) == (expected.value, expected.low, expected.high)
    assert more.n_clusters == 4


def test_samples_without_a_clean_twin_have_ratios_but_no_difference() -> None:
    found = under(FOG)
    assert found.clean.n == 0
    assert isnan(found.clean.score_original)
    assert found.modalities["image"].divergence_ratio.defined
    assert not found.modalities["image"].more_changed.defined


def test_a_substitute_enters_no_average_but_has_its_own_number() -> None:
    rows = [*CLEAN, *FOG, ("q4", "image/fog@3", True), ("q0", "image/blank_image@1", True)]
    statuses = {("q4", "image/fog@3"): "fallback", ("q0", "image/blank_image@1"): "fallback"}
    found = under(rows, statuses)
    assert found.levels["image/fog@3"].n == 4
    assert found.levels["image/fog@3"].statuses == {"applied": 4, "fallback": 1}
    assert not found.levels["image/fog@3"].substitute
    assert found.modalities["image"].n == 8
    assert found.modalities["image"].statuses == {"applied": 8, "fallback": 2}
    blank = found.levels["image/blank_image@1"]
    assert (blank.n, blank.substitute, blank.divergence_ratio.numerator) == (1, True, 1)


def test_what_was_never_asked_is_counted_and_has_no_number() -> None:
    found = under([*CLEAN, *FOG], {("q0", "text/typos@2"): "unavailable", ("elsewhere", "text/typos@1"): "applied"})
    state = found.levels["text/typos@2"]
    assert (state.n, state.statuses, state.substitute) == (0, {"unavailable": 1}, False)
    assert isnan(state.noop_share)
    assert "text/typos@1" not in found.levels  # of a sample this arm was not asked


def test_no_ops_count_and_their_share_is_known() -> None:
    found = under([*CLEAN, *TYPOS], {("q0", "text/typos@2"): "noop", ("q1", "text/typos@2"): "reverted"})
    state = found.levels["text/typos@2"]
    assert state.n == 6
    assert state.noop_share == pytest.approx(1 / 6)


def test_a_failed_sample_is_counted_apart() -> None:
    rows = [*CLEAN, *FOG]
    original, accelerated = side(rows, "red"), side(rows, "blue")
    gone = accelerated[-1]
    accelerated[-1] = failed(
        gone.sample_id, perturbation=gone.perturbation, parent=gone.parent, cluster=gone.cluster,
        prompt_sha256=gone.prompt_sha256, image_sha256=gone.image_sha256,
    )  # fmt: skip
    found = under_perturbation(original, accelerated, kinds=KINDS, statuses={})
    assert (found.levels["image/fog@3"].n, found.levels["image/fog@3"].failed) == (3, 1)
    assert found.clean.failed == 0


def test_levels_of_another_suite_are_families_of_their_own() -> None:
    found = under([*CLEAN, ("q0", "blur-3", True)])
    assert found.modalities["blur-3"].n == 1
    assert found.severities == {}


def test_sides_that_were_asked_differently_are_refused() -> None:
    with pytest.raises(PairingError):
        under_perturbation(side(FOG, "red"), side(CLEAN, "red"), kinds=KINDS, statuses={})
