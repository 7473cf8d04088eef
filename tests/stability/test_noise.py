"""The noise floor by hand, and that it stays quiet when acceleration does nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stability.factory import failed, prediction
from steadyvlm.records import Prediction
from steadyvlm.stability.compare import compare
from steadyvlm.stability.intervals import newcombe_paired
from steadyvlm.stability.noise import noise_floor
from steadyvlm.stability.ratios import Outcomes


def run(answers: str) -> list[Prediction]:
    """One sample per letter; 'r' is right, any other letter is another wrong answer, '!' a failure."""
    return [
        failed(f"q{row:04d}", reference="r") if answer == "!" else prediction(f"q{row:04d}", answer, reference="r")
        for row, answer in enumerate(answers)
    ]


def test_noise_floor_by_hand() -> None:
    #         0 both changed, 1-2 accelerated only, 3 control only, 4.. nothing
    original = run("rrrrrrrrww")
    accelerated = run("abrrrrrrrx")  # 0, 1 broke; 8 mended; 9 other wrong
    control = run("arrcrrrrww")  # 0, 3 broke
    noise = compare(original, accelerated, control=control).noise
    assert noise is not None
    assert noise.n == 10
    assert noise.control_divergence_ratio.value == pytest.approx(0.2)
    assert noise.control_negative_divergence_ratio.value == pytest.approx(0.2)
    assert noise.excess_divergence_ratio.value == pytest.approx(0.4 - 0.2)
    assert noise.excess_negative_divergence_ratio.value == pytest.approx(0.0)
    assert (noise.divergence_test.first_only, noise.divergence_test.second_only) == (3, 1)
    assert (noise.negative_test.first_only, noise.negative_test.second_only) == (1, 1)
    assert noise.attributable_share == pytest.approx(0.5)
    assert noise.changed_in_both == 1
    # stable core: right and unchanged in the control = samples 1, 2, 4, 5, 6, 7; the accelerated run breaks 1
    assert (noise.stable_core.numerator, noise.stable_core.denominator) == (1, 6)
    expected = newcombe_paired(1, 3, 1, 5)
    found = noise.excess_divergence_ratio
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_more_controls_sharpen_the_stable_core_only() -> None:
    original, accelerated = run("rrrr"), run("aarr")
    one = compare(original, accelerated, control=run("rrrr")).noise
    two = compare(original, accelerated, control=run("rrrr"), further_controls=[run("rbrr")]).noise
    assert one is not None
    assert two is not None
    assert (one.stable_core.numerator, one.stable_core.denominator, one.n_controls) == (2, 4, 1)
    assert (two.stable_core.numerator, two.stable_core.denominator, two.n_controls) == (1, 3, 2)
    assert two.excess_divergence_ratio == one.excess_divergence_ratio


def test_an_answer_that_wandered_to_another_right_one_is_not_stable() -> None:
    original, accelerated = [prediction("q1"), prediction("q2")], [prediction("q1", "blue"), prediction("q2")]
    wandering = [prediction("q1", "crimson", 1.0), prediction("q2")]
    noise = compare(original, accelerated, control=wandering).noise
    assert noise is not None
    assert (noise.stable_core.numerator, noise.stable_core.denominator) == (0, 1)


def test_the_clusters_of_the_noise_are_those_of_its_samples() -> None:
    # the control failed on images a and b, so only the four samples of image c remain
    original, accelerated, control = (
        [dataclasses.replace(item, cluster="abcccc"[row]) for row, item in enumerate(run(answers))]
        for answers in ("rrrrrr", "rrxxrr", "!!rrrr")
    )
    noise = compare(original, accelerated, control=control).noise
    assert noise is not None
    assert (noise.n, noise.n_clusters) == (4, 1)
    assert noise.excess_divergence_ratio.n_clusters == 1
    assert noise.excess_divergence_ratio.method == "newcombe-10, n_eff"


def test_no_change_has_no_attributable_share() -> None:
    noise = compare(run("rr"), run("rr"), control=run("ra")).noise
    assert noise is not None
    assert noise.attributable_share is None
    assert noise.excess_divergence_ratio.value == pytest.approx(-0.5)


def test_a_control_that_changed_more_gives_a_negative_share() -> None:
    noise = compare(run("rrr"), run("arr"), control=run("rab")).noise
    assert noise is not None
    assert noise.attributable_share == pytest.approx(-1.0)


def test_samples_the_control_failed_are_left_out_of_the_noise_only() -> None:
    found = compare(run("rrrr"), run("abrr"), control=run("!rrr"))
    assert found.n == 4
    assert found.divergence_ratio.numerator == 2
    assert found.noise is not None
    assert found.noise.n == 3
    assert found.noise.divergence_test.first_only == 1
    assert found.failures.control == 1
    assert found.failures.samples == 0
    assert [(item.key[1], dict(item.reasons)) for item in found.failed] == [
        ("q0000", {"control": "ImageError: cannot read it"})
    ]
    assert {flip.key[1]: flip.fragile for flip in found.flips} == {"q0000": None, "q0001": False}


def test_without_a_single_controlled_sample_the_noise_is_undefined() -> None:
    noise = compare(run("rr"), run("ra"), control=run("!!")).noise
    assert noise is not None
    assert (noise.n, noise.n_clusters) == (0, 0)
    assert not noise.control_divergence_ratio.defined
    assert not noise.excess_divergence_ratio.defined
    assert noise.attributable_share is None


def test_another_run_of_the_same_model_is_rarely_blamed() -> None:
    # If the accelerated run is only one more draw of the original, the exact test must stay within its level.
    generator, codes = np.random.default_rng(7), np.arange(400)
    unused = np.zeros(400, dtype=bool)

    def against(original: np.ndarray, other: np.ndarray) -> Outcomes:
        changed = original != other
        scores = (original == 0).astype(float), (other == 0).astype(float)
        return Outcomes(changed, changed, *scores, original == 0, other == 0, unused, unused)

    blamed = missed = 0
    for _ in range(400):
        original, accelerated, control = (generator.random((3, 400)) < 0.08).astype(int)  # answer 0 is right
        noise = noise_floor(against(original, accelerated), [against(original, control)], codes)
        blamed += noise.divergence_test.p_two_sided <= 0.05
        missed += not noise.excess_divergence_ratio.low <= 0 <= noise.excess_divergence_ratio.high
    allowed = 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    assert blamed / 400 <= allowed
    assert missed / 400 <= allowed
