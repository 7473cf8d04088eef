from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from steadyvlm.errors import RunError
from steadyvlm.quota.profile import Concentration, concentration, profile_of, redundancy, summarise


def test_concentration_by_hand() -> None:
    mass = np.array([0.01] * 18 + [0.2, 0.1])
    found = concentration(mass)
    assert found.mass_top10pct == pytest.approx(0.3)
    assert found.mass_top10abs == pytest.approx(0.3 + 8 * 0.01)
    assert found.concentration_top10pct == pytest.approx(0.3 / 0.48)
    assert found.concentration_top10abs == pytest.approx(0.38 / 0.48)


def test_a_tenth_is_rounded_up_but_not_by_a_rounding_error() -> None:
    flat = np.full(30, 1 / 30)
    assert concentration(flat).mass_top10pct == pytest.approx(0.1)
    assert concentration(np.full(31, 1 / 31)).mass_top10pct == pytest.approx(4 / 31)
    assert concentration(np.full(4, 0.25)).mass_top10abs == pytest.approx(1)


def test_what_nobody_looks_at_is_not_concentrated() -> None:
    assert concentration(np.zeros(12)) == Concentration(0, 0, 0, 0)


@pytest.mark.parametrize("tokens", [2, 7, 36])
def test_redundancy_is_the_median_over_all_pairs(tokens: int) -> None:
    rows = np.random.default_rng(tokens).normal(size=(tokens, 5))
    cosines = [float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in itertools.combinations(rows, 2)]
    assert redundancy(rows) == pytest.approx(statistics.median(cosines), abs=1e-9)
    assert redundancy(rows.astype(np.float32)) == pytest.approx(statistics.median(cosines), abs=1e-5)


def test_many_tokens_are_sampled_the_same_way_every_time() -> None:
    rows = np.random.default_rng(0).normal(size=(1025, 6)) + 0.7
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    whole = float(np.median((unit @ unit.T)[np.triu_indices(1025, k=1)]))
    assert redundancy(rows) == redundancy(rows)
    assert redundancy(rows) == pytest.approx(whole, abs=0.01)
    assert redundancy(rows, seed=1) != redundancy(rows)
    assert redundancy(rows) != whole


def test_few_tokens_and_empty_ones() -> None:
    assert redundancy(np.ones((1, 3))) == 1
    assert redundancy(np.zeros((0, 3))) == 1
    assert redundancy(np.zeros((3, 3))) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RunError, match="float32"):
        concentration(np.array([0.1, value]))
    with pytest.raises(RunError, match="float32"):
        redundancy(np.array([[0.1, value], [1, 1]]))


def test_samples_are_summarised_by_median_and_range() -> None:
    rows = np.random.default_rng(1).random((9, 3))
    found = summarise(rows.tolist())
    assert found.median == pytest.approx(np.median(rows, axis=0))
    assert found.iqr == pytest.approx(np.percentile(rows, 75, axis=0) - np.percentile(rows, 25, axis=0))


def test_a_profile_puts_samples_together_layer_by_layer() -> None:
    samples = [[Concentration(0.1 * n, 0.2, 0.3, 0.4), Concentration(0.5, 0.6, 0.7, 0.8 * n)] for n in (1, 2, 3)]
    found = profile_of(samples, [[0.1, 0.9], [0.2, 0.8], [0.6, 0.7]], [36, 24, 30])
    assert found.concentration_top10pct.median == pytest.approx((0.2, 0.5))
    assert found.concentration_top10pct.iqr == pytest.approx((0.1, 0))
    assert found.concentration_top10abs.median == pytest.approx((0.2, 0.6))
    assert found.mass_top10pct.median == pytest.approx((0.3, 0.7))
    assert found.mass_top10abs.median == pytest.approx((0.4, 1.6))
    assert found.redundancy_median == (0.2, 0.8)
    assert (found.num_layers, found.samples, found.visual_tokens) == (2, 3, (24, 36))


def test_without_pictures_there_is_no_profile() -> None:
    with pytest.raises(RunError, match="pictures"):
        profile_of([], [], [])
